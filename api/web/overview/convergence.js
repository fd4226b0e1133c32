// How the statistics settle over the tokens counted, a line per layer pair.

import { depth, lines, responsive } from "../charts.js";
import { choice, element, empty, refill, section } from "../dom.js";
import { count, estimate, known, share } from "../format.js";
import { read } from "../http.js";
import { go, parse } from "../route.js";
import { run } from "../run.js";

const HEIGHT = 280;
const LEAST_MS = 4_000; // between two reads of the series

const CURVES = [
  [
    "split_half_rbo",
    "agreement of the two halves",
    share,
    "How well the nearest neighbours from one half of the documents agree with those from the other (RBO; 100 %: the same lists).",
  ],
  ["interval_share", "pairs with an interval", share, "Watched pairs that have an interval of 95 % by now."],
  ["median_width", "width of the intervals", estimate, "The median width of the intervals of Jaccard."],
  [
    "unseen_mass",
    "unseen pairs",
    share,
    "The chance that the next joint activation is of a pair that was never active together before.",
  ],
  [
    "list_change",
    "change of the lists",
    estimate,
    "1 − RBO of the lists of neighbours against the point before: small long before the lists are right.",
  ],
  ["dead", "dead features", count, "Features that have never fired, by layer."],
];
const NAMES = CURVES.map(([key, name]) => [key, name]);

export function convergence(parameters) {
  const chart = element("div", { class: "curves" }, empty("Reading the curves …"));
  const told = element("p", { class: "note" });
  const controls = element("div", { class: "controls", "data-tool": true });
  const place = section("Convergence", { class: "wide", aside: controls }, chart, told);
  let curve = null;
  let answer = null;
  let seen = null;
  let at = -Infinity;
  let redraw = null;

  const load = async () => {
    if (run.snapshot && seen === run.snapshot.version) return;
    if (performance.now() - at < LEAST_MS) return;
    at = performance.now();
    try {
      answer = await read("/v1/convergence");
      seen = answer.snapshot.version;
      draw();
    } catch (error) {
      if (!answer) chart.replaceChildren(empty(error.message));
    }
  };
  const draw = () => {
    if (!answer) return;
    if (!redraw) redraw = responsive(chart, (width) => curves(answer, curve, width));
    else redraw();
    const needed = answer.points.at(-1)?.tokens_needed.filter((value) => value !== null) ?? [];
    const [, , , sentence] = CURVES.find(([key]) => key === curve);
    const left = needed.some((value) => value > 0)
      ? ` About ${count(Math.max(...needed))} more tokens until the median pair of every layer pair is known to ±0.05.`
      : "";
    told.textContent = sentence + left;
  };
  const update = (given) => {
    curve = known(NAMES, given.curve, "split_half_rbo");
    refill(
      controls,
      choice("show", NAMES, curve, (value) => go({ ...parse(), curve: value === "split_half_rbo" ? null : value })),
    );
    draw();
  };
  update(parameters);
  return { place, update, moved: load, tables: () => (answer ? [table(answer)] : []) };
}

function curves(answer, curve, width) {
  const [, told, format] = CURVES.find(([key]) => key === curve);
  const ofLayers = curve === "dead";
  const names = ofLayers
    ? answer.points[0]?.dead.map((_, layer) => `layer ${layer}`)
    : answer.pairs.map(([up, down]) => `${up} → ${down}`);
  const series = (names ?? []).map((name, at) => ({
    name,
    color: depth(at, names.length),
    points: answer.points.map((point) => [point.tokens, point[curve][at]]),
  }));
  const of = ["split_half_rbo", "interval_share"].includes(curve) ? 1 : null;
  return lines({
    width,
    height: HEIGHT,
    series,
    format,
    of,
    label: `${told} over the tokens counted, by ${ofLayers ? "layer" : "layer pair"}`,
  });
}

function table(answer) {
  const columns = [
    "split_half_rbo",
    "list_change",
    "unseen_mass",
    "interval_share",
    "median_width",
    "tokens_needed",
    "watched",
    "pairs_seen",
  ];
  return {
    name: "Convergence",
    columns: ["tokens", "up", "down", ...columns],
    rows: answer.points.flatMap((point) =>
      answer.pairs.map(([up, down], at) => [point.tokens, up, down, ...columns.map((name) => point[name][at])]),
    ),
  };
}
