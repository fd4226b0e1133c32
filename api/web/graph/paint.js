// How a graph looks, once for the screen (canvas) and once for a saved picture (SVG): the same shapes from the same numbers.

import { svg } from "../dom.js";
import { certainty } from "./model.js";

export const COLORS = 8;
const CLEAR = 220; // as many names are kept clear of edges; of more there is no time in a frame
const DIMMED = 0.6; // what has nothing to do with the feature that is looked at
const RAISED = 0.78; // names stand above the edges, which leave a node in its middle

// What every node and edge is drawn with. `top`: the largest value where a measure has no upper end, else 1.
export function styles(model, colors, top) {
  const most = Math.max(...[...model.nodes.values()].map((node) => node.density ?? 0), 1e-9);
  for (const node of model.nodes.values()) {
    node.size = 4.5 + 8.5 * Math.sqrt((node.density ?? most / 8) / most); // area by density
    node.color = colors.get(node.community) ?? -1;
  }
  for (const edge of model.edges.values()) {
    const value = Math.min(1, Math.abs(edge.value ?? 0) / top);
    const sure = certainty(edge);
    edge.width = 0.8 + 3.9 * value;
    edge.opacity = sure === null ? 0.24 : 0.14 + 0.56 * sure;
    const [a, b] = [model.nodes.get(edge.up), model.nodes.get(edge.down)];
    Object.assign(edge, { a, b, color: a.color >= 0 && a.color === b.color ? a.color : -1 });
  }
}

// A curve from the right of one node to the left of another: start, two handles, end.
export function curve(edge) {
  const { a, b } = edge;
  const [x, to] = [a.x + a.size + 1, b.x - b.size - 1];
  const handle = Math.max(24, (to - x) * 0.48);
  return [x, a.y, x + handle, a.y, to - handle, b.y, to, b.y];
}

export const gateName = (kind) => ({ and: "AND", or: "OR", and_not: "AND NOT", k_of_n: "2 OF 3" })[kind];

// Draws all of it. `look`: { x, y, z } from graph to screen; `lit`: the feature whose edges stand out, or null.
export function paint(context, { width, height }, model, columns, look, palette, { lit, selected }) {
  const { z } = look;
  context.clearRect(0, 0, width, height);
  context.save();
  context.translate(look.x, look.y);
  context.scale(z, z);
  const [left, right] = [-look.x / z - 40, (width - look.x) / z + 40];
  const [above, below] = [-look.y / z - 40, (height - look.y) / z + 40];
  context.lineWidth = 1 / z;
  context.strokeStyle = palette.line;
  for (const { x } of columns) {
    context.beginPath();
    context.moveTo(x, above);
    context.lineTo(x, below);
    context.stroke();
  }
  const near = lit ? new Set(model.neighborsOf(lit)) : null;
  const edges = [...model.edges.values()];
  const draw = (edge, strong) => {
    const { a, b } = edge;
    if (b.x < left || a.x > right || Math.max(a.y, b.y) < above || Math.min(a.y, b.y) > below) return;
    const [x, y, x1, y1, x2, y2, to, end] = curve(edge);
    context.globalAlpha = strong ? Math.min(1, edge.opacity + 0.25) : lit ? edge.opacity * 0.5 : edge.opacity;
    context.strokeStyle = strong || edge.gate ? palette.accent : edge.color >= 0 ? palette.groups[edge.color] : palette.quiet;
    context.lineWidth = edge.width;
    if (edge.negated) context.setLineDash([6, 4]);
    context.beginPath();
    context.moveTo(x, y);
    context.bezierCurveTo(x1, y1, x2, y2, to, end);
    context.stroke();
    if (edge.negated) context.setLineDash([]);
  };
  const mine = (edge) => edge.up === lit || edge.down === lit;
  for (const edge of edges) if (!lit || !mine(edge)) draw(edge, false);
  if (lit) for (const edge of edges) if (mine(edge)) draw(edge, true);
  context.globalAlpha = 1;
  const shown = [...model.nodes.values()].filter((node) => node.x > left && node.x < right && node.y > above && node.y < below);
  for (const node of shown) {
    context.globalAlpha = lit && node.feature !== lit && !near.has(node.feature) ? DIMMED : 1;
    disc(context, node, palette, node.feature === selected);
  }
  context.restore();
  if (z > 0.42) labels(context, shown, look, palette, lit, near);
  headings(context, columns, look, width, palette);
}

