// The prompt a graph is of, and its tokens: each a button that narrows the graph to what is active there.

import { element, refill, styled } from "../dom.js";
import { estimate } from "../format.js";

export function promptBar(change) {
  const text = element("textarea", {
    rows: 2,
    "aria-label": "prompt",
    placeholder: "A text for the model, up to 256 tokens",
    spellcheck: "false",
  });
  const form = element("form", { class: "prompt-form", "data-tool": true }, text, element("button", { class: "primary" }, "Run"));
  const strip = element("div", { class: "tokens", role: "group", "aria-label": "tokens of the prompt" });
  const place = element("div", { class: "prompt", hidden: true }, form, strip);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change({ start: "prompt", prompt: text.value, token: null, expand: null, select: null, at: null });
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    form.requestSubmit();
  });

  const show = (wanted, model, selected) => {
    place.hidden = wanted.kind !== "prompt";
    if (place.hidden) return;
    if (document.activeElement !== text || !text.value) text.value = wanted.prompt;
    if (!model?.tokens) return model && strip.replaceChildren();
    const values = model.nodes.get(selected)?.activations ?? null;
    const top = values ? Math.max(...values, 1e-9) : 1;
    const any = element(
      "button",
      { type: "button", "aria-pressed": String(wanted.token === null), onclick: () => change({ token: null, at: null }) },
      "any token",
    );
    const tokens = model.tokens.map((token, at) => {
      const button = element(
        "button",
        {
          type: "button",
          class: "token",
          "aria-pressed": String(wanted.token === at),
          "aria-label": `token ${at}: ${token}`,
          title: values ? `token ${at}: ${estimate(values[at])}` : `token ${at}`,
          onclick: () => change({ token: at, at: null }),
        },
        token.replaceAll("\n", "⏎"),
      );
      return values?.[at] > 0 ? styled(button, { "--heat": String(values[at] / top) }) : button;
    });
    refill(strip, any, tokens);
  };
  return { place, show };
}
