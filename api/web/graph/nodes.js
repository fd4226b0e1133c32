// A button on each node: what carries its name, focus and click.

import { element, styled } from "../dom.js";
import { plural, share } from "../format.js";

export function degrees(model) {
  const found = new Map();
  for (const edge of model.edges.values()) for (const end of [edge.up, edge.down]) found.set(end, (found.get(end) ?? 0) + 1);
  return found;
}

export function nodeName(node, edges) {
  const said = [`feature ${node.feature}`, `density ${share(node.density)}`, plural(edges.get(node.feature) ?? 0, "edge")];
  if (node.community) said.push(`community ${node.community}`);
  if (node.gate) said.push("a gate");
  return said.join(", ");
}

// A button for each node, in the order of layer and place.
export function placed(layer, model, select) {
  const focused = layer.contains(document.activeElement) ? document.activeElement.dataset.feature : null;
  const nodes = [...model.nodes.values()].sort((a, b) => a.layer - b.layer || a.y - b.y);
  const edges = degrees(model);
  const reachable = focused && model.nodes.has(focused) ? focused : (select ?? nodes[0]?.feature);
  const made = new Map();
  for (const node of nodes) {
    const button = element("button", {
      type: "button",
      class: "node",
      "data-feature": node.feature,
      "aria-label": nodeName(node, edges),
      "aria-pressed": String(node.feature === select),
      tabindex: node.feature === reachable ? 0 : -1,
    });
    const wide = Math.max(24, 2 * node.size + 6);
    styled(button, { left: `${node.x - wide / 2}px`, top: `${node.y - wide / 2}px`, width: `${wide}px`, height: `${wide}px` });
    made.set(node.feature, button);
  }
  layer.replaceChildren(...made.values());
  layer.setAttribute(
    "aria-label",
    `Graph of ${plural(nodes.length, "feature")} and ${plural(model.edges.size, "edge")}; arrow keys go along edges and layers`,
  );
  if (focused) made.get(focused)?.focus({ preventScroll: true });
  return made;
}

// The next node by an arrow: up and down in its layer, left and right along its strongest edge.
export function toward(model, feature, [dx, dy]) {
  const own = model.nodes.get(feature);
  if (dy) {
    const column = [...model.nodes.values()].filter((node) => node.layer === own.layer).sort((a, b) => a.y - b.y);
    return column[column.indexOf(own) + dy]?.feature ?? null;
  }
  const edges = [...model.edges.values()]
    .filter((edge) => (dx > 0 ? edge.up : edge.down) === feature)
    .sort((a, b) => (b.value ?? 0) - (a.value ?? 0));
  if (edges.length) return dx > 0 ? edges[0].down : edges[0].up;
  const layers = [...new Set([...model.nodes.values()].map((node) => node.layer))].sort((a, b) => a - b);
  const next = layers[layers.indexOf(own.layer) + dx];
  const beside = [...model.nodes.values()].filter((node) => node.layer === next);
  return beside.sort((a, b) => Math.abs(a.y - own.y) - Math.abs(b.y - own.y))[0]?.feature ?? null;
}
