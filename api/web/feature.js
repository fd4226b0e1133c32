// One feature: its counts, the texts on which it was strongest, and its neighbours one step earlier and later.

import { bar, byId, element } from "./dom.js";
import { count, estimate, share } from "./format.js";
import { read } from "./http.js";

const CONTEXTS = 3; // texts shown: each is a window that the engine encodes again

let current = null; // { feature, measure }
let abort = null;

export const currentFeature = () => current;

// Reads and shows a feature; `quietly` (a refresh of what is shown already) changes nothing when it fails.
export async function show(feature, measure, quietly = false) {
  if (quietly && abort) return;
  abort?.abort();
  const mine = (abort = new AbortController());
  current = { feature, measure };
  const target = byId("found");
  if (!quietly) target.classList.add("old");
  const path = `/v1/features/${feature.replace(":", "/")}`;
  try {
    const record = await read(path, mine.signal);
    const neighbors = (direction, has) =>
      has ? read(`${path}/neighbors?direction=${direction}&measure=${measure}`, mine.signal) : null;
    const [contexts, upstream, downstream] = await Promise.all([
      record.strongest ? texts(record, `${path}/contexts?k=${CONTEXTS}`, mine.signal) : [],
      neighbors("upstream", record.pairs.some(([, down]) => down === record.layer)),
      neighbors("downstream", record.pairs.some(([up]) => up === record.layer)),
    ]);
    target.replaceChildren(...card(record, contexts, upstream, downstream, measure));
    for (const peak of target.querySelectorAll(".peak")) {
      peak.parentElement.scrollTop = peak.offsetTop - peak.parentElement.clientHeight / 2;
    }
    target.classList.remove("old");
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!quietly) {
      target.replaceChildren(element("p", { class: "empty" }, error.message));
      target.classList.remove("old");
    }
  } finally {
    if (abort === mine) abort = null;
  }
}

function card(record, contexts, upstream, downstream, measure) {
  return [
    element(
      "div",
      { class: "title" },
      element("h3", {}, record.feature),
      element("span", { class: "quiet" }, record.hook),
      record.neuronpedia ? element("a", { href: record.neuronpedia, rel: "noopener" }, "Neuronpedia") : null,
    ),
    element(
      "dl",
      { class: "figures" },
      figure("active on", `${count(record.count)} tokens`),
      figure("density", share(record.density)),
      figure("strongest", estimate(record.max)),
      figure("mean when active", estimate(record.mean_active)),
    ),
    ...(contexts.length ? contexts.map(context) : [element("p", { class: "context empty" }, record.strongest_reason ?? "no context")]),
    element("div", { class: "both" }, list("Earlier layers", upstream, measure), list("Later layers", downstream, measure)),
  ];
}

// The record's own text will do while the engine is too busy for more.
const texts = (record, path, signal) =>
  read(path, signal).then(
    (answer) => answer.contexts,
    (error) => {
      if (error.name === "AbortError") throw error;
      return [record.strongest];
    },
  );

const figure = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));

function context(found) {
  const where = `${estimate(found.activation)} in ${found.corpus}, ${found.document.name ?? `document ${found.document.number + 1}`}`;
  const values = found.values[found.feature];
  const top = Math.max(...values);
  const words = (found.tokens ?? values.map(() => "·")).map((token, index) => {
    if (!(values[index] > 0)) return token;
    const mark = element("mark", { title: estimate(values[index]), class: index === found.position ? "peak" : null }, token);
    mark.style.setProperty("--heat", String(values[index] / top));
    return mark;
  });
  const note = found.tokens ? where : `${where}: activations were pushed, without text; a dot is a token`;
  return element("div", { class: "context" }, element("small", {}, note), ...words);
}

function bounds(neighbor) {
  if (neighbor.lower === null) return "no interval yet";
  const how = neighbor.status === "heuristic" ? "a heuristic from the counts alone" : "valid at all times";
  return `95 %: ${estimate(neighbor.lower)} to ${estimate(neighbor.upper)}, ${how}`;
}

function list(title, answer, measure) {
  if (!answer) return element("div", {}, element("h4", {}, title), element("p", { class: "empty" }, "its layer has no pair there"));
  const most = answer.neighbors.reduce((top, neighbor) => Math.max(top, Math.abs(neighbor.estimate ?? 0)), 0);
  const bounded = !["lift", "mutual_information"].includes(measure); // those two have no upper end: their bars compare within the list
  const rows = answer.neighbors.map((neighbor) =>
    element(
      "li",
      {},
      element("a", { href: address(neighbor.feature, measure), "data-feature": neighbor.feature }, neighbor.feature),
      bar(Math.abs(neighbor.estimate ?? 0) / (bounded ? 1 : most), `${measure} ${estimate(neighbor.estimate)}`),
      element("span", { class: "value", title: bounds(neighbor) }, estimate(neighbor.estimate)),
      element("span", { class: "support", title: "tokens on which both are active" }, `${count(neighbor.counts.joint)} both`),
    ),
  );
  const none = element("p", { class: "empty" }, `none active together on ${answer.min_support} tokens yet`);
  return element("div", {}, element("h4", {}, title), rows.length ? element("ol", {}, ...rows) : none);
}

export const address = (feature, measure) => `/?feature=${encodeURIComponent(feature).replace("%3A", ":")}&measure=${encodeURIComponent(measure)}`;
