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
  const percent = 100 * value;
  return `${percent === 0 || percent >= 10 ? percent.toFixed(0) : percent >= 0.01 ? percent.toFixed(2) : percent.toExponential(1)} %`;
}

export function ago(seconds) {
  if (seconds < 1.5) return "just now";
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5_400) return `${Math.round(seconds / 60)} min ago`;
  return `${Math.round(seconds / 3_600)} h ago`;
}
