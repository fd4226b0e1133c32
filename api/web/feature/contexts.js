// Text on which a feature fires: its tokens, each tinted by how strongly.

import { element, empty, styled } from "../dom.js";
import { estimate, pathOf } from "../format.js";
import { read } from "../http.js";

const SHOWN = 5; // each is a window that the engine encodes again
const BEFORE = 22; // tokens of an excerpt
const AFTER = 12;

export function contexts() {
  const list = element("ol", { class: "contexts" });
  const place = element("section", { class: "part", "aria-label": "Text on which it fires" }, element("h2", {}, "Fires on"), list);
  let found = [];
  let feature = null;
  const show = (answer) => {
    found = answer.contexts;
    const missing = answer.missing.map((one) => element("li", {}, empty(`${estimate(one.activation)}: ${one.reason}`)));
    list.replaceChildren(...found.map((one) => element("li", {}, context(one, feature))), ...missing);
  };
  const load = async (looked, signal) => {
    ({ feature } = looked);
    list.replaceChildren(element("li", {}, empty("Reading the text …")));
    found = [];
    try {
      show(await read(`${pathOf(feature)}/contexts?k=${SHOWN}`, signal));
      if (!list.children.length) list.replaceChildren(element("li", {}, empty(`Feature ${feature} has not fired yet.`)));
    } catch (error) {
      if (error.name === "AbortError") throw error;
      list.replaceChildren(element("li", {}, empty(error.message)));
    }
  };
  // The text of the strongest activation came with the record: shown where there is none yet.
  const strongest = (record) => {
    if (!found.length && record.strongest) show({ contexts: [record.strongest], missing: [] });
  };
  const table = () => ({
    name: "Contexts",
    columns: ["feature", "activation", "corpus", "document", "token", "text_before", "text_after"],
    rows: found.map((one) => {
      const tokens = one.tokens ?? [];
      const text = (part) => part.join("");
      return [
        one.feature,
        one.activation,
        one.corpus,
        one.document.name ?? one.document.number,
        tokens[one.position] ?? null,
        text(tokens.slice(0, one.position)),
        text(tokens.slice(one.position + 1)),
      ];
    }),
  });
  return { place, load, strongest, tables: () => (found.length ? [table()] : []) };
}

// One window; `mark` is the feature whose activations tint it, `token` the one that is outlined.
export function context(found, mark, told = null) {
  const values = found.values[mark] ?? [];
  const top = Math.max(...values, 1e-9);
  const tokens = found.tokens ?? values.map(() => "·");
  const words = (from, to, whole) =>
    tokens.slice(from, to).map((token, index) => {
      const at = from + index;
      const text = whole ? token : token.replace(/\s*\n\s*/g, " ⏎ ");
      const peak = at === found.position;
      if (!(values[at] > 0) && !peak) return text;
      const made = element("mark", { title: estimate(values[at] ?? 0), class: peak ? "peak" : null }, text);
      return styled(made, { "--heat": String((values[at] ?? 0) / top) });
    });
  const from = Math.max(0, found.position - BEFORE);
  const to = Math.min(tokens.length, found.position + AFTER + 1);
  const line = element("p", { class: "text" }, from > 0 ? "…" : null, ...words(from, to, false), to < tokens.length ? "…" : null);
  const where = `${found.corpus}, ${found.document.name ?? `document ${found.document.number + 1}`}`;
  const small = element("small", {}, element("b", {}, estimate(found.activation)), told ? ` ${told} · ` : " ", where);
  if (!found.tokens) small.append(": pushed without text; a dot is a token");
  if (from > 0 || to < tokens.length) {
    const more = element("button", { type: "button", class: "link", "aria-expanded": "false", "data-tool": true }, "whole window");
    more.addEventListener("click", () => {
      const open = more.getAttribute("aria-expanded") === "false";
      more.setAttribute("aria-expanded", String(open));
      more.textContent = open ? "excerpt" : "whole window";
      line.classList.toggle("whole", open);
      line.replaceChildren(
        ...(open ? words(0, tokens.length, true) : [from > 0 ? "…" : "", ...words(from, to, false), to < tokens.length ? "…" : ""]),
      );
    });
    small.append(element("span", { "data-tool": true }, " · ", more));
  }
  return element("div", { class: "context" }, small, line);
}
