// Search: a feature by layer:index, or features whose contexts contain a word.

import { element, empty, fill } from "./dom.js";
import { estimate, isFeature, pathOf, plural, share } from "./format.js";
import { context } from "./feature/contexts.js";
import { query, read } from "./http.js";
import { address, featureLink, go } from "./route.js";
import { described, isEmpty } from "./run.js";

const PAGE = 20;
const TEXTS = 6; // results whose text is read too: each is a window that the engine encodes again

export function open(root, parameters) {
  const input = element("input", {
    "aria-label": "word or feature",
    placeholder: "a word, or 3:17",
    spellcheck: "false",
    autocomplete: "off",
    maxlength: 100,
    required: true,
  });
  const form = element(
    "form",
    { class: "search-form", "data-tool": true },
    input,
    element("button", { class: "primary" }, "Search"),
  );
  const head = element("p", { class: "found", role: "status" });
  const list = element("ol", { class: "results" });
  const more = element("div", { "data-tool": true });
  root.append(element("h1", { class: "unseen" }, "Search"), form, head, list, more);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = input.value.trim();
    go(isFeature(wanted) ? { view: "feature", feature: wanted.replace(/\s/g, "") } : { view: "search", q: wanted });
  });
  let items = [];
  let turn = 0;

  const page = async (word, cursor, mine) => {
    const answer = await read(`/v1/search?${query({ q: word, limit: PAGE, cursor })}`);
    if (mine !== turn) return;
    items.push(...answer.items);
    fill(
      head,
      answer.total
        ? `${plural(answer.total, "feature")} with “${word}” in the text on which they fire most; those that fire on it come first`
        : `No feature's strongest contexts contain “${word}”. Rarer words need more text; try a part of it.`,
    );
    const rows = answer.items.map((one) => result(one, word));
    list.append(...rows.map(({ row }) => row));
    fill(
      more,
      answer.next
        ? element("button", { type: "button", onclick: () => page(word, answer.next, mine).catch(refused) }, "More")
        : null,
    );
    for (const one of rows.slice(0, cursor ? 0 : TEXTS)) {
      await one.text();
      if (mine !== turn) return;
    }
  };
  const refused = (error) => fill(head, error.status === 404 ? "This server can't search yet." : error.message);

  const update = (given) => {
    const word = (given.q ?? "").trim();
    input.value = word;
    turn += 1;
    items = [];
    fill(list);
    fill(more);
    if (!word) {
      fill(head);
      const mine = turn;
      described().then(() => mine === turn && fill(head, hint()));
      if (!matchMedia("(pointer: coarse)").matches) input.focus();
      return;
    }
    fill(head, "Searching …");
    page(word, null, turn).catch(refused);
  };
  update(parameters);
  return {
    update,
    tables: () =>
      items.length
        ? [
            {
              name: "Results",
              columns: ["feature", "contexts", "at_peak", "activation", "density"],
              rows: items.map((one) => [one.feature, one.contexts, one.at_peak, one.activation, one.density]),
            },
          ]
        : [],
    close: () => (turn += 1),
  };
}

function hint() {
  if (!isEmpty()) return "A word finds the features whose strongest contexts contain it; layer:index opens one feature.";
  return ["Nothing has been counted yet. Send some text first, on the ", element("a", { href: "/" }, "overview"), "."];
}

function result(one, word) {
  const place = element("div");
  const row = element(
    "li",
    {},
    element(
      "div",
      { class: "result-head" },
      element("a", { class: "id", href: featureLink(one.feature) }, one.feature),
      element(
        "span",
        {},
        one.at_peak
          ? `fires on it in ${one.at_peak} of ${plural(one.contexts, "context")} with it`
          : `near it in ${plural(one.contexts, "context")}`,
      ),
      element("span", { class: "quiet" }, `strongest ${estimate(one.activation)}`),
      element("span", { class: "quiet" }, `density ${share(one.density)}`),
      element(
        "a",
        { class: "quiet", href: address({ view: "graph", start: `feature:${one.feature}` }), "data-tool": true },
        "graph",
      ),
    ),
    place,
  );
  // The strongest of its contexts that has the word.
  const text = async () => {
    try {
      const { contexts } = await read(`${pathOf(one.feature)}/contexts?k=8`);
      const best = contexts.find((each) => near(each, word, 2)) ?? contexts.find((each) => near(each, word, 64)) ?? contexts[0];
      if (best) place.replaceChildren(context(best, one.feature));
    } catch (error) {
      place.replaceChildren(empty(error.message));
    }
  };
  return { row, text };
}

// Whether a word stands within some tokens of a context's strongest one.
function near({ tokens, position }, word, reach) {
  return (tokens ?? [])
    .slice(Math.max(0, position - reach), position + reach + 1)
    .join("")
    .toLowerCase()
    .includes(word.toLowerCase());
}
