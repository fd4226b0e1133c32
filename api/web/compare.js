// Compare: features, or pairs of features, that differ between two corpora, with the interval of each difference.

import { responsive } from "./charts.js";
import { choice, element, fill, refill, section, svg } from "./dom.js";
import { BOUNDED, count, estimate, measureName, MEASURES, share } from "./format.js";
import { query, read } from "./http.js";
import { featureLink, go, parse } from "./route.js";
import { isEmpty, run } from "./run.js";

const PAGE = 20;
const WHAT = [
  ["features", "features"],
  ["edges", "pairs of features"],
];

export function open(root, parameters) {
  const controls = element("div", { class: "controls", "data-tool": true });
  const head = element("p", { class: "found", role: "status" });
  const list = element("ol", { class: "differences" });
  const more = element("div", { class: "more", "data-tool": true });
  const place = section("Two corpora side by side", { class: "compared" }, controls, head, list, more);
  root.append(place);
  let [key, turn, answers, wanted] = [null, 0, [], null];

  const update = (given) => {
    const byTokens = (one, other) => other.tokens_counted - one.tokens_counted;
    const names = [...(run.corpora ?? [])].sort(byTokens).map((one) => one.name);
    if (!run.corpora || !run.status) return fill(head, "Reading the corpora …");
    if (names.length < 2) {
      fill(controls);
      fill(list);
      fill(more);
      const send = element("a", { href: "/" }, "overview");
      return fill(
        head,
        ...(isEmpty()
          ? ["Nothing has been counted yet. Send text of two corpora first, on the ", send, "."]
          : [`There is one corpus, ${names[0]}. Send another one on the `, send, ", under another name, to compare the two."]),
      );
    }
    wanted = settings(given, names);
    show(controls, wanted, names);
    const next = JSON.stringify(wanted);
    if (next === key) return;
    key = next;
    answers = [];
    turn += 1;
    fill(list);
    fill(more);
    fill(head, "Comparing …");
    page(null, turn).catch(refused);
  };
  const refused = (error) => {
    key = null;
    fill(head, error.message);
  };
  const page = async (cursor, mine) => {
    const { a, b, what, layer, pair, measure } = wanted;
    const path =
      what === "features"
        ? `/v1/compare?${query({ a, b, layer, limit: PAGE, cursor })}`
        : `/v1/compare/edges?${query({ a, b, up: pair[0], down: pair[1], measure, limit: PAGE, cursor })}`;
    const answer = await read(path);
    if (mine !== turn) return;
    answers.push(answer);
    fill(head, ...sentence(answer, wanted));
    const items = answers.flatMap((one) => one.items);
    const values = items
      .flatMap((one) => [one.a, one.b].flatMap((side) => [side.estimate, side.upper]))
      .filter((value) => value !== null);
    const low = Math.min(0, ...items.flatMap((one) => [one.a.lower ?? 0, one.b.lower ?? 0]));
    const scale = [low, Math.max(...values, 1e-6)];
    fill(
      list,
      legend(wanted, scale),
      items.map((one) => row(one, wanted, scale)),
    );
    fill(
      more,
      answer.next ? element("button", { type: "button", onclick: () => page(answer.next, mine).catch(refused) }, "More") : null,
    );
  };
  update(parameters);
  return {
    update,
    moved: () => key === null && update(parse()),
    tables: () => (answers.length ? [table(answers, wanted)] : []),
    close: () => (turn += 1),
  };
}

function settings(given, names) {
  const a = names.includes(given.a) ? given.a : names[0];
  const b = names.includes(given.b) && given.b !== a ? given.b : names.find((name) => name !== a);
  const pairs = run.status.pairs;
  const pair = pairs.find((one) => one.join("-") === given.pair) ?? pairs[0];
  const layers = run.status.layers.map((layer) => String(layer.layer));
  return {
    a,
    b,
    what: given.what === "edges" ? "edges" : "features",
    layer: layers.includes(given.layer) ? given.layer : null,
    pair,
    measure: BOUNDED.includes(given.measure) ? given.measure : "jaccard",
  };
}

