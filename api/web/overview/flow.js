// What passes from layer to layer, drawn as a flow: a column per layer, a band for what passes, and what ends and begins beside it.

import { note, responsive } from "../charts.js";
import { choice, element, empty, number, refill, section, svg } from "../dom.js";
import { count, known, MEASURES, measureName, OPEN_ENDED, plural, share } from "../format.js";
import { query, recent } from "../http.js";
import { go, parse } from "../route.js";
import { run } from "../run.js";

const HEIGHT = 260;
const SECONDS = 5; // between two of them: the analysis worker reads a whole snapshot for each
const RATIOS = MEASURES.filter(([of]) => !OPEN_ENDED.includes(of));

export function flow(parameters) {
  const chart = element("div", { class: "flow" }, empty("Reading the flow …"));
  const told = element("p", { class: "note" });
  const controls = element("div", { class: "controls", "data-tool": true });
  const place = section("Flow between layers", { class: "wide", aside: controls }, chart, told);
  let asked = settings(parameters);
  let answer = null;
  let version = null;
  let redraw = null;

  const load = async () => {
    const wanted = asked;
    try {
      const found = await recent(`/v1/flow?${query({ measure: wanted.measure, threshold: wanted.threshold })}`, SECONDS);
      if (wanted !== asked) return;
      answer = found;
      version = found.snapshot.version;
      told.textContent = sentence(answer, asked);
      redraw ? redraw() : (redraw = responsive(chart, (width) => draw(answer, asked.among, width)));
    } catch (error) {
      if (!answer) chart.replaceChildren(empty(error.message));
    }
  };
  const change = (changed) => go({ ...parse(), ...changed });
  const update = (given) => {
    asked = settings(given);
    refill(
      controls,
      choice("passes by", RATIOS, asked.measure, (measure) => change({ measure: measure === "pearson" ? null : measure })),
      number("at least", asked.threshold, { min: 0, max: 1, step: "any" }, (value) =>
        change({ threshold: value === 0.4 ? null : value }),
      ),
      among(asked.among, (value) => change({ among: value === "live" ? null : value })),
    );
    load();
  };
  update(parameters);
  return { place, update, moved: () => run.snapshot.version !== version && load(), tables: () => (answer ? [table(answer)] : []) };
}

const settings = (given) => ({
  measure: known(RATIOS, given.measure, "pearson"),
  threshold: Number(given.threshold) > 0 ? Number(given.threshold) : 0.4,
  among: given.among === "all" ? "all" : "live",
});

function among(value, change) {
  const button = (of, text) =>
    element("button", { type: "button", "aria-pressed": String(of === value), onclick: () => change(of) }, text);
  return element(
    "div",
    { class: "switch", role: "group", "aria-label": "features counted" },
    button("live", "live features"),
    button("all", "all"),
  );
}

function sentence(answer, { among, measure, threshold }) {
  const rule = `A feature passes when one in the next layer has ${measureName(measure)} ≥ ${threshold} with it.`;
  const dead = among === "all" ? " Dead features have no partner, so they end and begin in every layer." : "";
  const open = answer.lists.undecided
    ? ` ${plural(answer.lists.undecided, "feature")} may have a partner outside of the published lists.`
    : "";
  return `${rule}${dead}${open} As of ${count(answer.snapshot.tokens)} tokens.`;
}

function table(answer) {
  const groups = ["passed", "disappeared", "passed_into", "appeared"];
  return {
    name: "Flow",
    columns: [
      "up",
      "down",
      "measure",
      "threshold",
      "live_up",
      "live_down",
      "features_up",
      "features_down",
      ...groups.flatMap((of) => [of, `${of}_share_live`, `${of}_share_all`]),
      "hidden",
      "tokens",
    ],
    rows: answer.pairs.map((pair) => [
      ...[
        pair.up.layer,
        pair.down.layer,
        answer.measure,
        answer.threshold,
        pair.up.live,
        pair.down.live,
        pair.up.features,
        pair.down.features,
      ],
      ...groups.flatMap((of) => [pair[of].all.count, pair[of].live.share, pair[of].all.share]),
      ...[pair.hidden.hidden?.count ?? null, answer.snapshot.tokens],
    ]),
  };
}

// The consecutive layer pairs from the first layer on; others can't stand in one row.
function chain(pairs) {
  const found = [];
  for (const pair of pairs) if (!found.length || found.at(-1).down.layer === pair.up.layer) found.push(pair);
  return found;
}

