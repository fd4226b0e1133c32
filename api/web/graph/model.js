// The graph that is shown: features, pairs of them, and how it was asked for. Names are "layer:index".

import { layerOf } from "../format.js";

export const MOST_NODES = 600; // more than that nobody reads, and a phone would stutter

export class Model {
  constructor() {
    this.nodes = new Map(); // name → { feature, layer, density, count, community, gate, activation, root }
    this.edges = new Map(); // "up>down" → { up, down, value, lower, joint, status, gate, negated }
    this.left = 0; // nodes that were not taken in
    this.snapshot = null;
  }

  node(feature, known = {}) {
    let found = this.nodes.get(feature);
    if (!found) {
      if (this.nodes.size >= MOST_NODES) {
        this.left += 1;
        return null;
      }
      found = { feature, layer: layerOf(feature), density: null, count: null, community: undefined, gate: null, root: false };
      this.nodes.set(feature, found);
    }
    for (const [name, value] of Object.entries(known)) if (value !== null && value !== undefined) found[name] = value;
    return found;
  }

  edge(up, down, known) {
    if (!this.node(up) || !this.node(down)) return;
    const key = `${up}>${down}`;
    this.edges.set(key, {
      up,
      down,
      value: null,
      lower: null,
      upper: null,
      joint: null,
      status: null,
      gate: null,
      negated: false,
      ...this.edges.get(key),
      ...known,
    });
  }

  from(snapshot) {
    if (!this.snapshot || snapshot.tokens < this.snapshot.tokens) this.snapshot = snapshot; // the oldest part is what it is as new as
  }

  neighborsOf(feature) {
    const found = [];
    for (const edge of this.edges.values()) {
      if (edge.up === feature) found.push(edge.down);
      else if (edge.down === feature) found.push(edge.up);
    }
    return found;
  }
}

// How certain an edge is, 0 to 1: how much of its value its lower bound holds up; null where there is no bound.
export function certainty(edge) {
  if (edge.lower === null || edge.value === null || edge.value <= 0) return null;
  return Math.max(0, Math.min(1, edge.lower / edge.value));
}
