// What a graph starts from and how it is made.

import { choice, element, number, refill } from "../dom.js";
import { BOUNDED, isFeature, MEASURES, plural } from "../format.js";
import { recent } from "../http.js";
import { counted, KINDS, RANKS } from "./build.js";

const SUGGESTED = 20;
const HINTS = { feature: "3:17", community: "c1", gate: "4:99", lineage: "3:17" };
const TOLD = {
  top: "how many pairs",
  prompt: "the most active features of each layer",
  feature: "neighbours of a feature in each direction",
};
const FRESH = { k: null, expand: null, select: null, at: null, token: null, prompt: null };

export function bar(change) {
  const list = element("datalist", { id: "starts" });
  const start = element("form", { class: "controls start-form" });
  const settings = element("div", { class: "controls" });
  const more = element("details", { class: "settings" }, element("summary", {}, "Measure and limits"), settings);
  more.open = !matchMedia("(max-width: 44rem)").matches;
  const place = element("div", { class: "graph-bar", "data-tool": true }, start, more, list);
  let kind = null;

  const begin = (wanted) => {
    const of = element("input", {
      "aria-label": "start",
      placeholder: HINTS[kind] ?? "",
      list: "starts",
      autocomplete: "off",
      spellcheck: "false",
      size: 9,
    });
    of.value = wanted.kind === kind ? wanted.of : "";
    const pick = choice("start from", KINDS, kind, (value) => {
      kind = value;
      begin(wanted);
      if (kind === "top") change({ ...FRESH, start: null });
      else if (kind === "prompt") change({ ...FRESH, start: "prompt" });
      else start.querySelector("input").focus();
    });
    const named = kind !== "top" && kind !== "prompt";
    refill(start, pick, named ? [of, element("button", { class: "primary" }, "Show")] : null);
    start.onsubmit = (event) => {
      event.preventDefault();
      const value = of.value.trim().replace(/\s/g, "");
      of.setCustomValidity(kind === "community" || isFeature(value) ? "" : "write layer:index, for example 3:17");
      if (of.reportValidity() && value) change({ ...FRESH, start: `${kind}:${value}` });
    };
    of.addEventListener("input", () => of.setCustomValidity(""));
    if (named) suggest(kind, list);
  };

  const show = (wanted) => {
    if (kind !== wanted.kind || !start.contains(document.activeElement)) {
      kind = wanted.kind;
      begin(wanted);
    }
    const [name, , most] = counted(wanted.kind);
    const ranked = BOUNDED.includes(wanted.measure) ? RANKS : RANKS.slice(1);
    refill(
      settings,
      choice("measure", MEASURES, wanted.measure, (value) =>
        change({ measure: value === "jaccard" ? null : value, rank: null, least: null, at: null }),
      ),
      number(name, wanted.k, { min: 1, max: most, step: 1, title: TOLD[wanted.kind] ?? TOLD.feature }, (value) =>
        change({ k: value }),
      ),
      wanted.kind === "feature"
        ? number("hops", wanted.hops, { min: 1, max: 4, step: 1, title: "how far from the feature it starts from" }, (value) =>
            change({ hops: value }),
          )
        : null,
      number("at least", wanted.least, { step: "any", title: "smallest value of the measure" }, (value) =>
        change({ least: value }),
      ),
      number(
        "joint tokens",
        wanted.support,
        { min: 1, step: 1, placeholder: "10", title: "tokens on which both are active, at least" },
        (value) => change({ support: value }),
      ),
      choice("rank by", ranked, wanted.rank, (value) => change({ rank: value === "lower" ? null : value })),
    );
  };
  return { place, show };
}

// Good places to start from, offered while one types.
async function suggest(kind, list) {
  list.replaceChildren();
  const options = (items) => list.replaceChildren(...items.map(([value, label]) => element("option", { value, label })));
  try {
    if (kind === "community") {
      const { items } = await recent(`/v1/communities?sort=stability&limit=${SUGGESTED}`, 60);
      options(items.map((one) => [one.id, `${plural(one.size, "feature")}, layers ${one.span.first} to ${one.span.last}`]));
    } else if (kind === "gate") {
      const { items } = await recent(`/v1/gates?sort=gain&limit=${SUGGESTED}`, 60);
      options(items.map((one) => [one.child, `${one.kind} of ${one.parents.map((parent) => parent.feature).join(", ")}`]));
    } else if (kind === "lineage") {
      const { items } = await recent(`/v1/lineages?limit=${SUGGESTED}`, 60);
      options(items.map((one) => [one.features[0].feature, `layers ${one.birth} to ${one.death}`]));
    }
  } catch {
    // suggestions are a help; without them one types
  }
}
