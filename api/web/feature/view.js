// The feature view: one feature on the whole page.

import { choice, element, empty, refill, section } from "../dom.js";
import { BOUNDED, isFeature, known, MEASURES, pathOf } from "../format.js";
import { read } from "../http.js";
import { featureLink, go, parse } from "../route.js";
import { isEmpty, run } from "../run.js";
import { panel } from "./panel.js";
import { starts } from "./starts.js";

const RANKS = [
  ["lower", "lower bound"],
  ["estimate", "estimate"],
];

export function open(root, parameters) {
  const controls = element("div", { class: "controls tools", "data-tool": true });
  const place = element("div");
  root.append(controls, place);
  let measure = "jaccard";
  let shown = null;
  const links = (feature) => featureLink(feature, measure);

  const update = (given) => {
    measure = known(MEASURES, given.measure, "jaccard");
    const rank = BOUNDED.includes(measure) ? known(RANKS, given.rank, "lower") : "estimate";
    const change = (changed) => go({ ...parse(), ...changed });
    refill(
      controls,
      choice("neighbours by", MEASURES, measure, (value) => change({ measure: value === "jaccard" ? null : value, rank: null })),
      choice("ranked by", BOUNDED.includes(measure) ? RANKS : RANKS.slice(1), rank, (value) =>
        change({ rank: value === "lower" ? null : value }),
      ),
      element("button", { type: "button", onclick: (event) => anyFeature(event.target, place) }, "Any feature that fires"),
    );
    const feature = (given.feature ?? "").replace(/\s/g, "");
    if (isFeature(feature)) {
      shown ??= panel(place, links);
      shown.show(feature, measure, rank === "lower" ? null : rank);
      return;
    }
    shown?.close();
    shown = null;
    place.replaceChildren(hint(feature));
  };
  update(parameters);
  return {
    update,
    moved: () => (shown ? shown.moved() : isEmpty() && place.replaceChildren(hint(""))),
    close: () => shown?.close(),
    tables: () => shown?.tables() ?? [],
  };
}

function hint(feature) {
  if (feature) return section("No such feature", {}, empty(`“${feature}” is no feature: write layer:index, for example 3:17.`));
  if (isEmpty())
    return section(
      "Nothing has been counted yet",
      {},
      empty("Send some text first, on the ", element("a", { href: "/" }, "overview"), "; features appear here while it is read."),
    );
  const asks = section(
    "Which feature?",
    {},
    empty("Write layer:index into the field above, for example 3:17, or a word that it fires on. Or begin with one of these."),
  );
  return element("div", {}, asks, starts());
}

async function anyFeature(button, place) {
  button.disabled = true;
  try {
    const { layers } = run.status ?? (await read("/v1/status"));
    let picked = null;
    for (let attempt = 0; attempt < 20; attempt += 1) {
      const layer = layers[Math.floor(Math.random() * layers.length)];
      picked = `${layer.layer}:${Math.floor(Math.random() * layer.features)}`;
      if ((await read(pathOf(picked))).count > 0) break;
    }
    go({ ...parse(), view: "feature", feature: picked });
  } catch (error) {
    place.prepend(empty(error.message));
  } finally {
    button.disabled = false;
  }
}
