// The page: header, navigation, and the view that the address names.

import { byId, element, empty, put } from "./dom.js";
import { brief, count, isFeature } from "./format.js";
import { follow } from "./live.js";
import { address, featureLink, followLinks, go, onRoute, parse, VIEWS } from "./route.js";
import { age, freshness, refresh, run, sawLink, sawSnapshot, watch } from "./run.js";
import { saveMenu } from "./save.js";

const LOAD = {
  overview: () => import("./overview/view.js"),
  graph: () => import("./graph/view.js"),
  feature: () => import("./feature/view.js"),
  search: () => import("./search.js"),
  compare: () => import("./compare.js"),
};
const TITLES = { overview: "Overview", graph: "Graph", feature: "Feature", search: "Search", compare: "Compare" };

let shown = null; // { name, view }
let turn = 0;

async function show(parameters) {
  const mine = ++turn;
  const name = parameters.view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const open = byId("open");
  open.value = parameters.q ?? (name === "feature" ? (parameters.feature ?? "") : open.value);
  title();
  if (shown?.name === name) {
    shown.view.update(parameters);
    return;
  }
  const module = await LOAD[name]();
  if (mine !== turn) return;
  shown?.view.close?.();
  const root = element("div", { class: `view ${name}` });
  byId("view").replaceChildren(root);
  shown = { name, view: module.open(root, parameters) };
  byId("save").replaceChildren(saveMenu(root, name, shown.view));
  title();
}

function title() {
  const name = TITLES[parse().view];
  const tokens = run.snapshot?.tokens;
  document.title = tokens ? `${name} · ${brief(tokens)} tokens · saestream` : `${name} · saestream`;
}

function header() {
  const link = freshness();
  const old = age() > 10 ? 5 * Math.round(age() / 5) : Math.round(age()); // read out by a screen reader: not every second
  const pill = byId("link");
  pill.dataset.link = link;
  put(pill, { lost: "connection lost – trying again", stale: `numbers are ${old} s old`, live: "live" }[link]);
  const notice = byId("notice");
  notice.hidden = !run.problem;
  put(notice, run.problem ?? "");
  const { status, snapshot } = run;
  if (status) {
    put("model", status.model || `${status.layers.length} layers, activations pushed`);
    byId("model").title = [status.model, status.saes].filter(Boolean).join(" · ");
  }
  put("tokens", snapshot ? count(snapshot.tokens) : "–");
  title();
}

for (const name of VIEWS) {
  byId("views").append(element("a", { href: address({ view: name }), "data-view": name }, TITLES[name]));
}
byId("lookup").addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = byId("open").value.trim();
  if (isFeature(wanted)) go(parse(new URL(featureLink(wanted.replace(/\s/g, "")), location.href).search));
  else go({ view: "search", q: wanted });
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea"))
    return;
  event.preventDefault();
  byId("open").select();
});

watch(header);
watch(() => shown?.view.moved?.());
onRoute((parameters) => show(parameters).catch((error) => byId("view").replaceChildren(empty(error.message))));
followLinks();
follow({ onSnapshot: (snapshot) => (sawSnapshot(snapshot), refresh()), onRefresh: refresh, onLink: sawLink });
setInterval(header, 1_000);
show(parse());
