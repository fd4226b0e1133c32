// The nearest features one step earlier and later, with what is certain about each.

import { intervalBar, scaleOf } from "../bars.js";
import { element, empty } from "../dom.js";
import { count, estimate, layerOf, measureName, OPEN_ENDED, pathOf, share } from "../format.js";
import { query, read } from "../http.js";
import { described } from "../run.js";

const SHOWN = 8;

export function neighbors(links) {
  const both = element("div", { class: "both" });
  const place = element("section", { class: "part", "aria-label": "Neighbours" }, both);
  let answers = [];
  let turn = 0;
  const load = async ({ feature, measure, rank }, signal) => {
    const mine = ++turn;
    const layer = layerOf(feature);
    const { pairs } = await described();
    const one = (direction, side) => {
      if (!pairs.some((pair) => pair[side] === layer)) return null;
      return read(`${pathOf(feature)}/neighbors?${query({ direction, measure, k: SHOWN, rank })}`, signal);
    };
    const [up, down] = await Promise.all([one("upstream", 1), one("downstream", 0)]).catch((error) => {
      if (error.name === "AbortError" || error.status === 404) throw error;
      both.replaceChildren(empty(error.message));
      return [undefined, undefined];
    });
    if (up === undefined || mine !== turn) return;
    answers = [up, down].filter(Boolean);
    const scale = scaleOf(
      answers.flatMap((answer) => answer.neighbors),
      OPEN_ENDED.includes(measure),
    );
    both.replaceChildren(list("Earlier layers", up, measure, scale, links), list("Later layers", down, measure, scale, links));
  };
  return { place, load, tables: () => answers.map(table) };
}

function list(title, answer, measure, scale, links) {
  const heading = element("h2", {}, title);
  if (!answer) return element("div", {}, heading, empty("Its layer has no pair there."));
  if (!answer.neighbors.length)
    return element("div", {}, heading, empty(`None active together on ${answer.min_support} tokens yet.`));
  const certain = answer.certified_k ?? 0;
  const rows = answer.neighbors.map((neighbor, at) =>
    element(
      "li",
      {},
      element("a", { href: links(neighbor.feature), "data-feature": neighbor.feature }, neighbor.feature),
      intervalBar(neighbor, scale, measureName(measure)),
      element("span", { class: "value" }, estimate(neighbor.estimate)),
      element("span", { class: "support", title: "tokens on which both are active" }, jointCount(neighbor.counts)),
      at < certain
        ? element(
            "span",
            { class: "certain", title: "no other feature can overtake it (95 %)" },
            "✓",
            element("span", { class: "unseen" }, " certain"),
          )
        : element("span"),
    ),
  );
  const standing = certain
    ? `${certain === answer.neighbors.length ? "all" : `first ${certain}`} certain`
    : (answer.certified_reason ?? "none certain yet");
  const halves = answer.split_half_rbo === null ? "" : ` · halves agree to ${share(answer.split_half_rbo)}`;
  const [low, high] = scale;
  const ruler = element(
    "div",
    { class: "ruler", "aria-hidden": "true" },
    element("span"),
    element(
      "span",
      { class: "ends-of" },
      element("i", {}, estimateEnd(low)),
      element("i", {}, measureName(measure)),
      element("i", {}, estimateEnd(high)),
    ),
    element("span"),
    element("span", {}, "both"),
    element("span"),
  );
  return element(
    "div",
    {},
    heading,
    ruler,
    element("ol", { class: "neighbors" }, ...rows),
    element("p", { class: "note" }, `${standing}${halves}`),
  );
}

const estimateEnd = (value) => String(Number(value.toPrecision(3))).replace("-", "−");

function table(answer) {
  return {
    name: answer.direction === "upstream" ? "Earlier neighbours" : "Later neighbours",
    columns: [
      "feature",
      "neighbor",
      "measure",
      "estimate",
      "lower",
      "upper",
      "status",
      "count",
      "neighbor_count",
      "joint",
      "tokens",
    ],
    rows: answer.neighbors.map((one) => {
      const [own, its] = answer.direction === "downstream" ? [one.counts.up, one.counts.down] : [one.counts.down, one.counts.up];
      return [
        answer.feature,
        one.feature,
        answer.measure,
        one.estimate,
        one.lower,
        one.upper,
        one.status,
        own,
        its,
        one.counts.joint,
        answer.tokens,
      ];
    }),
  };
}

// A bounded table may lack some: "1,234 (+5)".
function jointCount(counts) {
  return counts.count_error ? `${count(counts.joint)} (+${count(counts.count_error)})` : count(counts.joint);
}
