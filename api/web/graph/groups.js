// The communities of the features that are shown, and their colours. A community keeps its colour as long as the page is open.

import { element, styled } from "../dom.js";
import { read } from "../http.js";
import { address } from "../route.js";
import { COLORS } from "./paint.js";

const given = new Map(); // community → the colour that it had last

export class Groups {
  constructor() {
    this.of = new Map(); // feature → community or null
    this.others = 0; // communities without a colour of their own
  }

  forget() {
    this.of.clear();
  }

  // Colour by community: the largest ones here have one each, those that were coloured before keep theirs where they can.
  colors(model) {
    const sizes = new Map();
    for (const node of model.nodes.values()) {
      if (node.community === undefined) node.community = this.of.get(node.feature);
      if (node.community) sizes.set(node.community, (sizes.get(node.community) ?? 0) + 1);
    }
    const several = [...sizes]
      .filter(([, size]) => size > 1)
      .sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0], "en", { numeric: true }));
    const shown = several.slice(0, COLORS).map(([name]) => name);
    const taken = new Map();
    for (const name of shown)
      if (given.has(name) && ![...taken.values()].includes(given.get(name))) taken.set(name, given.get(name));
    for (const name of shown) {
      if (taken.has(name)) continue;
      const used = new Set(taken.values());
      taken.set(
        name,
        Array.from({ length: COLORS }, (_, at) => at).find((color) => !used.has(color)),
      );
    }
    for (const [name, color] of taken) given.set(name, color);
    this.others = several.length - shown.length;
    return new Map(shown.map((name) => [name, taken.get(name)]));
  }

  // Asks for the communities of nodes that are not known yet; `learned` is called when they are.
  async learn(model, learned) {
    const open = [...model.nodes.values()]
      .filter((node) => node.community === undefined && !this.of.has(node.feature))
      .map((node) => node.feature);
    if (!open.length) return;
    try {
      const { features } = await read(`/v1/communities/of?feature=${open.join(",")}`);
      for (const feature of open) this.of.set(feature, features[feature] ?? null);
      learned();
    } catch {
      // the graph is shown without colours; the next one asks again
    }
  }

  legend(model) {
    const colors = this.colors(model);
    const chip = ([name, color]) =>
      element(
        "a",
        { class: "chip", href: address({ view: "graph", start: `community:${name}` }) },
        styled(element("i", { class: "dot" }), { background: `var(--c${color})` }),
        name,
      );
    const rest = this.others ? element("span", { class: "chip" }, element("i", { class: "dot" }), `${this.others} more`) : null;
    return [...[...colors].map(chip), rest];
  }
}
