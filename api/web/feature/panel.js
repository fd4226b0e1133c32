// Everything that is known of one feature. Each part is read by itself and stands as soon as it is there; what is read from the
// snapshot is read again when it moves, at most every three seconds: a list that moves under the eyes is no help.

import { element, empty, fill } from "../dom.js";
import { count, estimate, measureName, pathOf, share } from "../format.js";
import { read, recent } from "../http.js";
import { address } from "../route.js";
import { run } from "../run.js";
import { contexts } from "./contexts.js";
import { gates } from "./gates.js";
import { histogram } from "./histogram.js";
import { lineage } from "./lineage.js";
import { neighbors } from "./neighbors.js";
import { relations } from "./relations.js";
import { strengths } from "./strengths.js";

const AGAIN_MS = 3_000;

// `root` is filled; `links(feature)` is where the name of another feature leads.
export function panel(root, links) {
  const title = element("div", { class: "title" });
  const figures = element("dl", { class: "figures" });
  const explanation = element("p", { class: "explanation", hidden: true });
  const parts = [contexts, neighbors, lineage, gates, histogram, relations].map((make) => make(links));
  const [text, lists, strip, table, spread, others] = parts;
  const strong = strengths();
  const body = element(
    "div",
    { class: "panel" },
    element("header", {}, title, figures, explanation),
    element(
      "div",
      { class: "columns" },
      element("div", {}, text.place, lists.place),
      element("div", {}, strip.place, table.place, strong.place, spread.place, others.place),
    ),
  );
  root.replaceChildren(body);
  let looked = null; // { feature, measure, rank }
  let abort = null;
  let seen = null;
  let at = -Infinity;
  let record = null;
  let [lost, unread] = [false, false]; // the connection was; nothing could be read, for a reason that passes

  const load = async (quietly) => {
    abort?.abort();
    const mine = (abort = new AbortController());
    const { feature } = looked;
    if (!quietly) body.classList.add("old");
    at = performance.now();
    seen = run.snapshot?.version;
    if (!quietly) record = null;
    const begun = (part) => {
      const loading = part.load(looked, mine.signal);
      loading.catch(() => {}); // it is awaited below, perhaps after another one has failed
      return loading;
    };
    const fast = [lists, table].map(begun);
    const slow = quietly ? [] : [text, strip, spread, others].map(begun);
    try {
      record = await read(pathOf(feature), mine.signal);
      head(record);
      strong.show(record);
      if (quietly) text.strongest(record);
      await Promise.all(fast);
      body.classList.remove("old");
      await Promise.all(slow);
    } catch (error) {
      if (error.name === "AbortError") return;
      unread = error.status >= 500;
      if (!quietly) refused(error);
    } finally {
      if (abort === mine) abort = null;
    }
  };

  const head = (found) => {
    body.classList.remove("refused");
    const group = element("span", { class: "community" });
    fill(
      title,
      element("h1", {}, found.feature),
      element("span", { class: "quiet hook" }, found.hook),
      group,
      element(
        "a",
        {
          href: address({
            view: "graph",
            start: `feature:${found.feature}`,
            measure: looked.measure === "jaccard" ? null : looked.measure,
          }),
          class: "to-graph",
          "data-tool": true,
        },
        "in the graph",
      ),
      found.neuronpedia ? element("a", { href: found.neuronpedia, rel: "noopener" }, "Neuronpedia") : null,
    );
    membership(found.feature, group);
    fill(
      figures,
      figure("active on", `${count(found.count)} tokens`),
      figure("density", share(found.density)),
      figure("strongest", estimate(found.max)),
      figure("mean when active", estimate(found.mean_active)),
      found.threshold ? figure("active above", estimate(found.threshold)) : null,
    );
    explanation.hidden = !found.explanation;
    explanation.textContent = found.explanation ?? "";
  };

  const refused = (error) => {
    record = null;
    title.replaceChildren(element("h1", {}, looked.feature));
    figures.replaceChildren();
    body.classList.add("refused");
    body.classList.remove("old");
    title.append(empty(error.message));
  };

  return {
    show(feature, measure, rank) {
      const same = looked?.feature === feature;
      looked = { feature, measure, rank };
      if (same && record) {
        abort?.abort();
        abort = null;
        for (const part of [lists, spread]) part.load(looked).catch((error) => refused(error));
      } else load(false);
    },
    moved() {
      if (!run.open) lost = true;
      if (!looked || !run.open) return;
      if (lost || unread) {
        lost = unread = false;
        load(false);
      } else if (run.snapshot?.version !== seen && performance.now() - at >= AGAIN_MS) load(record !== null);
    },
    close: () => abort?.abort(),
    tables: () => [...(record ? [summary(record)] : []), ...[...parts, strong].flatMap((part) => part.tables?.() ?? [])],
    measure: () => measureName(looked.measure),
  };
}

const figure = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

function summary(record) {
  const columns = ["feature", "hook", "count", "tokens", "density", "max", "mean", "mean_active", "threshold"];
  return { name: "Feature", columns, rows: [columns.map((name) => record[name])] };
}

// The community of a feature, where the run has communities.
async function membership(feature, place) {
  try {
    const { community } = await recent(`/v1/communities/of?feature=${feature}`, 60);
    if (!community) return;
    const link = element(
      "a",
      { href: address({ view: "graph", start: `community:${community.id}` }) },
      `community ${community.id}`,
    );
    place.append(link, ` of ${count(community.size)}`);
  } catch {
    // without communities the feature is shown all the same
  }
}
