// Overview: how far the run is, what flows between its layers, how the statistics settle, and the corpora behind them.

import { bar, element, put, section, styled } from "../dom.js";
import { ago, count, plural, share } from "../format.js";
import { age, isEmpty, run } from "../run.js";
import { certainty } from "./certainty.js";
import { communities } from "./communities.js";
import { convergence } from "./convergence.js";
import { corpora } from "./corpora.js";
import { flow } from "./flow.js";

export function open(root, parameters) {
  const hero = now();
  const parts = {
    flow: flow(parameters),
    curves: convergence(parameters),
    groups: communities(),
    certain: certainty(hero.certain),
  };
  const texts = corpora(root);
  const dead = layers();
  root.append(
    element("h1", { class: "unseen" }, "Overview"),
    hero.place,
    texts.hint,
    parts.flow.place,
    parts.curves.place,
    element("div", { class: "sides" }, element("div", {}, texts.place, dead.place), parts.groups.place),
  );
  const clock = setInterval(hero.tick, 1_000);

  const moved = () => {
    hero.show();
    texts.show();
    dead.show();
    const nothing = !run.snapshot?.tokens;
    texts.hint.hidden = !isEmpty();
    parts.flow.place.hidden = parts.curves.place.hidden = nothing;
    if (!nothing) for (const part of Object.values(parts)) part.moved();
  };
  moved();
  return {
    moved,
    update: (changed) => {
      parts.flow.update(changed);
      parts.curves.update(changed);
    },
    close: () => clearInterval(clock),
    tables: () => [dead.table(), ...parts.flow.tables(), ...parts.curves.tables(), ...parts.groups.tables(), texts.table()],
  };
}

function now() {
  const big = element("span", { class: "count" }, "–");
  const spark = element("div", { class: "spark", role: "img", "aria-label": "tokens per second over the last minutes" });
  const names = ["state", "tokens per second", "waiting", "snapshot", "checkpoint"];
  const shown = Object.fromEntries(names.map((name) => [name, element("dd", {}, "–")]));
  const certain = element(
    "dd",
    { title: "lists of neighbours, sampled evenly over all layers, whose first place no other feature can overtake (95 %)" },
    "–",
  );
  const figure = (name, value) => element("div", {}, element("dt", {}, name), value);
  const place = element(
    "section",
    { class: "hero", "aria-label": "Now" },
    element("div", { class: "total" }, big, element("span", { class: "quiet" }, "tokens counted")),
    spark,
    element("dl", { class: "figures" }, ...names.map((name) => figure(name, shown[name])), figure("certain leaders", certain)),
  );
  const tick = () => {
    const old = age();
    put(shown.snapshot, old === null ? "none yet" : ago(old));
    const saved = run.status?.checkpoint?.saved_at;
    put(shown.checkpoint, saved ? ago(Math.max(0, Date.now() / 1_000 - saved)) : "none yet");
  };
  const show = () => {
    const { status, snapshot } = run;
    put(big, snapshot ? count(snapshot.tokens) : status ? count(status.tokens) : "–");
    if (!status) return;
    const calibration = status.state === "calibrating" ? status.calibration : null;
    put(
      shown.state,
      calibration ? `calibrating: ${count(calibration.tokens)} of ${count(calibration.calibration_tokens)} tokens` : status.state,
    );
    put(shown["tokens per second"], count(status.tokens_per_second));
    put(shown.waiting, status.queue_tokens ? plural(status.queue_tokens, "token") : "nothing");
    const most = Math.max(1, ...run.rates);
    spark.hidden = most <= 1; // nothing has been counted since the page is open
    spark.replaceChildren(...run.rates.map((rate) => styled(element("i"), { height: `${Math.max(4, (100 * rate) / most)}%` })));
    tick();
  };
  return { place, show, tick, certain };
}

// Dead features, layer by layer.
function layers() {
  const body = element("tbody");
  const head = element(
    "tr",
    {},
    ...[["layer"], ["hook point"], ["never fired", "end"], ["of", "end"]].map(([name, side]) =>
      element("th", { class: side, scope: "col" }, name),
    ),
  );
  const place = section(
    "Dead features",
    { class: "dead" },
    element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), body)),
    element(
      "p",
      { class: "note" },
      "Features that have not fired on any token so far. They stay out of every share among live features.",
    ),
  );
  const show = () => {
    if (!run.status) return;
    const most = Math.max(1, ...run.status.layers.map((layer) => layer.dead ?? 0));
    body.replaceChildren(
      ...run.status.layers.map((layer) =>
        element(
          "tr",
          {},
          element("td", {}, String(layer.layer)),
          element("td", { class: "hook" }, layer.hook),
          element(
            "td",
            { class: "end" },
            element(
              "div",
              { class: "dead-bar" },
              bar(
                (layer.dead ?? 0) / most,
                layer.dead === null ? "not known yet" : `${share(layer.dead / layer.features)} of layer ${layer.layer}`,
              ),
              element("span", {}, count(layer.dead)),
            ),
          ),
          element("td", { class: "end quiet" }, count(layer.features)),
        ),
      ),
    );
  };
  const table = () => ({
    name: "Dead features",
    columns: ["layer", "hook", "features", "dead", "tokens"],
    rows: (run.status?.layers ?? []).map((layer) => [layer.layer, layer.hook, layer.features, layer.dead, run.status.tokens]),
  });
  return { place, show, table };
}
