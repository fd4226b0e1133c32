// Small ways to build the page. Text from the server only ever enters it as text nodes: nothing here parses HTML.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function bar(share, label) {
  const filled = element("i");
  filled.style.width = `${100 * Math.max(0, Math.min(1, share || 0))}%`;
  return element("div", { class: "track", role: "img", "aria-label": label }, filled);
}

export const put = (id, text) => {
  const target = byId(id);
  if (target.textContent !== text) target.textContent = text;
};
