// Keeping what is shown: any view as SVG or PNG, its numbers as CSV.
//
// A view may draw its own picture (`picture()` → an <svg>); of any other, the picture is what the browser shows: its HTML inside
// <foreignObject>, with the page's own style sheets. `tables()` → [{ name, columns, rows }].

import { element, svg } from "./dom.js";

const SCALE = 2; // pixels of a PNG per CSS pixel
const PAD = 24;

export function saveMenu(root, name, view) {
  const menu = element("details", { class: "save" }, element("summary", {}, "Save"));
  const list = element("div", { class: "menu" });
  const act = (label, work) => {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", async () => {
      menu.open = false;
      await work();
    });
    return button;
  };
  menu.append(list);
  menu.addEventListener("toggle", () => {
    if (!menu.open) return;
    const tables = view.tables?.() ?? [];
    list.replaceChildren(
      act("Picture (SVG)", () => saveText(`saestream-${name}.svg`, serialized(picture(root, view)), "image/svg+xml")),
      act("Picture (PNG)", async () => keep(`saestream-${name}.png`, await png(picture(root, view)))),
      ...tables.map((table) => act(`${table.name} (CSV)`, () => saveText(fileName(name, table), csv(table), "text/csv"))),
    );
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("click", (event) => menu.isConnected && !menu.contains(event.target) && (menu.open = false));
  return menu;
}

const fileName = (view, table) => `saestream-${view}-${table.name.toLowerCase().replace(/\W+/g, "-")}.csv`;

// RFC 4180; a text that a spreadsheet would take for a formula gets an apostrophe before it.
export function csv({ columns, rows }) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

const saveText = (name, text, type) => keep(name, new Blob([text], { type: `${type};charset=utf-8` }));

function keep(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function picture(root, view) {
  const own = view.picture?.();
  const drawn = own ?? fromHtml(root);
  drawn.prepend(svg("style", {}, styleSheets()));
  return drawn;
}

// The page as it stands. Colours follow `color-scheme`, which an image does not take from the page around it.
function fromHtml(root) {
  const box = root.getBoundingClientRect();
  const width = Math.ceil(box.width + 2 * PAD);
  const height = Math.ceil(box.height + 2 * PAD);
  const copy = root.cloneNode(true);
  for (const hidden of copy.querySelectorAll("[data-tool]")) hidden.remove();
  const inside = svg("foreignObject", { x: PAD, y: PAD, width: box.width, height });
  inside.append(copy);
  return sheet(width, height, inside);
}

// An empty picture on paper, in the light or the dark as the page is now.
export function sheet(width, height, ...children) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const made = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: `sheet ${dark ? "dark" : "light"}` });
  made.append(svg("rect", { class: "paper", width, height }), ...children);
  return made;
}

const styleSheets = () => [...document.styleSheets].flatMap((one) => [...one.cssRules].map((rule) => rule.cssText)).join("\n");

const serialized = (drawn) => new XMLSerializer().serializeToString(drawn);

async function png(drawn) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(serialized(drawn))}`; // a blob: address would taint the canvas
  await image.decode();
  const canvas = element("canvas", { width: image.width * SCALE, height: image.height * SCALE });
  const context = canvas.getContext("2d");
  context.scale(SCALE, SCALE);
  context.drawImage(image, 0, 0);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}
