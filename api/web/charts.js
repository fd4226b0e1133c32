// Drawing by hand: lines over tokens, and the small things that every chart shares. Plain SVG, sized to the place it stands in.

import { element, styled, svg } from "./dom.js";
import { brief } from "./format.js";

const MARGIN = { top: 12, right: 66, bottom: 26, left: 46 };

// Calls `draw(width)` now and whenever the width of `place` changes; what it returns replaces what stood there.
export function responsive(place, draw) {
  let width = 0;
  const again = () => {
    width = Math.floor(place.clientWidth);
    if (width) place.replaceChildren(draw(width));
  };
  new ResizeObserver(() => Math.floor(place.clientWidth) !== width && again()).observe(place);
  return again;
}

// Colour of a layer or a layer pair, from the first to the last.
export const depth = (at, of) => `color-mix(in oklab, var(--c4), var(--c5) ${of < 2 ? 0 : Math.round((100 * at) / (of - 1))}%)`;

let tip = null;
// A note beside the pointer; null takes it away.
export function note(event, ...lines) {
  tip?.remove();
  tip = null;
  if (!event) return;
  tip = element("div", { class: "tip", "aria-hidden": "true" }, ...lines.map((line) => element("div", {}, line)));
  document.body.append(tip);
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  const top = event.clientY + 16 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 16;
  styled(tip, { left: `${Math.max(8, left)}px`, top: `${top}px` });
}

// Round values from low to high, about `wanted` of them.
export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((of) => of * power).find((of) => of >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, at) => (first + at) * step);
}

// Labels at the ends of lines, moved apart so that none covers another.
function apart(wanted, gap, low, high) {
  const order = wanted.map((at, index) => ({ at, index })).sort((a, b) => a.at - b.at);
  order.forEach((one, place) => (one.at = Math.max(one.at, place ? order[place - 1].at + gap : low)));
  for (let place = order.length - 1; place >= 0; place -= 1) {
    order[place].at = Math.min(order[place].at, place === order.length - 1 ? high : order[place + 1].at - gap);
  }
  const found = [];
  order.forEach((one) => (found[one.index] = one.at));
  return found;
}

// Lines over tokens (logarithmic). `series`: [{ name, color, points: [[tokens, value or null]] }]. Of a share (`of: 1`) the axis ends
// there and begins below the lowest value; any other begins at 0.
export function lines({ width, height, series, label, format, of = null }) {
  const all = series.flatMap((one) => one.points).filter(([, value]) => value !== null);
  if (!all.length) return element("p", { class: "empty" }, "No value yet: it needs more text.");
  const xs = all.map(([tokens]) => tokens);
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const values = all.map(([, value]) => value);
  const most = of ?? (Math.max(...values) * 1.06 || 1);
  const least = of ? Math.max(0, Math.floor(10 * Math.min(...values) - 0.5) / 10) : 0;
  const [right, bottom] = [width - MARGIN.right, height - MARGIN.bottom];
  const x = (tokens) =>
    first === last
      ? (MARGIN.left + right) / 2
      : MARGIN.left + ((right - MARGIN.left) * Math.log(tokens / first)) / Math.log(last / first);
  const y = (value) => bottom - ((bottom - MARGIN.top) * (value - least)) / (most - least);
  const chart = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": label });
  for (const at of ticks(least, most, 4)) {
    chart.append(svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(at), y2: y(at) }));
    chart.append(svg("text", { class: "tick quiet", x: MARGIN.left - 8, y: y(at) + 4, "text-anchor": "end" }, format(at)));
  }
  const marks = [1_000, 3_000, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7, 1e8, 1e9].filter((at) => at >= first && at <= last);
  const fewer = marks.filter((at, place) => !place || x(at) - x(marks[place - 1]) > 50 || String(at)[0] === "1");
  for (const at of fewer)
    chart.append(svg("text", { class: "tick quiet", x: x(at), y: height - 7, "text-anchor": "middle" }, brief(at)));
  const drawn = series.filter((one) => one.points.some(([, value]) => value !== null));
  const ends = drawn.map((one) => one.points.filter(([, value]) => value !== null).at(-1));
  const labels = apart(
    ends.map(([, value]) => y(value)),
    13,
    MARGIN.top,
    bottom,
  );
  drawn.forEach((one, at) => {
    const points = one.points.filter(([, value]) => value !== null);
    const line = svg("path", {
      class: "series",
      d: "M" + points.map(([tokens, value]) => `${x(tokens).toFixed(1)} ${y(value).toFixed(1)}`).join("L"),
    });
    const end = svg("circle", { class: "end-dot", cx: x(ends[at][0]), cy: y(ends[at][1]), r: 2.5 });
    const lead = svg("path", {
      class: "lead",
      d: `M${right + 3} ${y(ends[at][1]).toFixed(1)}L${right + 14} ${labels[at].toFixed(1)}`,
    });
    const name = svg("text", { class: "tick", x: right + 18, y: labels[at] + 4 }, one.name);
    for (const colored of [line, end, lead]) styled(colored, { "--color": one.color });
    chart.append(line, lead, end, name);
  });
  follow(chart, { series: drawn, x, right, bottom, format });
  return chart;
}

// A vertical line at the point nearest to the pointer, and what each series says there.
function follow(chart, { series, x, right, bottom, format }) {
  const line = svg("line", { class: "cursor", y1: MARGIN.top, y2: bottom, visibility: "hidden" });
  chart.append(line);
  const tokens = [...new Set(series.flatMap((one) => one.points.map(([at]) => at)))];
  chart.addEventListener("pointermove", (event) => {
    const here = event.clientX - chart.getBoundingClientRect().left;
    const near = tokens.reduce((best, at) => (Math.abs(x(at) - here) < Math.abs(x(best) - here) ? at : best));
    line.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) line.setAttribute(end, Math.min(x(near), right));
    const told = series.map((one) => [one.name, one.points.find(([at]) => at === near)?.[1] ?? null]);
    note(event, `${brief(near)} tokens`, ...told.map(([name, value]) => `${name}: ${value === null ? "–" : format(value)}`));
  });
  chart.addEventListener("pointerleave", () => {
    line.setAttribute("visibility", "hidden");
    note(null);
  });
}