function draw(answer, of, width) {
  const pairs = chain(answer.pairs);
  if (!pairs.length) return empty("No layer pair yet.");
  const size = of === "live" ? "live" : "features";
  const columns = [pairs[0].up, ...pairs.map((pair) => pair.down)];
  const most = Math.max(...columns.map((layer) => layer[size]));
  const top = 26;
  const tall = (features) => ((HEIGHT - top - 44) * features) / most;
  const thick = width < 560 ? 7 : 12;
  const step = (width - thick) / (columns.length - 1);
  const label = `Features that pass from layer to layer: ${pairs.map((pair) => `${pair.up.layer} to ${pair.down.layer} ${share(pair.passed[of].share)}`).join(", ")}`;
  const chart = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label }, fades());
  const told = (shape, ...lines) => {
    shape.addEventListener("pointermove", (event) => note(event, ...lines));
    shape.addEventListener("pointerleave", () => note(null));
    return shape;
  };
  pairs.forEach((pair, at) => {
    const [left, right] = [at * step + thick, (at + 1) * step];
    const [a, b] = [tall(pair.passed[of].count), tall(pair.passed_into[of].count)];
    const rows = [pair.up[size], pair.down[size]].map(tall);
    const bend = (right - left) / 2;
    const band = `M${left} ${top}C${left + bend} ${top} ${right - bend} ${top} ${right} ${top}V${top + b}C${right - bend} ${top + b} ${left + bend} ${top + a} ${left} ${top + a}Z`;
    const reach = Math.min(bend * 0.82, 62);
    const names = `layer ${pair.up.layer} → ${pair.down.layer}`;
    const line = (word, group) =>
      `${count(group[of].count)} ${word}, ${share(group[of].share)} of ${of === "live" ? "live features" : "all features"}`;
    chart.append(
      told(
        svg("path", { class: "band", d: band }),
        names,
        line(`of layer ${pair.up.layer} pass`, pair.passed),
        line(`of layer ${pair.down.layer} are passed into`, pair.passed_into),
      ),
      told(
        svg("path", { class: "ends", d: `M${left} ${top + a}h${reach}V${top + rows[0]}h${-reach}Z` }),
        names,
        line("disappear", pair.disappeared),
        ...hidden(pair),
      ),
      told(
        svg("path", { class: "begins", d: `M${right} ${top + b}h${-reach}V${top + rows[1]}h${reach}Z` }),
        names,
        line("appear", pair.appeared),
      ),
    );
    if (step > 42)
      chart.append(
        svg(
          "text",
          { class: "passes", x: (left + right) / 2, y: top + Math.min(a, b) / 2 + 4, "text-anchor": "middle" },
          share(pair.passed[of].share),
        ),
      );
  });
  columns.forEach((layer, at) => {
    const x = at * step;
    chart.append(svg("rect", { class: "layer", x, y: top, width: thick, height: tall(layer[size]), rx: 2 }));
    const anchor = at === 0 ? "start" : at === columns.length - 1 ? "end" : "middle";
    const middle = anchor === "start" ? x : anchor === "end" ? x + thick : x + thick / 2;
    chart.append(
      svg(
        "text",
        { class: "name", x: middle, y: 16, "text-anchor": anchor },
        width < 560 ? String(layer.layer) : `layer ${layer.layer}`,
      ),
    );
    chart.append(
      svg("text", { class: "tick quiet", x: middle, y: top + tall(layer[size]) + 17, "text-anchor": anchor }, count(layer[size])),
    );
  });
  chart.append(legend());
  return chart;
}

const hidden = (pair) =>
  pair.hidden.hidden ? [`${count(pair.hidden.hidden.count)} of those are hidden in the next SAE's error`] : [];

function fades() {
  const fade = (id, name, from, to) =>
    svg(
      "linearGradient",
      { id, class: name },
      svg("stop", { offset: 0, "stop-opacity": from }),
      svg("stop", { offset: 1, "stop-opacity": to }),
    );
  return svg("defs", {}, fade("fade-ends", "lost", 0.55, 0), fade("fade-begins", "born", 0, 0.55));
}

function legend() {
  const group = svg("g", { class: "legend" });
  let x = 0;
  for (const [kind, text] of [
    ["band", "passes"],
    ["ends solid", "disappears"],
    ["begins solid", "appears"],
  ]) {
    group.append(
      svg("rect", { class: kind, x, y: HEIGHT - 12, width: 10, height: 10, rx: 2 }),
      svg("text", { class: "tick quiet", x: x + 15, y: HEIGHT - 3 }, text),
    );
    x += 15 + 6.6 * text.length + 18;
  }
  return group;
}