function disc(context, node, palette, selected) {
  context.beginPath();
  context.arc(node.x, node.y, node.size, 0, 7);
  context.fillStyle = node.color >= 0 ? palette.groups[node.color] : palette.none;
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = palette.paper;
  context.stroke();
  if (!node.root && !selected) return;
  context.beginPath();
  context.arc(node.x, node.y, node.size + 3.2, 0, 7);
  context.lineWidth = selected ? 2.4 : 1.2;
  context.strokeStyle = palette.accent;
  context.stroke();
}

function labels(context, shown, look, palette, lit, near) {
  const size = Math.max(10.5, Math.min(14, 11.5 * look.z));
  context.font = `${size}px ${palette.font}`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 3;
  context.strokeStyle = palette.paper;
  for (const node of shown) {
    context.globalAlpha = lit && node.feature !== lit && !near.has(node.feature) ? DIMMED : 1;
    const x = look.x + (node.x + 0.72 * node.size + 4) * look.z;
    const y = look.y + node.y * look.z - RAISED * size;
    if (shown.length < CLEAR) context.strokeText(node.feature, x, y);
    context.fillStyle = palette.ink;
    context.fillText(node.feature, x, y);
    if (!node.gate) continue;
    const after = x + context.measureText(`${node.feature} `).width;
    context.fillStyle = palette.accent;
    context.font = `${0.8 * size}px ${palette.font}`;
    if (shown.length < CLEAR) context.strokeText(gateName(node.gate), after, y);
    context.fillText(gateName(node.gate), after, y);
    context.font = `${size}px ${palette.font}`;
  }
  context.globalAlpha = 1;
}

// Names of the layers at the upper edge, whatever part of the graph is seen.
function headings(context, columns, look, width, palette) {
  context.fillStyle = palette.paper;
  context.globalAlpha = 0.9;
  context.fillRect(0, 0, width, 26);
  context.globalAlpha = 1;
  context.fillStyle = palette.quiet;
  context.font = `12px ${palette.font}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const narrow = columns.length > 1 && (columns[1].x - columns[0].x) * look.z < 62;
  for (const { layer, x } of columns) context.fillText(narrow ? String(layer) : `layer ${layer}`, look.x + x * look.z, 14);
  context.textAlign = "start";
}

// The whole graph as SVG; colours come from the style sheets.
export function drawing(model, columns, title) {
  const nodes = [...model.nodes.values()];
  const [left, right] = [Math.min(...columns.map(({ x }) => x)) - 60, Math.max(...columns.map(({ x }) => x)) + 90];
  const [above, below] = [Math.min(...nodes.map(({ y }) => y)) - 70, Math.max(...nodes.map(({ y }) => y)) + 40];
  const group = svg("g", { transform: `translate(${-left} ${-above})` });
  for (const { layer, x } of columns) {
    group.append(
      svg("line", { class: "grid", x1: x, x2: x, y1: above + 44, y2: below - 10 }),
      svg("text", { class: "tick quiet", x, y: above + 34, "text-anchor": "middle" }, `layer ${layer}`),
    );
  }
  for (const edge of model.edges.values()) {
    const [x, y, x1, y1, x2, y2, to, end] = curve(edge).map((value) => value.toFixed(1));
    const kind = edge.gate ? "of-gate" : edge.color >= 0 ? `g${edge.color}` : "";
    group.append(
      svg("path", {
        class: `edge ${kind}`,
        d: `M${x} ${y}C${x1} ${y1} ${x2} ${y2} ${to} ${end}`,
        "stroke-width": edge.width.toFixed(2),
        opacity: edge.opacity.toFixed(2),
        "stroke-dasharray": edge.negated ? "6 4" : null,
      }),
    );
  }
  for (const node of nodes) {
    group.append(
      svg("circle", {
        class: `disc ${node.color >= 0 ? `g${node.color}` : ""}`,
        cx: node.x,
        cy: node.y.toFixed(1),
        r: node.size.toFixed(1),
      }),
    );
    if (node.root)
      group.append(svg("circle", { class: "ring", cx: node.x, cy: node.y.toFixed(1), r: (node.size + 3.2).toFixed(1) }));
    group.append(
      svg(
        "text",
        { class: "tick label", x: node.x + 0.72 * node.size + 4, y: (node.y - 5).toFixed(1) },
        node.feature,
        node.gate ? svg("tspan", { class: "of-gate" }, ` ${gateName(node.gate)}`) : null,
      ),
    );
  }
  group.append(svg("text", { class: "tick quiet", x: left + 16, y: above + 14 }, title));
  return { width: Math.ceil(right - left), height: Math.ceil(below - above), group };
}
