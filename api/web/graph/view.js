// The graph view: what it starts from, how it is made, the picture, and the panel of the feature that is chosen.

import { element, fill, refill } from "../dom.js";
import { count, estimate, isFeature, measureName, OPEN_ENDED, plural } from "../format.js";
import { panel } from "../feature/panel.js";
import { featureLink, go, parse } from "../route.js";
import { isEmpty, run } from "../run.js";
import { sheet } from "../save.js";
import { asked, build, Reads } from "./build.js";
import { bar } from "./controls.js";
import { Groups } from "./groups.js";
import { byEnds, layout } from "./layout.js";
import { Model } from "./model.js";
import { drawing, styles } from "./paint.js";
import { promptBar } from "./prompt.js";
import { stage } from "./stage.js";

export function open(root, parameters) {
  const change = (changed, options) => go({ ...parse(), ...changed }, options);
  const controls = bar(change);
  const tokens = promptBar(change);
  const said = element("p", { class: "said", role: "status" });
  const legend = element("div", { class: "legend-box" });
  const picture = stage({
    chosen,
    moved: (look) => change({ at: `${look.x},${look.y},${look.z}` }, { replace: true, quiet: true }),
  });
  const side = element("aside", { class: "side", "aria-label": "Chosen feature", hidden: true });
  const rows = element("tbody");
  const table = element(
    "details",
    { class: "edge-table" },
    element("summary", {}, "Edges as a table"),
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, headRow()), rows)),
  );
  picture.place.append(element("div", { class: "foot" }, legend, said));
  const frame = element(
    "div",
    { class: "graph-frame" },
    controls.place,
    tokens.place,
    element("div", { class: "desk" }, picture.place, side),
  );
  root.append(element("h1", { class: "unseen" }, "Graph"), frame, table);

  const groups = new Groups();
  let reads = new Reads();
  let [wanted, key, model, columns, shown, turn, passing] = [null, null, null, [], null, 0, false];

  function chosen(feature) {
    const now = parse();
    const expand = (now.expand ?? "").split(",").filter(Boolean);
    const at = `${Object.values(picture.look()).join(",")}`;
    if (!model.expanded.has(feature)) expand.push(feature);
    go({ ...now, select: feature, expand: expand.join(","), at });
  }

  const update = async (given) => {
    wanted = asked(given);
    controls.show(wanted, given);
    tokens.show(wanted, null);
    select(isFeature(given.select ?? "") ? given.select : null);
    const next = JSON.stringify(wanted);
    if (next === key) {
      picture.select(given.select ?? null);
      tokens.show(wanted, model, given.select);
      return;
    }
    const mine = ++turn;
    const still =
      model && key && JSON.parse(key).kind === wanted.kind && JSON.parse(key).of === wanted.of ? (given.select ?? null) : null;
    key = next;
    say("Reading the graph …");
    try {
      const made = await build(wanted, reads, run.status?.pairs ?? (await first()));
      if (mine !== turn) return;
      show(made, given, still);
    } catch (error) {
      if (mine !== turn) return;
      key = null;
      passing = error.status === 0 || error.status >= 500;
      if (!passing || !model) clear();
      say(isEmpty() ? nothing() : error.message, true);
    }
  };

  const clear = () => {
    model = null;
    fill(rows);
    fill(legend);
    picture.show(new Model(), []);
  };

  const show = (made, given, still) => {
    const before = model?.nodes ?? new Map();
    model = made;
    columns = layout(model);
    dress();
    const at = (given.at ?? "").split(",").map(Number);
    const placed = at.length === 3 && at.every(Number.isFinite) && at[2] > 0;
    const kept = still && before.has(still) && model.nodes.has(still) ? still : null;
    picture.show(model, columns, {
      still: kept,
      at: placed && !kept ? { x: at[0], y: at[1], z: at[2] } : null,
      select: given.select ?? null,
    });
    tokens.show(wanted, model, given.select);
    fill(rows, [...model.edges.values()].sort(byEnds).map(edgeRow));
    tell();
    const mine = turn;
    groups.learn(model, () => mine === turn && (dress(), picture.relabel(), picture.repaint()));
  };

  const dress = () => {
    const top = OPEN_ENDED.includes(wanted.measure)
      ? Math.max(...[...model.edges.values()].map((edge) => edge.value ?? 0), 1e-9)
      : 1;
    styles(model, groups.colors(model), top);
    fill(
      legend,
      groups.legend(model),
      element("span", { class: "quiet" }, `width: ${measureName(wanted.measure)} · opacity: certainty · size: density`),
    );
  };

  const tell = () => {
    if (!model.nodes.size)
      return say(
        isEmpty() ? nothing() : "Nothing to show: no pair has such a value. Lower “at least”, or take another measure.",
        true,
      );
    const parts = [`${plural(model.nodes.size, "feature")}, ${plural(model.edges.size, "edge")}`];
    if (model.left) parts.push(`${count(model.left)} more left out`);
    if (model.note) parts.push(model.note);
    if (model.snapshot) parts.push(`as of ${count(model.snapshot.tokens)} tokens`);
    const newer = run.snapshot && model.snapshot && run.snapshot.tokens > model.snapshot.tokens;
    const more = newer ? `${count(run.snapshot.tokens - model.snapshot.tokens)} newer tokens: update` : null;
    const text = parts.join(" · ");
    said.classList.remove("wrong", "alone");
    if (said.textContent === (more ? `${text} · ${more}` : text)) return; // a button that is replaced under the pointer can't be pressed
    fill(said, text, more ? [" · ", element("button", { type: "button", class: "link", onclick: anew }, more)] : null);
  };
  const say = (text, wrong = false) => {
    fill(said, text);
    said.classList.toggle("wrong", wrong);
    said.classList.toggle("alone", !model?.nodes.size);
  };
  const anew = () => {
    reads = new Reads();
    groups.forget();
    key = null;
    update(parse());
  };

  // The panel beside the graph, of the feature that is chosen.
  const select = (feature) => {
    side.hidden = !feature;
    root.classList.toggle("chosen", Boolean(feature));
    if (!feature) {
      shown?.close();
      shown = null;
      side.replaceChildren();
      return;
    }
    if (!shown) {
      const place = element("div");
      const close = () => {
        change({ select: null });
        picture.focus(feature);
      };
      const tools = element("div", { class: "side-tools", "data-tool": true });
      side.replaceChildren(tools, place);
      side.onkeydown = (event) => event.key === "Escape" && close();
      shown = panel(place, (other) => featureLink(other, wanted.measure));
      shown.tools = tools;
      shown.leave = close;
    }
    const now = parse();
    const expand = (now.expand ?? "").split(",").filter(Boolean);
    refill(
      shown.tools,
      expand.includes(feature)
        ? element(
            "button",
            { type: "button", onclick: () => change({ expand: expand.filter((one) => one !== feature).join(",") }) },
            "Collapse",
          )
        : null,
      element(
        "button",
        {
          type: "button",
          onclick: () => go({ ...now, start: `feature:${feature}`, k: null, expand: null, at: null, token: null, prompt: null }),
        },
        "Start here",
      ),
      element("button", { type: "button", class: "close", "aria-label": "Close the panel", onclick: shown.leave }, "✕"),
    );
    shown.show(feature, wanted.measure, wanted.rank === "lower" ? null : wanted.rank);
  };

  update(parameters);
  return {
    update,
    moved: () => {
      shown?.moved();
      if (key === null && passing && run.open) update(parse());
      else if (model?.nodes.size) tell();
    },
    close: () => {
      turn += 1;
      shown?.close();
      picture.close();
    },
    picture: () => {
      if (!model?.nodes.size) return null;
      const { width, height, group } = drawing(
        model,
        columns,
        `saestream · ${measureName(wanted.measure)} · ${count(model.snapshot?.tokens)} tokens`,
      );
      return sheet(width, height, group);
    },
    tables: () => (model ? [edgesTable(model, wanted), nodesTable(model), ...(shown?.tables() ?? [])] : []),
  };
}

