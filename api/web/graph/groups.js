// The communities of the features that are shown, and their colours. A community keeps its colour as long as the page is open.

import { element, styled } from "../dom.js";
import { read } from "../http.js";
import { address } from "../route.js";
import { COLORS } from "./paint.js";

const AT_ONCE = 4;
const given = new Map(); // community → colour, in the order in which they were first seen

export class Groups {
  constructor() {
    this.of = new Map(); // feature → community or null
    this.absent = false; // a server without communities
  }

  forget() {
    this.of.clear();
    this.absent = false;
  }

  // Colour by community of those that have at least two nodes here.
  colors(model) {
    const sizes = new Map();
    for (const node of model.nodes.values()) {
      if (node.community === undefined) node.community = this.of.get(node.feature);
      if (node.community) sizes.set(node.community, (sizes.get(node.community) ?? 0) + 1);
    }
    for (const [name] of [...sizes].filter(([, size]) => size > 1).sort((a, b) => b[1] - a[1])) {
      if (!given.has(name)) given.set(name, given.size % COLORS);
    }
    return new Map([...given].filter(([name]) => (sizes.get(name) ?? 0) > 1));
  }

  // Asks for the communities of nodes that are not known, a few at a time; `learned` is called as they come.
  async learn(model, learned) {
    const open = [...model.nodes.values()].filter((node) => node.community === undefined && !this.of.has(node.feature)).map((node) => node.feature);
    for (let at = 0; at < open.length && !this.absent; at += AT_ONCE) {
      await Promise.all(
        open.slice(at, at + AT_ONCE).map(async (feature) => {
          try {
            const { community } = await read(`/v1/communities/of?feature=${feature}`);
            this.of.set(feature, community?.id ?? null);
          } catch {
            this.absent = true; // the graph is shown without colours
          }
        }),
      );
      if (at % (4 * AT_ONCE) === 0 || at + AT_ONCE >= open.length) learned();
    }
  }

  legend(model) {
    const colors = this.colors(model);
    return [...colors].map(([name, color]) =>
      element("a", { class: "chip", href: address({ view: "graph", start: `community:${name}` }) }, styled(element("i", { class: "dot" }), { background: `var(--c${color})` }), name),
    );
  }
}
