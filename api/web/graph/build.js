// From what was asked for to a graph, by the routes that there are: neighbours, most certain pairs, communities, gates, lineages, and a
// prompt that the engine runs.

import { BOUNDED, isFeature, MEASURES, OPEN_ENDED, known, pathOf } from "../format.js";
import { query, read, send } from "../http.js";
import { Model } from "./model.js";

export const KINDS = [
  ["top", "most certain pairs"],
  ["feature", "a feature"],
  ["community", "a community"],
  ["gate", "gates of a feature"],
  ["lineage", "a lineage"],
  ["prompt", "a prompt"],
];
export const RANKS = [
  ["lower", "lower bound"],
  ["estimate", "estimate"],
];
const AT_ONCE = 6; // reads that run beside each other, as many as a browser keeps connections

// What `k` counts, by what a graph starts from: its name, the default, and the most.
const COUNTED = { top: ["pairs", 80, 1000], prompt: ["per layer", 20, 200] };
export const counted = (kind) => COUNTED[kind] ?? ["k", 4, 50];
const AROUND = 4; // neighbours on either side of a node that is opened in a graph of pairs or of a prompt

// What an address asks for, with the defaults of what it leaves out.
export function asked(parameters) {
  const [kind, ...rest] = (parameters.start ?? "top").split(":");
  const measure = known(MEASURES, parameters.measure, "jaccard");
  const whole = (text, otherwise, low, high) =>
    /^\d+$/.test(text ?? "") ? Math.min(high, Math.max(low, Number(text))) : otherwise;
  const least = Number(parameters.least);
  const start = known(KINDS, kind, "top");
  const [, usual, most] = counted(start);
  const k = whole(parameters.k, usual, 1, most);
  return {
    kind: start,
    of: rest.join(":"),
    measure,
    k,
    around: COUNTED[start] ? AROUND : k,
    hops: whole(parameters.hops, 2, 1, 4),
    least: parameters.least && Number.isFinite(least) ? least : OPEN_ENDED.includes(measure) ? 0 : 0.05,
    support: whole(parameters.support, null, 1, 1e9),
    rank: BOUNDED.includes(measure) ? known(RANKS, parameters.rank, "lower") : "estimate",
    expand: (parameters.expand ?? "").split(",").filter(isFeature),
    prompt: parameters.prompt ?? "",
    token: /^\d+$/.test(parameters.token ?? "") ? Number(parameters.token) : null,
  };
}

// Reads that a graph is made of, kept until it is asked for anew.
export class Reads {
  constructor() {
    this.kept = new Map();
  }

  get(path) {
    if (!this.kept.has(path)) {
      const answer = read(path);
      this.kept.set(path, answer);
      answer.catch(() => this.kept.delete(path));
    }
    return this.kept.get(path);
  }

  post(path, body) {
    const key = path + body;
    if (!this.kept.has(key)) {
      const answer = send(path, body, "application/json");
      this.kept.set(key, answer);
      answer.catch(() => this.kept.delete(key));
    }
    return this.kept.get(key);
  }
}

// The graph that `wanted` asks for. Raises Refused with the server's sentence.
export async function build(wanted, reads, pairs) {
  const model = new Model();
  const expanded = new Set();
  await { top, feature, community, gate, lineage, prompt }[wanted.kind](model, wanted, reads, pairs, expanded);
  for (const name of wanted.expand) model.node(name);
  await inTurns(wanted.expand, (name) => both(model, name, wanted, reads, pairs));
  model.expanded = new Set([...expanded, ...wanted.expand]);
  return model;
}

async function inTurns(items, work) {
  for (let at = 0; at < items.length; at += AT_ONCE) await Promise.all(items.slice(at, at + AT_ONCE).map(work));
}

const both = (model, name, wanted, reads, pairs) =>
  Promise.all(["upstream", "downstream"].map((direction) => around(model, name, direction, wanted, reads, pairs)));

// The neighbours of a feature in one direction as nodes and edges; their names.
async function around(model, name, direction, wanted, reads, pairs) {
  const side = direction === "downstream" ? 0 : 1;
  if (!pairs.some((pair) => pair[side] === Number(name.split(":")[0]))) return [];
  const { measure, around: k, rank, support, least } = wanted;
  const answer = await reads.get(`${pathOf(name)}/neighbors?${query({ direction, measure, k, rank, min_support: support })}`);
  model.from(answer.snapshot);
  model.node(name, { count: answer.count, density: answer.tokens ? answer.count / answer.tokens : null });
  const found = [];
  for (const one of answer.neighbors) {
    if (one.estimate < least) continue;
    const count = direction === "downstream" ? one.counts.down : one.counts.up;
    if (!model.node(one.feature, { count, density: answer.tokens ? count / answer.tokens : null })) continue;
    const [up, down] = direction === "downstream" ? [name, one.feature] : [one.feature, name];
    model.edge(up, down, { value: one.estimate, lower: one.lower, upper: one.upper, joint: one.counts.joint, status: one.status });
    found.push(one.feature);
  }
  return found;
}

