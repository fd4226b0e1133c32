// Features that are worth a first look.

import { element, empty, section } from "../dom.js";
import { estimate, plural, share } from "../format.js";
import { recent } from "../http.js";
import { featureLink } from "../route.js";
import { formula, KIND_NAMES } from "./gates.js";

const SHOWN = 6;
const SECONDS = 30;

export function starts() {
  return element(
    "div",
    { class: "starts" },
    list("Gates that gain most", `/v1/gates?verdict=gate&sort=gain&limit=${SHOWN}`, (one) => [
      one.child,
      `${KIND_NAMES[one.kind]}: ${formula(one)}`,
      `gain ${estimate(one.gain.estimate)}`,
    ]),
    list("Longest lineages", `/v1/lineages?limit=${SHOWN}`, (one) => [
      one.features[Math.floor(one.length / 2)].feature,
      `layers ${one.birth} to ${one.death}`,
      `weakest link ${estimate(one.weakest.estimate)}`,
    ]),
    list("Features shared out among others", `/v1/specializations?limit=${SHOWN}`, (one) => [
      one.parent,
      `into ${plural(one.children.length, "feature")} of layer ${one.children_layer}`,
      `cover ${share(one.conditions.coverage.lower)}`,
    ]),
  );
}

function list(title, path, row) {
  const items = element("ul", {}, element("li", {}, empty("Reading …")));
  recent(path, SECONDS).then(
    (answer) =>
      items.replaceChildren(
        ...(answer.items.length ? answer.items.map((one) => line(row(one))) : [element("li", {}, empty("None yet."))]),
      ),
    (error) => items.replaceChildren(element("li", {}, empty(error.message))),
  );
  return section(title, {}, items);
}

const line = ([feature, what, value]) =>
  element(
    "li",
    {},
    element("a", { href: featureLink(feature) }, feature),
    element("span", {}, what),
    element("span", { class: "quiet" }, value),
  );
