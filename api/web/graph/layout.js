// Where the nodes stand: layers are columns, and in each the order that crosses few edges.
//
// 1. Order: sweeps over the columns, each sorted by the mean place of its neighbours, left to right and back (Sugiyama's method); the
//    order with the fewest crossings is kept.
// 2. Place: each node as near to the mean of its neighbours as order and distance allow: least squares with a least gap, which pooling
//    adjacent violators solves exactly.

import { inOrder } from "../format.js";

export const GAP = 30;
const [NARROW, WIDE] = [210, 400]; // between two columns
const ASPECT = 1.6; // that of most screens
const SWEEPS = 10;
const SETTLES = 8;

// Gives every node x and y (middle of the graph at 0). The same nodes and edges always stand the same way, in whatever order their
// answers came: a link restores the picture.
export function layout(model) {
  const columns = new Map();
  for (const node of model.nodes.values()) {
    if (!columns.has(node.layer)) columns.set(node.layer, []);
    columns.get(node.layer).push(node);
  }
  const layers = [...columns.keys()].sort((a, b) => a - b);
  const edges = [...model.edges.values()].sort(byEnds);
  const around = adjacency(model, edges);
  for (const nodes of columns.values()) {
    nodes.sort((a, b) => inOrder(a.feature, b.feature));
  }
  const order = layers.map((layer) => columns.get(layer));
  best(order, around, edges);
  const tall = GAP * Math.max(...order.map((nodes) => nodes.length));
  const column = Math.min(WIDE, Math.max(NARROW, (ASPECT * tall) / Math.max(1, order.length)));
  order.forEach((nodes, at) =>
    nodes.forEach((node, place) =>
      Object.assign(node, { x: column * (at - (order.length - 1) / 2), y: GAP * (place - (nodes.length - 1) / 2) }),
    ),
  );
  for (let turn = 0; turn < SETTLES; turn += 1) {
    for (const nodes of turn % 2 ? [...order].reverse() : order) settle(nodes, around);
  }
  return layers.map((layer, at) => ({ layer, x: column * (at - (order.length - 1) / 2) }));
}

export const byEnds = (a, b) => inOrder(a.up, b.up) || inOrder(a.down, b.down);

function adjacency(model, edges) {
  const around = new Map([...model.nodes.values()].map((node) => [node, []]));
  for (const edge of edges) {
    const [up, down] = [model.nodes.get(edge.up), model.nodes.get(edge.down)];
    const weight = 0.1 + Math.max(0, edge.value ?? 0);
    around.get(up).push({ node: down, weight });
    around.get(down).push({ node: up, weight });
  }
  return around;
}

function best(order, around, edges) {
  const place = new Map();
  const number = () =>
    order.forEach((nodes, column) =>
      nodes.forEach((node, at) => place.set(node.feature, { column, at: (at + 0.5) / nodes.length })),
    );
  number();
  let least = crossings(edges, place);
  let kept = order.map((nodes) => [...nodes]);
  for (let sweep = 0; sweep < SWEEPS && least > 0; sweep += 1) {
    const forward = sweep % 2 === 0;
    for (const column of forward ? order.keys() : [...order.keys()].reverse()) {
      const towards = (node) => {
        let [sum, weights] = [0, 0];
        for (const { node: other, weight } of around.get(node)) {
          const its = place.get(other.feature);
          if (forward ? its.column < column : its.column > column) [sum, weights] = [sum + weight * its.at, weights + weight];
        }
        return weights ? sum / weights : place.get(node.feature).at;
      };
      const wanted = new Map(order[column].map((node) => [node, towards(node)]));
      order[column].sort((a, b) => wanted.get(a) - wanted.get(b));
      order[column].forEach((node, at) => place.set(node.feature, { column, at: (at + 0.5) / order[column].length }));
    }
    const now = crossings(edges, place);
    if (now < least) [least, kept] = [now, order.map((nodes) => [...nodes])];
  }
  order.splice(0, order.length, ...kept);
}

// Pairs of edges between the same two columns that cross: inversions, counted by a merge sort.
export function crossings(edges, place) {
  const between = new Map();
  for (const edge of edges) {
    const [a, b] = [place.get(edge.up), place.get(edge.down)];
    const key = `${a.column}-${b.column}`;
    if (!between.has(key)) between.set(key, []);
    between.get(key).push([a.at, b.at]);
  }
  let sum = 0;
  for (const ends of between.values()) sum += inversions(ends.sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, at]) => at))[0];
  return sum;
}

function inversions(values) {
  if (values.length < 2) return [0, values];
  const middle = values.length >> 1;
  const [first, left] = inversions(values.slice(0, middle));
  const [second, right] = inversions(values.slice(middle));
  const merged = [];
  let [sum, i, j] = [first + second, 0, 0];
  while (i < left.length || j < right.length) {
    if (j >= right.length || (i < left.length && left[i] <= right[j])) merged.push(left[i++]);
    else {
      sum += left.length - i;
      merged.push(right[j++]);
    }
  }
  return [sum, merged];
}

function settle(nodes, around) {
  const blocks = [];
  nodes.forEach((node, at) => {
    const near = around.get(node);
    const weights = near.reduce((sum, one) => sum + one.weight, 0);
    const wanted = weights ? near.reduce((sum, one) => sum + one.weight * one.node.y, 0) / weights : node.y;
    let block = { sum: (wanted - GAP * at) * (weights || 0.05), weight: weights || 0.05, size: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).weight > block.sum / block.weight) {
      const last = blocks.pop();
      block = { sum: last.sum + block.sum, weight: last.weight + block.weight, size: last.size + block.size };
    }
    blocks.push(block);
  });
  let at = 0;
  for (const block of blocks)
    for (let step = 0; step < block.size; step += 1, at += 1) nodes[at].y = block.sum / block.weight + GAP * at;
}
