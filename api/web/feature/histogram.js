// Where a feature stands: its layer's features by their best partner, and the bin that this one is in.

import { note, responsive } from "../charts.js";
import { element, empty, svg } from "../dom.js";
import { estimate, layerOf, measureName, pathOf, plural } from "../format.js";
import { query, read, recent } from "../http.js";
import { described } from "../run.js";

const HEIGHT = 120;
const BASE = HEIGHT - 20;
const SECONDS = 30;

export function histogram() {
  const chart = element("div", { class: "histogram" });
  const told = element("p", { class: "note" });
  const place = element(
    "section",
    { class: "part", "aria-label": "Best partners in its layer" },
    element("h2", {}, "Among its layer"),
    chart,
    told,
  );
  let shown = null;
  let redraw = null;
  let turn = 0;
  const load = async ({ feature, measure }) => {
    const mine = ++turn;
    shown = null;
    told.textContent = "";
    const layer = layerOf(feature);
    const { pairs } = await described();
    if (mine !== turn) return;
    const later = pairs.find(([up]) => up === layer);
    const pair = later ?? pairs.find(([, down]) => down === layer);
    chart.replaceChildren(empty(pair ? "Reading the histogram …" : "Its layer is in no pair."));
    if (!pair) return;
    try {
      const direction = later ? "downstream" : "upstream";
      const [answer, best] = await Promise.all([
        recent(`/v1/histograms?${query({ measure, limit: 1000 })}`, SECONDS),
        read(`${pathOf(feature)}/neighbors?${query({ direction, measure, k: 20, rank: "estimate" })}`),
      ]);
      if (mine !== turn) return;
      const found = answer.items.find((item) => item.pair[0] === pair[0] && item.pair[1] === pair[1]);
      if (!found) {
        chart.replaceChildren(empty(`${measureName(measure)} is not known in this run.`));
        return;
      }
      const side = later ? found.up : found.down;
      const other = later ? pair[1] : pair[0];
      const value = best.neighbors.find((one) => layerOf(one.feature) === other)?.estimate ?? null;
      shown = { feature, measure, pair, bins: found.bins, side, value };
      redraw ? redraw() : (redraw = responsive(chart, (width) => (shown ? draw(shown, width) : "")));
      const own = value === null ? `${feature} has none yet` : `${feature}: ${estimate(value)}`;
      told.textContent = `Live features of layer ${layer} by their best partner in layer ${other} (${measureName(measure)}, median ${estimate(side.median)}). ${own}.`;
    } catch (error) {
      if (mine === turn) chart.replaceChildren(empty(error.message));
    }
  };
  const table = () => ({
    name: "Best partners",
    columns: ["layer", "up", "down", "measure", "from", "to", "features"],
    rows: shown.side.counts.map((features, at) => [
      shown.side.layer,
      ...shown.pair,
      shown.measure,
      shown.bins[at],
      shown.bins[at + 1],
      features,
    ]),
  });
  return { place, load, tables: () => (shown ? [table()] : []) };
}

function draw({ feature, bins, side, value, measure }, width) {
  const most = Math.max(...side.counts, 1);
  const step = (width - 2) / side.counts.length;
  const last = side.counts.length - 1;
  const own = value === null ? -1 : side.counts.findIndex((_, at) => value >= bins[at] && (value < bins[at + 1] || at === last));
  const label = `${side.live} features by ${measureName(measure)} of their best partner${own < 0 ? "" : `; ${feature} is between ${estimate(bins[own])} and ${estimate(bins[own + 1])}`}`;
  const chart = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  side.counts.forEach((features, at) => {
    const tall = (BASE - 16) * (features / most);
    const column = svg("rect", {
      class: at === own ? "column own" : "column",
      x: 1 + at * step + 0.75,
      width: Math.max(1, step - 1.5),
      y: BASE - tall,
      height: Math.max(tall, features ? 1 : 0),
      rx: 1,
    });
    column.addEventListener("pointermove", (event) =>
      note(event, `${estimate(bins[at])} to ${estimate(bins[at + 1])}`, plural(features, "feature")),
    );
    column.addEventListener("pointerleave", () => note(null));
    chart.append(column);
    if (at === own)
      chart.append(
        svg(
          "text",
          {
            class: "tick own",
            x: Math.min(Math.max(1 + (at + 0.5) * step, 16), width - 16),
            y: BASE - Math.max(...side.counts.slice(Math.max(0, at - 1), at + 2)) * ((BASE - 16) / most) - 5, // clear of its neighbours
            "text-anchor": "middle",
          },
          feature,
        ),
      );
  });
  const marks = [0, Math.floor(bins.length / 2), bins.length - 1];
  marks.forEach((at, place) =>
    chart.append(
      svg(
        "text",
        {
          class: "tick quiet",
          x: 1 + Math.min(at, bins.length - 1) * step,
          y: HEIGHT - 5,
          "text-anchor": ["start", "middle", "end"][place],
        },
        String(Number(bins[at].toPrecision(3))),
      ),
    ),
  );
  return chart;
}
