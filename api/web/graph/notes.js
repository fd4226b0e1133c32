// What is said beside the pointer, of a node or of the edge that is near.

import { element } from "../dom.js";
import { estimate, plural, share } from "../format.js";
import { curve } from "./paint.js";

const REACH = 6; // pixels from an edge at which it is meant

export function nearest(model, look, event, place) {
  if (!model) return null;
  const box = place.getBoundingClientRect();
  const [x, y] = [(event.clientX - box.left - look.x) / look.z, (event.clientY - box.top - look.y) / look.z];
  let [found, least] = [null, REACH / look.z];
  for (const edge of model.edges.values()) {
    const [ax, ay, bx, by, cx, cy, dx, dy] = curve(edge);
    if (x < ax || x > dx || y < Math.min(ay, dy) - least || y > Math.max(ay, dy) + least) continue;
    for (let step = 0; step <= 24; step += 1) {
      const [t, s] = [step / 24, 1 - step / 24];
      const px = s ** 3 * ax + 3 * s * s * t * bx + 3 * s * t * t * cx + t ** 3 * dx;
      const py = s ** 3 * ay + 3 * s * s * t * by + 3 * s * t * t * cy + t ** 3 * dy;
      const far = Math.hypot(px - x, py - y);
      if (far < least) [found, least] = [edge, far];
    }
  }
  return found;
}

export function nodeNote(model, feature) {
  const node = model.nodes.get(feature);
  const lines = [element("b", {}, feature), `density ${share(node.density)}`];
  if (node.activation !== undefined) lines.push(`activation ${estimate(node.activation)}`);
  if (node.community) lines.push(`community ${node.community}`);
  return [...lines, plural(model.neighborsOf(feature).length, "edge")];
}

export function edgeNote(edge) {
  const bounds =
    edge.lower === null
      ? "no interval yet"
      : edge.upper === null
        ? `at least ${estimate(edge.lower)} (95 %)`
        : `95 %: ${estimate(edge.lower)} to ${estimate(edge.upper)}`;
  const lines = [element("b", {}, `${edge.up} → ${edge.down}`), estimate(edge.value), bounds];
  if (edge.joint !== null) lines.push(`both on ${plural(edge.joint, "token")}`);
  if (edge.gate) lines.push(edge.negated ? "a negated parent of the gate" : "a parent of the gate");
  return lines;
}