const first = () =>
  new Promise((done, failed) => {
    const began = performance.now();
    const look = () =>
      run.status
        ? done(run.status.pairs)
        : run.problem
          ? failed(new Error(run.problem))
          : performance.now() - began > 15_000
            ? failed(new Error("The server does not answer."))
            : setTimeout(look, 50);
    look();
  });

const nothing = () =>
  element("span", {}, "Nothing has been counted yet. Send some text first, on the ", element("a", { href: "/" }, "overview"), ".");

const headRow = () =>
  element(
    "tr",
    {},
    ...["from", "to", "value", "95 % from", "both on"].map((name, at) =>
      element("th", { scope: "col", class: at > 1 ? "end" : null }, name),
    ),
  );

function edgeRow(edge) {
  const name = (feature) => element("td", {}, element("a", { href: featureLink(feature) }, feature));
  const cells = [edge.value, edge.lower].map((value) => element("td", { class: "end" }, estimate(value)));
  return element("tr", {}, name(edge.up), name(edge.down), ...cells, element("td", { class: "end" }, count(edge.joint)));
}

const edgesTable = (model, wanted) => ({
  name: "Edges",
  columns: ["up", "down", "measure", "value", "lower", "upper", "status", "joint", "gate", "negated", "tokens"],
  rows: [...model.edges.values()]
    .sort(byEnds)
    .map((edge) => [
      edge.up,
      edge.down,
      wanted.measure,
      edge.value,
      edge.lower,
      edge.upper,
      edge.status,
      edge.joint,
      edge.gate,
      edge.gate ? String(edge.negated) : null,
      model.snapshot?.tokens ?? null,
    ]),
});

const nodesTable = (model) => ({
  name: "Nodes",
  columns: ["feature", "layer", "density", "community", "activation"],
  rows: [...model.nodes.values()].map((node) => [
    node.feature,
    node.layer,
    node.density,
    node.community ?? null,
    node.activation ?? null,
  ]),
});
