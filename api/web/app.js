// The page: wires the event stream, the status and the lookup together, and keeps the address bar a link to what is shown.

import { byId, element } from "./dom.js";
import { address, currentFeature, show } from "./feature.js";
import { read } from "./http.js";
import { follow } from "./live.js";
import { refresh, showAge, showLink, showSnapshot } from "./status.js";

const FEATURE_MS = 3_000; // what is looked at is read again at most this often: reading a list that moves under the eyes is no help
const MEASURES = [
  ["jaccard", "Jaccard"],
  ["sufficiency", "sufficiency"],
  ["necessity", "necessity"],
  ["phi", "phi"],
  ["lift", "lift"],
  ["mutual_information", "mutual information"],
  ["pearson", "Pearson"],
  ["activation_cosine", "activation cosine"],
  ["decoder_cosine", "decoder cosine"],
];

const feature = byId("feature");
const measure = byId("measure");
measure.append(...MEASURES.map(([value, label]) => element("option", { value }, label)));

function lookUp(push = true) {
  const wanted = feature.value.replace(/\s/g, "");
  if (!/^\d+:\d+$/.test(wanted)) return;
  if (push) history.pushState(null, "", address(wanted, measure.value));
  show(wanted, measure.value);
}

function fromAddress() {
  const query = new URLSearchParams(location.search);
  const asked = query.get("measure");
  measure.value = MEASURES.some(([value]) => value === asked) ? asked : "jaccard";
  feature.value = query.get("feature") ?? "";
  if (feature.value) lookUp(false);
  else byId("found").replaceChildren();
}

async function anyFeature() {
  const button = byId("random");
  button.disabled = true;
  try {
    const { layers } = await read("/v1/status");
    for (let attempt = 0; attempt < 20; attempt += 1) {
      const layer = layers[Math.floor(Math.random() * layers.length)];
      const picked = `${layer.layer}:${Math.floor(Math.random() * layer.features)}`;
      const record = await read(`/v1/features/${picked.replace(":", "/")}`);
      feature.value = picked;
      if (record.count > 0) break;
    }
    lookUp();
  } catch (error) {
    byId("found").replaceChildren(element("p", { class: "empty" }, error.message));
  } finally {
    button.disabled = false;
  }
}

byId("lookup").addEventListener("submit", (event) => {
  event.preventDefault();
  lookUp();
});
measure.addEventListener("change", () => lookUp());
byId("random").addEventListener("click", anyFeature);
addEventListener("popstate", fromAddress);
byId("found").addEventListener("click", (event) => {
  const link = event.target.closest("a[data-feature]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  feature.value = link.dataset.feature;
  lookUp();
});

let shownAt = 0;
follow({
  onSnapshot: (snapshot) => {
    showSnapshot(snapshot);
    refresh();
    const looked = currentFeature();
    if (looked && feature.value.replace(/\s/g, "") === looked.feature && performance.now() - shownAt > FEATURE_MS) {
      shownAt = performance.now();
      show(looked.feature, looked.measure, true);
    }
  },
  onRefresh: refresh,
  onLink: showLink,
});
setInterval(showAge, 1_000);
fromAddress();