function show(controls, wanted, names) {
  const change = (changed) => go({ ...parse(), ...changed });
  const corpora = names.map((name) => [name, name]);
  const layers = [["", "all"], ...run.status.layers.map((layer) => [String(layer.layer), String(layer.layer)])];
  const pairs = run.status.pairs.map((pair) => [pair.join("-"), pair.join(" → ")]);
  refill(
    controls,
    choice("first", corpora, wanted.a, (a) => change({ a, b: a === wanted.b ? wanted.a : wanted.b })),
    choice("second", corpora, wanted.b, (b) => change({ b, a: b === wanted.a ? wanted.b : wanted.a })),
    choice("what", WHAT, wanted.what, (what) => change({ what: what === "features" ? null : what })),
    wanted.what === "features"
      ? choice("layer", layers, wanted.layer ?? "", (layer) => change({ layer }))
      : [
          choice("layers", pairs, wanted.pair.join("-"), (pair) => change({ pair })),
          choice(
            "measure",
            MEASURES.filter(([of]) => BOUNDED.includes(of)),
            wanted.measure,
            (measure) => change({ measure }),
          ),
        ],
  );
}

function sentence(answer, { what, measure }) {
  const of = what === "features" ? `${count(answer.family)} features` : `${count(answer.family)} watched pairs`;
  const by = what === "features" ? "densities" : measureName(measure);
  const sides = `${answer.a.name}: ${count(answer.a.tokens)} tokens, ${answer.b.name}: ${count(answer.b.tokens)}.`;
  return [
    element("b", {}, `${count(answer.different)} of ${of} differ for certain`),
    ` (${by}; all intervals hold together at ${share(1 - answer.alpha)}). ${sides}`,
  ];
}

function legend({ a, b, what }, [low, high]) {
  const format = what === "features" ? share : estimate;
  const side = (name, text) => element("span", {}, element("i", { class: name }), text);
  const scale = element(
    "span",
    { class: "scale" },
    element("span", {}, format(low)),
    side("side-a", a),
    side("side-b", b),
    element("span", {}, format(high)),
  );
  return element(
    "li",
    { class: "key", "aria-hidden": "true" },
    element("span"),
    scale,
    element("span", { class: "end" }, "difference"),
  );
}

function row(one, { what, a, b, measure }, scale) {
  const format = what === "features" ? share : estimate;
  const name =
    what === "features"
      ? [element("a", { href: featureLink(one.feature) }, one.feature)]
      : [
          element("a", { href: featureLink(one.up, measure) }, one.up),
          " → ",
          element("a", { href: featureLink(one.down, measure) }, one.down),
        ];
  const { difference } = one;
  const bounds =
    difference.lower === null ? "no interval yet" : `${signed(difference.lower, format)} to ${signed(difference.upper, format)}`;
  const certain = difference.lower !== null && difference.lower * difference.upper > 0;
  const drawing = element("div", { class: "pairing" });
  responsive(drawing, (width) => dumbbell(one, scale, width, `${a} ${format(one.a.estimate)}, ${b} ${format(one.b.estimate)}`));
  return element(
    "li",
    { class: certain ? null : "unsure" },
    element("span", { class: "id" }, ...name),
    drawing,
    element(
      "span",
      { class: "end" },
      element("b", {}, signed(difference.estimate, format)),
      element("small", { class: "quiet", title: difference.reason }, bounds),
    ),
  );
}

const signed = (value, format) => (value === null ? "–" : value > 0 ? `+${format(value)}` : format(value));

// Both values with their intervals on one line each, so that what does not overlap is seen at once.
function dumbbell(one, [low, high], width, label) {
  const x = (value) => 4 + ((width - 8) * (Math.min(Math.max(value, low), high) - low)) / (high - low);
  const chart = svg("svg", { width, height: 26, viewBox: `0 0 ${width} 26`, role: "img", "aria-label": label });
  chart.append(svg("line", { class: "grid", x1: x(low), x2: x(high), y1: 13, y2: 13 }));
  for (const [side, y] of [
    ["a", 8],
    ["b", 18],
  ]) {
    const value = one[side];
    if (value.lower !== null)
      chart.append(
        svg("line", { class: `span ${side}`, x1: x(value.lower), x2: Math.max(x(value.upper), x(value.lower) + 2), y1: y, y2: y }),
      );
    if (value.estimate !== null) chart.append(svg("circle", { class: `point ${side}`, cx: x(value.estimate), cy: y, r: 3.6 }));
  }
  return chart;
}

function table(answers, { what, measure, a, b }) {
  const names = what === "features" ? ["feature"] : ["up", "down", "measure"];
  return {
    name: "Differences",
    columns: [...names, `${a}`, `${a} lower`, `${a} upper`, `${b}`, `${b} lower`, `${b} upper`, "difference", "lower", "upper"],
    rows: answers.flatMap((answer) =>
      answer.items.map((one) => [
        ...(what === "features" ? [one.feature] : [one.up, one.down, measure]),
        ...[one.a, one.b, one.difference].flatMap((value) => [value.estimate, value.lower, value.upper]),
      ]),
    ),
  };
}
