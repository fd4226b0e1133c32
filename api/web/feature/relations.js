// What else a feature has to do with others: what it specialises into, and what of it hides in the next layer's SAE error.

import { intervalBar } from "../bars.js";
import { element } from "../dom.js";
import { count, estimate, pathOf, share } from "../format.js";
import { read, recent } from "../http.js";

const SECONDS = 60;

export function relations(links) {
  const list = element("ul", { class: "relations" });
  const place = element("section", { class: "part", "aria-label": "Relations" }, element("h2", {}, "Relations"), list);
  place.hidden = true;
  let turn = 0;
  const load = async ({ feature }, signal) => {
    const mine = ++turn;
    place.hidden = true;
    const [record, found] = await Promise.allSettled([
      read(pathOf(feature), signal),
      recent("/v1/specializations?limit=1000", SECONDS),
    ]);
    if (mine !== turn) return;
    const items = [];
    if (record.status === "fulfilled") items.push(...record.value.hidden.map(hidden));
    if (found.status === "fulfilled") {
      const all = found.value.items;
      items.push(
        ...all
          .filter((one) => one.parent === feature)
          .slice(0, 3)
          .map((one) => parent(one, links)),
      );
      items.push(
        ...all
          .filter((one) => one.children.some((child) => child.feature === feature))
          .slice(0, 3)
          .map((one) => child(one, feature, links)),
      );
    }
    list.replaceChildren(...items);
    place.hidden = !items.length;
  };
  return { place, load };
}

function hidden(one) {
  const head = element("b", {}, `In the error of layer ${one.layer}'s SAE`);
  if (one.error_share === null) return element("li", {}, head, element("span", { class: "quiet" }, ` not known: ${one.reason}`));
  const chance = Math.max(one.baseline.random, one.baseline.decoder);
  return element(
    "li",
    {},
    head,
    ` ${share(one.error_share)} of what it wrote, by chance ${share(chance)}`,
    intervalBar({ ...one, estimate: one.error_share }, [0, Math.max(1, one.upper ?? one.error_share)], "share in the error", share),
  );
}

const link = (feature, links) => element("a", { href: links(feature) }, feature);
const certainty = { exact: "counted", shown: "certain", bounded: "a candidate: its children may overlap" };

function parent(one, links) {
  const children = one.children.flatMap((child, at) => [
    at ? ", " : " ",
    link(child.feature, links),
    ` (${share(child.share)} of it, necessity ${estimate(child.necessity)})`,
  ]);
  return element(
    "li",
    {},
    element("b", {}, `Specialises in layer ${one.children_layer} into`),
    ...children,
    element("span", { class: "quiet" }, ` · ${certainty[one.conditions.exclusive]}`),
  );
}

function child(one, feature, links) {
  const own = one.children.find((each) => each.feature === feature);
  return element(
    "li",
    {},
    element("b", {}, "A specialisation of"),
    " ",
    link(one.parent, links),
    `: ${share(own.share)} of its ${count(one.count)} tokens`,
    element("span", { class: "quiet" }, ` · ${certainty[one.conditions.exclusive]}`),
  );
}