async function feature(model, wanted, reads, pairs, expanded) {
  const name = wanted.of;
  if (!isFeature(name)) throw new Error(`“${name}” is no feature: write layer:index, for example 3:17.`);
  const record = await reads.get(pathOf(name));
  model.node(name, { root: true, count: record.count, density: record.density });
  expanded.add(name);
  for (const direction of ["upstream", "downstream"]) {
    let edge = [name];
    const seen = new Set(edge);
    for (let hop = 0; hop < wanted.hops; hop += 1) {
      const next = [];
      await inTurns(edge, async (one) => next.push(...(await around(model, one, direction, wanted, reads, pairs))));
      edge = next.filter((one) => !seen.has(one) && seen.add(one));
    }
  }
}

async function top(model, wanted, reads) {
  const measure = BOUNDED.includes(wanted.measure) ? wanted.measure : "jaccard";
  const answer = await reads.get(`/v1/edges?${query({ measure, limit: wanted.k })}`);
  model.from(answer.snapshot);
  for (const one of answer.items) {
    if (one.counts.joint < (wanted.support ?? 0)) continue;
    link(
      model,
      one,
      wanted,
      measure === wanted.measure ? { lower: one.lower, upper: one.upper, status: one.status } : {},
      answer.snapshot.tokens,
    );
  }
}

// A pair as relation routes give it, with every measure.
function link(model, one, wanted, bounds, tokens) {
  const value = one.measures[wanted.measure];
  if (value === null || value < wanted.least) return;
  for (const side of ["up", "down"])
    model.node(one[side], { count: one.counts[side], density: tokens ? one.counts[side] / tokens : null });
  model.edge(one.up, one.down, { value, joint: one.counts.joint, ...bounds });
}

async function community(model, wanted, reads) {
  const answer = await reads.get(`/v1/communities/${encodeURIComponent(wanted.of)}`);
  model.from(answer.snapshot);
  for (const one of answer.features) model.node(one.feature, { density: one.density, community: answer.id });
  for (const one of answer.edges) model.edge(one.up, one.down, { value: one.value, lower: one.lower });
  model.note = wanted.measure === "jaccard" ? null : "communities, and the edges in them, are by Jaccard";
}

async function gate(model, wanted, reads) {
  const name = wanted.of;
  if (!isFeature(name)) throw new Error(`“${name}” is no feature: write layer:index, for example 3:17.`);
  const answer = await reads.get(`${pathOf(name)}/gates?cells=true`);
  if (!answer.items.length) throw new Error(answer.waiting ?? `Feature ${name} is no gate so far.`);
  model.from(answer.snapshot);
  model.node(name, {
    root: true,
    count: answer.count,
    gate: answer.items[0].kind,
    density: answer.snapshot.tokens ? answer.count / answer.snapshot.tokens : null,
  });
  for (const one of answer.items) {
    for (const parent of one.parents) model.edge(parent.feature, name, { gate: one.kind, negated: parent.negated });
  }
  await measured(model, wanted, reads);
}

// Values of edges that came without one.
async function measured(model, wanted, reads) {
  const open = [...model.edges.values()].filter((edge) => edge.value === null);
  await inTurns(open, async (edge) => {
    const found = await reads.get(`/v1/similarity?${query({ up: edge.up, down: edge.down })}`);
    const one = found.measures[wanted.measure];
    model.edge(edge.up, edge.down, {
      value: one.estimate,
      lower: one.lower,
      upper: one.upper,
      status: one.status,
      joint: found.counts.joint,
    });
    for (const side of ["up", "down"])
      model.node(edge[side], { count: found.counts[side], density: found.tokens ? found.counts[side] / found.tokens : null });
  });
}

async function lineage(model, wanted, reads) {
  if (!isFeature(wanted.of)) throw new Error(`“${wanted.of}” is no feature: write layer:index, for example 3:17.`);
  const answer = await reads.get(`/v1/lineages?${query({ feature: wanted.of })}`);
  const found = answer.items[0];
  if (!found)
    throw new Error(
      `Feature ${wanted.of} has no lineage: no neighbour is its best partner both ways with Pearson ≥ ${answer.threshold}.`,
    );
  model.from(answer.snapshot);
  for (const one of found.features)
    model.node(one.feature, { root: one.feature === wanted.of, count: one.count, density: one.count / answer.snapshot.tokens });
  for (const one of found.links) link(model, one, { ...wanted, least: -1 }, {}, answer.snapshot.tokens);
}

async function prompt(model, wanted, reads) {
  if (!wanted.prompt.trim()) throw new Error("Write a prompt and run it: the graph shows the features that are active on it.");
  const { measure, least, support, token } = wanted;
  const body = {
    prompt: wanted.prompt,
    token,
    measure,
    min_value: least,
    ...(support ? { min_support: support } : {}),
    per_layer: wanted.k,
  };
  const answer = await reads.post("/v1/graph", JSON.stringify(body));
  model.from(answer.snapshot);
  for (const one of answer.nodes) {
    model.node(one.feature, {
      density: one.density,
      activation: one.activation,
      peak: one.peak,
      activations: one.activations,
      community: one.community ?? undefined,
    });
  }
  for (const one of answer.edges)
    model.edge(one.up, one.down, { value: one.value, lower: one.lower, upper: one.upper, status: one.status, joint: one.joint });
  for (const one of answer.gates) {
    const child = model.nodes.get(one.child);
    if (child) child.gate ??= one.kind;
    for (const parent of one.parents) {
      const edge = model.edges.get(`${parent.feature}>${one.child}`);
      if (edge) Object.assign(edge, { gate: one.kind, negated: parent.negated });
    }
  }
  model.tokens = answer.tokens;
  model.left = answer.dropped?.nodes ?? 0;
}
