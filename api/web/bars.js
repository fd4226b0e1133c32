// A number with its interval as a bar: the band is what 95 % leaves open, the mark is the estimate.

import { element, styled } from "./dom.js";
import { estimate } from "./format.js";

const HOW = { ok: "valid at all times", heuristic: "a heuristic from the counts alone" };

export function interval({ lower, upper, status }, format = estimate) {
  if (lower === null || lower === undefined) return "no interval yet";
  return `95 %: ${format(lower)} to ${format(upper)}${HOW[status] ? `, ${HOW[status]}` : ""}`;
}

// The scale that lists of such numbers need: [low, high] with 0 in it; the high end is a round number, 1 for most.
export function scaleOf(items, openEnded) {
  const values = items
    .flatMap(({ estimate: value, lower, upper }) => [value, lower, upper])
    .filter((value) => typeof value === "number");
  const low = Math.min(0, ...values);
  const high = Math.max(...values, 1e-9);
  return [
    low < 0 ? Math.max(-1, Math.floor(low * 10) / 10) : 0,
    openEnded ? high : ([0.05, 0.1, 0.2, 0.5].find((end) => high <= end) ?? 1),
  ];
}

// One bar on [low, high]. `name` says what it is, for those who don't see it.
export function intervalBar(value, [low, high], name, format = estimate) {
  const at = (number) => `${(100 * (Math.min(Math.max(number, low), high) - low)) / (high - low)}%`;
  const track = element("div", {
    class: `interval ${value.status ?? ""}`,
    role: "img",
    "aria-label": `${name} ${format(value.estimate)}, ${interval(value, format)}`,
  });
  track.title = `${format(value.estimate)} · ${interval(value, format)}`;
  if (low < 0) track.append(styled(element("span", { class: "zero" }), { left: at(0) }));
  if (typeof value.lower === "number") {
    track.append(styled(element("span", { class: "within" }), { left: at(value.lower), right: `calc(100% - ${at(value.upper)})` }));
  }
  if (typeof value.estimate === "number") track.append(styled(element("span", { class: "at" }), { left: at(value.estimate) }));
  return track;
}
