// Gates that a feature computes, each with its truth table: tinted rows are those in which the gate says that the feature fires, and
// bars say how often it does. Full bars in tinted rows and empty ones elsewhere: the gate is right.

import { bar, element, empty } from "../dom.js";
import { count, estimate, layerOf, pathOf, plural, share } from "../format.js";
import { query, read } from "../http.js";
import { address } from "../route.js";
import { described } from "../run.js";
import { context } from "./contexts.js";

const FIRST = 2; // gates shown open; the rest opens on demand
const WORDS = { and: " and ", or: " or ", and_not: " and not " };
export const KIND_NAMES = { and: "AND", or: "OR", and_not: "AND NOT", k_of_n: "2 of 3" };
const VERDICTS = {
  gate: "shown on text that did not choose it, with a common cause excluded",
  joint: "the parents act together; a common cause is not excluded",
  none: "not shown so far",
};

export function gates(links) {
  const list = element("div", { class: "gates" });
  const place = element("section", { class: "part", "aria-label": "Gates" }, element("h2", {}, "Gates"), list);
  let answer = null;
  let turn = 0;
  const load = async ({ feature }, signal) => {
    const mine = ++turn;
    const layer = layerOf(feature);
    const { pairs } = await described();
    if (mine !== turn) return;
    if (!pairs.some(([, down]) => down === layer)) {
      answer = null;
      list.replaceChildren(empty("Its layer has no earlier one, so it is no gate of any."));
      return;
    }
    try {
      const found = await read(`${pathOf(feature)}/gates?cells=true`, signal);
      if (mine !== turn) return;
      const same = answer?.feature === feature && JSON.stringify(answer.items) === JSON.stringify(found.items);
      answer = found;
      if (same) return; // what is open stays open
    } catch (error) {
      if (error.name === "AbortError" || error.status === 404) throw error;
      answer = null;
      list.replaceChildren(empty(error.message));
      return;
    }
    const { items } = answer;
    const rest = items.slice(FIRST);
    list.replaceChildren(
      ...(items.length ? items.slice(0, FIRST).map((one) => gate(one, links)) : [empty(answer.waiting ?? "None.")]),
      rest.length
        ? element("details", {}, element("summary", {}, `${count(rest.length)} more`), ...rest.map((one) => gate(one, links)))
        : "",
    );
  };
  return { place, load, tables: () => (answer?.items.length ? [table(answer)] : []) };
}

export const formula = (gate) => {
  const parents = gate.parents.map((parent) => parent.feature);
  return gate.kind === "k_of_n" ? `${gate.k} of ${parents.join(", ")}` : parents.join(WORDS[gate.kind]);
};

function gate(one, links) {
  const { gain } = one;
  const between = gain.lower === null ? "" : ` (${estimate(gain.lower)} to ${estimate(gain.upper)})`;
  const facts = [
    ["F1", estimate(one.f1)],
    ["precision", estimate(one.precision)],
    ["recall", estimate(one.recall)],
    [`gain over ${one.best_parent.feature} alone`, `${estimate(gain.estimate)}${between}`],
    ["evidence", plural(one.support.documents, "document")],
  ];
  return element(
    "article",
    { class: "gate", "aria-label": `${one.child} is ${formula(one)}` },
    element(
      "div",
      { class: "gate-head" },
      element("b", { class: "kind" }, KIND_NAMES[one.kind]),
      element("span", { class: "formula" }, ...spelled(one, links)),
      element("span", { class: `verdict ${one.verdict}`, title: one.reason ?? VERDICTS[one.verdict] }, one.verdict),
    ),
    truth(one),
    element(
      "dl",
      { class: "facts" },
      ...facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
    ),
    text(one),
  );
}

// The formula with its features as links.
function spelled(one, links) {
  const word = { and: " and ", or: " or ", and_not: " and not ", k_of_n: ", " }[one.kind];
  const parts = one.parents.flatMap((parent, at) => [
    at ? word : one.kind === "k_of_n" ? `${one.k} of ` : "",
    element("a", { href: links(parent.feature) }, parent.feature),
  ]);
  return [
    ...parts,
    " ",
    element("a", { class: "quiet", href: address({ view: "graph", start: `gate:${one.child}` }), "data-tool": true }, "graph"),
  ];
}

