// Small ways to build the page. Text from the server only ever enters it as text nodes and attributes: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// An HTML element; `onclick` and its like are listeners, null attributes and children are left out.
export const element = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);

// The same for SVG.
export const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

// Replaces what is in `target`; null children are left out, as in `element`.
export function fill(target, ...children) {
  target.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return target;
}

// The same for controls: the one that has the focus has it afterwards too, so that a keyboard keeps its place.
export function refill(target, ...children) {
  const places = () => [...target.querySelectorAll("input, select, button, textarea")];
  const at = places().indexOf(document.activeElement);
  fill(target, ...children);
  if (at >= 0) places()[at]?.focus({ preventScroll: true });
  return target;
}

// CSS custom properties by script: the page's security policy allows no style attributes.
export function styled(made, properties) {
  for (const [name, value] of Object.entries(properties)) made.style.setProperty(name, value);
  return made;
}

export function bar(share, label) {
  const width = `${100 * Math.max(0, Math.min(1, share || 0))}%`;
  return element("div", { class: "track", role: "img", "aria-label": label }, styled(element("i"), { width }));
}

export function put(target, text) {
  const shown = typeof target === "string" ? byId(target) : target;
  if (shown && shown.textContent !== text) shown.textContent = text;
}

export const empty = (...children) => element("p", { class: "empty" }, ...children);

// A labelled <select>; `options` are [value, label].
export function choice(label, options, value, onchange, attributes = {}) {
  const select = element("select", { ...attributes, onchange: () => onchange(select.value) });
  select.append(...options.map(([of, text]) => element("option", { value: of }, text)));
  select.value = value;
  return element("label", { class: "field" }, element("span", {}, label), select);
}

// A labelled number; `change` gets null for an empty field.
export function number(label, value, limits, onchange, attributes = {}) {
  const input = element("input", {
    type: "number",
    inputmode: "decimal",
    ...limits,
    ...attributes,
    onchange: () => input.reportValidity() && onchange(input.value === "" ? null : Number(input.value)),
  });
  input.value = value ?? "";
  return element("label", { class: "field" }, element("span", {}, label), input);
}

// A section with a heading, which its role and name come from.
export function section(title, attributes = {}, ...children) {
  const id = `heading-${title.toLowerCase().replace(/\W+/g, "-")}`;
  const { aside = null, ...rest } = attributes;
  return element(
    "section",
    { "aria-labelledby": id, ...rest },
    element("div", { class: "head" }, element("h2", { id }, title), aside),
    ...children,
  );
}
