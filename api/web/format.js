// Numbers as a person reads them.

const whole = new Intl.NumberFormat("en");

export const count = (value) => (value === null || value === undefined ? "–" : whole.format(Math.round(value)));

export function brief(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10_000) return count(value);
  const [scale, unit] = value < 1e6 ? [1e3, "k"] : value < 1e9 ? [1e6, "M"] : [1e9, "G"];
  return `${(value / scale).toFixed(value < 10 * scale ? 1 : 0)} ${unit}`;
}

export function estimate(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0) return `−${estimate(-value)}`;
  const size = Math.abs(value);
  if (size >= 100) return count(value);
  if (size >= 10) return value.toFixed(1);
  if (size > 0 && size < 0.0005) return value.toExponential(1);
  return value.toFixed(3);
}

export function share(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0) return `−${share(-value)}`;
  const percent = 100 * value;
  return `${percent === 0 || percent >= 10 ? percent.toFixed(0) : percent >= 0.01 ? percent.toFixed(2) : percent.toExponential(1)}\u00a0%`; // not broken before the sign
}

export function ago(seconds) {
  if (seconds < 1.5) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3_600)} h ago`;
}

export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;

export const MEASURES = [
  ["jaccard", "Jaccard"],
  ["sufficiency", "sufficiency"],
  ["necessity", "necessity"],
  ["phi", "phi"],
  ["lift", "lift"],
  ["mutual_information", "mutual information"],
  ["pearson", "Pearson"],
  ["activation_cosine", "activation cosine"],
  ["decoder_cosine", "decoder cosine"],
];
export const BOUNDED = ["jaccard", "sufficiency", "necessity", "pearson"]; // those with intervals
export const OPEN_ENDED = ["lift", "mutual_information"]; // those that can be larger than 1
export const measureName = (measure) => Object.fromEntries(MEASURES)[measure] ?? measure;
export const known = (options, value, otherwise) => (options.some(([of]) => of === value) ? value : otherwise);

export const isFeature = (text) => /^\s*\d{1,9}\s*:\s*\d{1,9}\s*$/.test(text);
export const layerOf = (feature) => Number(feature.split(":")[0]);
export const pathOf = (feature) => `/v1/features/${feature.replace(":", "/")}`;

// Features in the order of layer, then index.
export function inOrder(a, b) {
  const [layer, index] = a.split(":").map(Number);
  const [other, its] = b.split(":").map(Number);
  return layer - other || index - its;
}