// `cells` come as silent, firing for each pattern of the parents.
function truth(one) {
  if (!one.cells?.length) return null;
  const parents = one.parents.map((parent) => parent.feature);
  const rows = [];
  for (let at = 0; at < one.cells.length; at += 2) {
    const [silent, fires] = one.cells.slice(at, at + 2);
    rows.push({ active: silent.active, holds: silent.holds, fires: fires.tokens, tokens: silent.tokens + fires.tokens });
  }
  const head = element(
    "tr",
    {},
    ...parents.map((name) => element("th", { scope: "col", class: "in" }, name)),
    element("th", { scope: "col" }, `${one.child} fires`),
    element("th", { scope: "col", class: "end" }, "on"),
    element("th", { scope: "col", class: "end" }, "of tokens"),
  );
  const body = rows.map((row) => {
    const rate = row.tokens ? row.fires / row.tokens : null;
    return element(
      "tr",
      { class: row.holds ? "holds" : null },
      ...parents.map((name) => {
        const on = row.active.includes(name);
        return element(
          "td",
          { class: "in" },
          element("i", { class: on ? "lamp on" : "lamp", role: "img", "aria-label": on ? "active" : "silent" }),
        );
      }),
      element(
        "td",
        { class: "rate" },
        element(
          "div",
          {},
          bar(rate, `fires on ${share(rate)}${row.holds ? ", where the gate says so" : ""}`),
          element("span", {}, rate === null ? "–" : share(rate)),
        ),
      ),
      element("td", { class: "end" }, count(row.fires)),
      element("td", { class: "end quiet" }, count(row.tokens)),
    );
  });
  return element(
    "table",
    { class: "truth" },
    element(
      "caption",
      { class: "unseen" },
      `Truth table of ${one.child} by its parents; tinted rows are those where the gate says that it fires`,
    ),
    element("thead", {}, head),
    element("tbody", {}, ...body),
  );
}

// Text that shows the gate, read when it is asked for.
function text(one) {
  const inside = element("div", {}, empty("Reading the text …"));
  const details = element("details", { "data-tool": true }, element("summary", {}, "text that shows it"), inside);
  const groups = { all: "all parents", some: "some parents", none: "child alone" };
  details.addEventListener(
    "toggle",
    async () => {
      try {
        const asked = { child: one.child, kind: one.kind, parents: one.parents.map((parent) => parent.feature).join(","), k: 2 };
        const found = await read(`/v1/gates/contexts?${query(asked)}`);
        inside.replaceChildren(
          ...found.contexts.map((each) =>
            context(each, one.child, `${groups[each.group]}, ${each.child_active ? "fires" : "silent"}`),
          ),
        );
        if (!found.contexts.length) inside.replaceChildren(empty(found.reason ?? "No text in the windows that were looked at."));
      } catch (error) {
        inside.replaceChildren(empty(error.message));
      }
    },
    { once: true },
  );
  return details;
}

function table(answer) {
  return {
    name: "Gates",
    columns: [
      "child",
      "kind",
      "parents",
      "verdict",
      "precision",
      "recall",
      "f1",
      "gain",
      "gain_lower",
      "gain_upper",
      "documents",
      "pattern",
      "holds",
      "child_fires",
      "tokens",
    ],
    rows: answer.items.flatMap((one) => {
      const shared = [
        one.child,
        one.kind,
        one.parents.map((parent) => parent.feature).join(" "),
        one.verdict,
        one.precision,
        one.recall,
        one.f1,
        one.gain.estimate,
        one.gain.lower,
        one.gain.upper,
        one.support.documents,
      ];
      return (one.cells ?? []).map((cell) => [
        ...shared,
        cell.active.join(" ") || "none",
        String(cell.holds),
        String(cell.child),
        cell.tokens,
      ]);
    }),
  };
}
