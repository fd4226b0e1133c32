// How strongly a feature fires: its activations by strength, in the bins of all features, from its weakest to its strongest.

import { note, responsive } from "../charts.js";
import { element, svg } from "../dom.js";
import { estimate, plural } from "../format.js";

const HEIGHT = 100;
const BASE = HEIGHT - 20;

export function strengths() {
  const chart = element("div", { class: "strengths" });
  const told = element("p", { class: "note" });
  const attributes = { class: "part", "aria-label": "Activations by strength", hidden: true };
  const place = element("section", attributes, element("h2", {}, "How strongly"), chart, told);
  let shown = null; // { feature, bars: [from, to, activations] }
  let redraw = null;
  const show = (record) => {
    shown = { feature: record.feature, bars: bars(record) };
    place.hidden = !shown.bars.length;
    if (place.hidden) return;
    const all = shown.bars.reduce((sum, bar) => sum + bar[2], 0);
    told.textContent = `${plural(all, "activation")} above 0; four bars are a doubling.`;
    redraw ? redraw() : (redraw = responsive(chart, (width) => draw(shown, width)));
  };
  const table = () => ({
    name: "Activations by strength",
    columns: ["feature", "from", "to", "activations"],
    rows: shown.bars.map((bar) => [shown.feature, ...bar]),
  });
  return { place, show, tables: () => (shown?.bars.length ? [table()] : []) };
}

// From the first bin that holds an activation to the last one.
function bars({ histogram: { edges, counts }, max }) {
  const first = counts.findIndex((many) => many > 0);
  const last = counts.findLastIndex((many) => many > 0);
  if (first < 0) return [];
  return counts.slice(first, last + 1).map((many, at) => {
    const bin = first + at;
    return [bin ? edges[bin - 1] : 0, edges[bin] ?? max, many];
  });
}

function draw({ feature, bars }, width) {
  const most = Math.max(...bars.map((bar) => bar[2]));
  const step = Math.min(28, (width - 2) / bars.length);
  const every = Math.ceil(30 / step); // bars from one number below them to the next
  const label = `Activations of ${feature} from ${estimate(bars[0][0])} to ${estimate(bars.at(-1)[1])} by strength`;
  const made = svg("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  bars.forEach(([from, to, many], at) => {
    const tall = (BASE - 8) * (many / most);
    const box = { x: 1 + at * step + 0.75, width: Math.max(1, step - 1.5), y: BASE - tall, height: Math.max(tall, many ? 1 : 0) };
    const column = svg("rect", { class: "column own", ...box, rx: 1 });
    column.addEventListener("pointermove", (event) =>
      note(event, `${estimate(from)} to ${estimate(to)}`, plural(many, "activation")),
    );
    column.addEventListener("pointerleave", () => note(null));
    made.append(column);
    if (at % every === 0)
      made.append(
        svg("text", { class: "tick quiet", x: 1 + at * step, y: HEIGHT - 5 }, String(Number(from.toPrecision(2)))),
      );
  });
  return made;
}
