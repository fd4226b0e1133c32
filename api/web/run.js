// What the whole page knows of the run: status, corpora, the newest snapshot, and whether the numbers are live, stale or cut off.

import { read } from "./http.js";

export const run = { status: null, corpora: null, snapshot: null, open: false, problem: null, rates: [] };

const listeners = new Set();
let snapshotAt = null;
let version = [0, 0];
let reading = false;
let again = false;

// Calls `listener` after every change until the returned function is called.
export function watch(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const changed = () => listeners.forEach((listener) => listener(run));

export function sawSnapshot(snapshot) {
  const [epoch, number] = snapshot.version.split("-").map(Number);
  if (epoch < version[0] || (epoch === version[0] && number < version[1])) return; // overtaken by an event
  version = [epoch, number];
  snapshotAt = performance.now() - snapshot.age_ms;
  run.snapshot = snapshot;
  changed();
}

export function sawLink(open) {
  run.open = open;
  changed();
}

export const age = () => (snapshotAt === null ? null : (performance.now() - snapshotAt) / 1_000);

// "lost", "stale" (text is being counted, and the numbers have not moved for long) or "live".
export function freshness() {
  if (!run.open) return "lost";
  const status = run.status;
  const busy = status && (status.state === "counting" || status.queue_tokens > 0);
  const old = age();
  return busy && old !== null && old > 3 * status.publish_interval + 2 ? "stale" : "live";
}

// The status, as soon as there is one: layers and layer pairs are in it.
export const described = () =>
  run.status
    ? Promise.resolve(run.status)
    : new Promise((done) => {
        const stop = watch(() => run.status && (stop(), done(run.status)));
      });

// Nothing has been counted and nothing has arrived: the page says what to do next.
export const isEmpty = () => run.status !== null && run.status.tokens === 0 && run.corpora?.length === 0;

// One read at a time; what is asked for meanwhile is read once, after it.
export async function refresh() {
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    const [status, corpora] = await Promise.all([read("/v1/status"), read("/v1/corpora")]);
    run.status = status;
    run.corpora = corpora.items;
    run.problem = status.problem;
    run.rates = [...run.rates.slice(-59), status.tokens_per_second];
    if (status.snapshot) sawSnapshot(status.snapshot);
  } catch (error) {
    run.problem = error.message;
  } finally {
    reading = false;
    changed();
    if (again) {
      again = false;
      setTimeout(refresh, 500);
    }
  }
}
