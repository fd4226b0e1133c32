// The share of features whose nearest neighbour is certain: of a sample, since each list is a read of its own.

import { put } from "../dom.js";
import { share } from "../format.js";
import { pathOf } from "../format.js";
import { read } from "../http.js";
import { run } from "../run.js";

const OF_LAYER = 8; // features per layer, evenly spaced
const EVERY_MS = 60_000;

export function certainty(target) {
  let at = -Infinity;
  let tokens = 0;
  const moved = async () => {
    if (performance.now() - at < EVERY_MS || tokens === run.snapshot.tokens || !run.status) return;
    at = performance.now();
    tokens = run.snapshot.tokens;
    const first = new Set(run.status.pairs.map(([up]) => up));
    const sample = run.status.layers
      .filter((layer) => first.has(layer.layer))
      .flatMap((layer) => {
        const wanted = Math.min(OF_LAYER, layer.features);
        return Array.from(
          { length: wanted },
          (_, place) => `${layer.layer}:${Math.floor(((place + 0.5) * layer.features) / wanted)}`,
        );
      });
    let certain = 0;
    let lists = 0;
    try {
      for (const feature of sample) {
        const found = await read(`${pathOf(feature)}/neighbors?k=1`);
        if (!found.neighbors.length) continue;
        lists += 1;
        certain += found.certified_k >= 1;
      }
    } catch {
      at = -Infinity; // the next snapshot tries again
      return;
    }
    put(target, lists ? `${share(certain / lists)} of ${lists}` : "no list yet");
  };
  return { moved };
}
