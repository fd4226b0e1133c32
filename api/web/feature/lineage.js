// Where a feature comes from and what it becomes: its lineage as a strip over the layers.

import { responsive } from "../charts.js";
import { element, empty, svg } from "../dom.js";
import { count, estimate } from "../format.js";
import { recent } from "../http.js";
import { address } from "../route.js";
import { described, run } from "../run.js";

const HEIGHT = 92;
const Y = 40;
const SECONDS = 30; // the analysis worker reads a whole snapshot

export function lineage(links) {
  const strip = element("div", { class: "strip" });
  const told = element("p", { class: "note" });
  const place = element("section", { class: "part", "aria-label": "Lineage" }, element("h2", {}, "Lineage"), strip, told);
  let found = null;
  let feature = null;
  let redraw = null;
  const load = async (looked) => {
    ({ feature } = looked);
    const mine = feature;
    found = null;
    told.replaceChildren();
    strip.replaceChildren(empty("Reading the lineages …"));
    try {
      const [answer] = await Promise.all([recent(`/v1/lineages?feature=${feature}`, SECONDS), described()]);
      if (mine !== feature) return;
      found = answer.items[0] ?? null;
      redraw ? redraw() : (redraw = responsive(strip, (width) => draw(found, feature, links, width)));
      told.replaceChildren(...sentence(answer, found, feature));
    } catch (error) {
      if (mine === feature) strip.replaceChildren(empty(error.message));
    }
  };
  const table = () => ({
    name: "Lineage",
    columns: ["up", "down", "up_count", "down_count", "joint", "pearson", "jaccard"],
    rows: found.links.map((one) => [
      one.up,
      one.down,
      one.counts.up,
      one.counts.down,
      one.counts.joint,
      one.measures.pearson,
      one.measures.jaccard,
    ]),
  });
  return { place, load, tables: () => (found ? [table()] : []) };
}

function sentence(answer, found, feature) {
  if (!found) return [`No neighbour is its best partner both ways with Pearson ≥ ${answer.threshold}.`];
  const edges = [answer.path[0]?.[0], answer.path.at(-1)?.[1]];
  const born = found.birth === edges[0] ? `from layer ${found.birth}` : `born in layer ${found.birth}`;
  const dies = found.death === edges[1] ? `to layer ${found.death}` : `ends in layer ${found.death}`;
  const { up, down, estimate: weakest } = found.weakest;
  return [
    `Each the other's best partner, Pearson ≥ ${answer.threshold}: ${born}, ${dies}. Weakest link ${up} → ${down}, ${estimate(weakest)}. `,
    element("a", { href: address({ view: "graph", start: `lineage:${feature}` }), "data-tool": true }, "in the graph"),
  ];
}

function draw(found, feature, links, width) {
  const layers = run.status?.layers.map(({ layer }) => layer) ?? [];
  const own = new Map((found?.features ?? [{ feature, count: 1 }]).map((one) => [Number(one.feature.split(":")[0]), one]));
  const last = Math.max(...layers, ...own.keys());
  const pad = 34;
  const x = (layer) => pad + ((width - 2 * pad) * layer) / Math.max(1, last);
  const step = (width - 2 * pad) / Math.max(1, last);
  const most = Math.max(...[...own.values()].map((one) => one.count), 1);
  const chart = svg("svg", {
    width,
    height: HEIGHT,
    viewBox: `0 0 ${width} ${HEIGHT}`,
    role: "group",
    "aria-label": `Lineage of ${feature}`,
  });
  chart.append(svg("line", { class: "rail", x1: x(0), x2: x(last), y1: Y, y2: Y }));
  for (const link of found?.links ?? []) {
    const [from, to] = [link.up, link.down].map((name) => Number(name.split(":")[0]));
    chart.append(
      svg("line", {
        class: "life",
        x1: x(from),
        x2: x(to),
        y1: Y,
        y2: Y,
        "stroke-width": (1.5 + 7 * Math.max(0, link.estimate)).toFixed(1),
      }),
    );
    if (step > 46)
      chart.append(
        svg(
          "text",
          { class: "tick quiet", x: (x(from) + x(to)) / 2, y: Y - 13, "text-anchor": "middle" },
          estimate(link.estimate).replace(/^0/, ""),
        ),
      );
  }
  for (let layer = 0; layer <= last; layer += 1) {
    const one = own.get(layer);
    chart.append(
      svg("text", { class: "tick quiet", x: x(layer), y: 12, "text-anchor": "middle" }, step < 40 ? String(layer) : `L${layer}`),
    );
    if (!one) {
      chart.append(svg("circle", { class: "absent", cx: x(layer), cy: Y, r: 2.5 }));
      continue;
    }
    const here = one.feature === feature;
    const size = 5 + 5.5 * Math.sqrt(one.count / most);
    const dot = svg(
      "circle",
      { class: here ? "alive here" : "alive", cx: x(layer), cy: Y, r: size.toFixed(1) },
      svg("title", {}, `${one.feature}: active on ${count(one.count)} tokens`),
    );
    const text = svg(
      "text",
      {
        class: here ? "tick own" : "tick",
        x: x(layer),
        y: Y + 30,
        "text-anchor": "middle",
        ...(step < 44 ? { transform: `rotate(-35 ${x(layer)} ${Y + 26})` } : {}),
      },
      one.feature,
    );
    chart.append(
      here
        ? svg("g", {}, dot, text)
        : svg(
            "a",
            { href: links(one.feature) },
            svg("rect", { class: "reach", x: x(layer) - 17, y: Y - 17, width: 34, height: 52 }),
            dot,
            text,
          ),
    );
  }
  return chart;
}
