// The graph on the screen: a canvas that is painted, and on it a button for each node, which carries name, focus and click. Both move
// together, so a pan costs one style and one painting.

import { note } from "../charts.js";
import { element, styled } from "../dom.js";
import { degrees, nodeName, placed, toward } from "./nodes.js";
import { edgeNote, nearest, nodeNote } from "./notes.js";
import { COLORS, paint } from "./paint.js";
import { pointers } from "./pointers.js";

const [LEAST_ZOOM, MOST_ZOOM] = [0.08, 4];
const FOOT = 52; // pixels at the lower edge for what is said there
const SETTLED_MS = 250;
const MOVE_MS = 260;

// `chosen(feature)` is called for a click on a node, `moved(look)` when pan and zoom have come to rest.
export function stage({ chosen, moved }) {
  const canvas = element("canvas", { "aria-hidden": "true" });
  const layer = element("div", { class: "nodes", role: "group", "aria-label": "graph" });
  const tool = (label, text, act) => element("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
  const tools = element(
    "div",
    { class: "zoom", "data-tool": true },
    tool("zoom in", "+", () => zoom(1.3)),
    tool("zoom out", "−", () => zoom(1 / 1.3)),
    tool("show all", "⤢", () => fit()),
  );
  const place = element("div", { class: "stage" }, canvas, layer, tools);
  const context = canvas.getContext("2d");
  let [model, columns, palette] = [null, [], null];
  let look = { x: 0, y: 0, z: 1 };
  let size = { width: 0, height: 0 };
  let [lit, selected, waiting, settle, animation] = [null, null, false, null, null];
  let buttons = new Map();

  const request = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  };
  const draw = () => {
    waiting = false;
    if (!model || !size.width) return;
    const dots = devicePixelRatio;
    context.setTransform(dots, 0, 0, dots, 0, 0);
    paint(context, size, model, columns, look, (palette ??= readPalette(place)), {
      lit: lit ?? (model.nodes.has(selected) ? selected : null),
      selected,
    });
    styled(layer, { transform: `translate(${look.x}px, ${look.y}px) scale(${look.z})` });
  };
  const rest = () => {
    clearTimeout(settle);
    settle = setTimeout(() => moved(middle()), SETTLED_MS);
  };
  // Where the view stands, whatever its size: the point of the graph in its middle, and the zoom.
  const middle = () => ({
    x: Math.round((size.width / 2 - look.x) / look.z),
    y: Math.round((size.height / 2 - look.y) / look.z),
    z: Number(look.z.toFixed(3)),
  });
  const stand = ({ x, y, z }) => {
    look = { x: size.width / 2 - x * z, y: size.height / 2 - y * z, z };
    request();
  };
  const pan = (x, y) => {
    look = { ...look, x: look.x + x, y: look.y + y };
    request();
    rest();
  };
  const zoom = (by, at = { x: size.width / 2, y: size.height / 2 }) => {
    const z = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, look.z * by));
    look = { x: at.x - ((at.x - look.x) * z) / look.z, y: at.y - ((at.y - look.y) * z) / look.z, z };
    request();
    rest();
  };
  const fit = (quietly = false) => {
    if (!model?.nodes.size || !size.width) return;
    const ys = [...model.nodes.values()].map(({ y }) => y);
    const [left, right] = [columns[0].x - 40, columns.at(-1).x + 70];
    const [above, below] = [Math.min(...ys) - 30, Math.max(...ys) + 30];
    const z = Math.min(1.25, (size.width - 16) / (right - left), (size.height - 26 - FOOT) / (below - above));
    const least = size.width < 500 ? 0.43 : 0.2; // on a phone a part that can be read, around what it starts from
    const root = z < least ? ([...model.nodes.values()].find((node) => node.root || node.feature === selected) ?? null) : null;
    const high = Math.max(z, least);
    const [x, y] = root ? [root.x, root.y] : [(left + right) / 2, (above + below) / 2];
    look = { z: high, x: size.width / 2 - x * high, y: (26 + size.height - FOOT) / 2 - y * high };
    request();
    if (!quietly) rest();
  };
  const resize = () => {
    const before = size.width ? middle() : null;
    size = { width: place.clientWidth, height: place.clientHeight };
    canvas.width = size.width * devicePixelRatio;
    canvas.height = size.height * devicePixelRatio;
    if (before) stand(before);
    draw();
  };
  const watcher = new ResizeObserver(resize);
  watcher.observe(place);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const recolor = () => {
    palette = null;
    request();
  };
  scheme.addEventListener("change", recolor);

  pointers(place, { pan, zoom, hover: (event) => hover(event) });
  const hover = (event) => {
    const feature = event?.target.closest?.(".node")?.dataset.feature ?? null;
    if (feature !== lit) {
      lit = feature;
      request();
    }
    if (!event || event.target.closest(".zoom")) return note(null);
    if (feature) return note(event, ...nodeNote(model, feature));
    const edge = nearest(model, look, event, place);
    note(edge ? event : null, ...(edge ? edgeNote(edge) : []));
  };

  layer.addEventListener("click", (event) => {
    const feature = event.target.closest(".node")?.dataset.feature;
    if (feature) chosen(feature);
  });
  layer.addEventListener("focusin", (event) => {
    const node = model.nodes.get(event.target.dataset.feature);
    if (!node) return;
    for (const button of buttons.values()) button.tabIndex = -1;
    event.target.tabIndex = 0;
    if (event.target.matches(":focus-visible")) lit = node.feature;
    reveal(node);
  });
  layer.addEventListener("focusout", () => {
    lit = null;
    request();
  });
  const reveal = (node) => {
    const [x, y] = [look.x + node.x * look.z, look.y + node.y * look.z];
    const [dx, dy] = [
      x < 40 ? 80 - x : x > size.width - 60 ? size.width - 120 - x : 0,
      y < 50 ? 90 - y : y > size.height - 40 ? size.height - 80 - y : 0,
    ];
    if (dx || dy) pan(dx, dy);
    else request();
  };
  place.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const keys = { "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => fit() };
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (keys[event.key]) keys[event.key]();
    else if (arrow && event.target.dataset.feature) {
      const to = toward(model, event.target.dataset.feature, arrow);
      if (to) buttons.get(to).focus({ preventScroll: true });
    } else return;
    event.preventDefault();
  });

  // Shows a graph; `still`: the node that stays where it is on the screen.
  const show = (next, shownColumns, { still = null, at = null, select = null } = {}) => {
    if (!size.width) resize();
    const before = still ? model?.nodes.get(still) : null;
    const old = model;
    model = next;
    columns = shownColumns;
    selected = select;
    const after = before ? model.nodes.get(still) : null;
    if (after) look = { ...look, x: look.x + (before.x - after.x) * look.z, y: look.y + (before.y - after.y) * look.z };
    buttons = placed(layer, model, select);
    if (at) stand(at);
    else if (!after) fit(true);
    if (after && old) {
      glide(old, before, after);
      rest();
    }
    request();
  };
  // From the old places to the new ones, in a quarter of a second.
  const glide = (old, before, after) => {
    cancelAnimationFrame(animation);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const [dx, dy] = [after.x - before.x, after.y - before.y];
    const moves = [...model.nodes.values()].map((node) => {
      const from = old.nodes.get(node.feature);
      return { node, x: node.x, y: node.y, fromX: from ? from.x + dx : node.x, fromY: from ? from.y + dy : after.y };
    });
    const began = performance.now();
    const step = (now) => {
      const t = Math.min(1, (now - began) / MOVE_MS);
      const eased = 1 - (1 - t) ** 3;
      for (const { node, x, y, fromX, fromY } of moves)
        Object.assign(node, { x: fromX + (x - fromX) * eased, y: fromY + (y - fromY) * eased });
      draw();
      if (t < 1) animation = requestAnimationFrame(step);
    };
    step(began);
  };
  return {
    place,
    show,
    fit,
    zoom,
    pan,
    repaint: request,
    select: (feature) => {
      selected = feature;
      for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === feature));
      request();
    },
    focus: (feature) => buttons.get(feature)?.focus({ preventScroll: true }),
    look: middle,
    relabel: () => {
      const edges = degrees(model);
      for (const [name, button] of buttons) button.setAttribute("aria-label", nodeName(model.nodes.get(name), edges));
    },
    close: () => {
      watcher.disconnect();
      scheme.removeEventListener("change", recolor);
      cancelAnimationFrame(animation);
      clearTimeout(settle);
      note(null);
    },
  };
}

// Colours as the canvas needs them: what the style sheets say, resolved.
function readPalette(place) {
  const probe = element("span");
  place.append(probe);
  const color = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const names = ["ink", "quiet", "line", "accent", "none", "card"];
  const found = Object.fromEntries(names.map((name) => [name, color(name)]));
  found.paper = found.card;
  found.groups = Array.from({ length: COLORS }, (_, at) => color(`c${at}`));
  found.font = getComputedStyle(place).fontFamily;
  probe.remove();
  return found;
}
