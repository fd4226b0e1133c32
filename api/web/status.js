// Everything above and below the lookup: token count, figures, corpora, layers.

import { bar, byId, element, put } from "./dom.js";
import { ago, brief, count } from "./format.js";
import { read } from "./http.js";

const seen = { open: false, version: [0, 0], snapshotAt: null, busy: false, interval: 1, saved: null };
let reading = false;
let again = false;

export function showSnapshot(snapshot) {
  const version = snapshot.version.split("-").map(Number);
  if (version[0] < seen.version[0] || (version[0] === seen.version[0] && version[1] < seen.version[1])) return; // overtaken by an event
  seen.version = version;
  seen.snapshotAt = performance.now() - snapshot.age_ms;
  put("tokens", count(snapshot.tokens));
  document.title = snapshot.tokens ? `${brief(snapshot.tokens)} tokens · saestream` : "saestream";
  showAge();
}

export function showLink(open) {
  seen.open = open;
  showAge();
}

export function showAge() {
  const age = seen.snapshotAt === null ? null : (performance.now() - seen.snapshotAt) / 1_000;
  put("age", age === null ? "none yet" : ago(age));
  if (seen.saved !== null) put("checkpoint", ago((Date.now() - seen.saved) / 1_000));
  const stale = seen.busy && age !== null && age > 3 * seen.interval + 2;
  const link = !seen.open ? "lost" : stale ? "stale" : "live";
  const pill = byId("link");
  pill.dataset.link = link;
  put("link", { lost: "connection lost – trying again", stale: `numbers are ${Math.round(age)} s old`, live: "live" }[link]);
}

// One read at a time; what is asked for meanwhile is read once, after it.
export async function refresh() {
  if (reading) {
    again = true;
    return;
  }
  reading = true;
  try {
    const [status, corpora] = await Promise.all([read("/v1/status"), read("/v1/corpora")]);
    showStatus(status);
    showCorpora(corpora.items);
    notice(status.problem);
  } catch (error) {
    notice(error.message);
  } finally {
    reading = false;
    if (again) {
      again = false;
      setTimeout(refresh, 500);
    }
  }
}

function notice(text) {
  const shown = byId("notice");
  shown.hidden = !text;
  put("notice", text ?? "");
}

function showStatus(status) {
  seen.busy = status.state === "counting" || status.queue_tokens > 0;
  seen.interval = status.publish_interval;
  seen.saved = status.checkpoint ? 1_000 * status.checkpoint.saved_at : null;
  if (status.snapshot) showSnapshot(status.snapshot);
  put("model", status.model ? `${status.model}` : `${status.layers.length} layers, activations pushed`);
  byId("model").title = [status.model, status.saes].filter(Boolean).join(" · ");
  const calibration = status.state === "calibrating" ? status.calibration : null;
  put("state", calibration ? `calibrating: ${brief(calibration.tokens)} of ${brief(calibration.calibration_tokens)} tokens` : status.state);
  put("rate", count(status.tokens_per_second));
  put("queue", status.queue_tokens ? `${brief(status.queue_tokens)} tokens` : "nothing");
  if (!status.checkpoint) put("checkpoint", "none yet");
  byId("layers").tBodies[0].replaceChildren(
    ...status.layers.map((layer) =>
      element(
        "tr",
        {},
        element("td", {}, String(layer.layer)),
        element("td", {}, layer.hook),
        element("td", { class: "number" }, count(layer.features)),
        element("td", { class: "number" }, count(layer.dead)),
      ),
    ),
  );
}

function showCorpora(corpora) {
  const rows = corpora.map((corpus) => {
    const done = `${count(corpus.documents_counted)} of ${count(corpus.documents)} documents`;
    const details = [done, `${count(corpus.tokens_counted)} tokens`];
    if (corpus.set_aside.documents || corpus.set_aside.tokens) details.push(`${count(corpus.set_aside.tokens)} tokens set aside`);
    return element(
      "li",
      {},
      element("div", { class: "row" }, element("b", {}, corpus.name), element("span", { class: corpus.state === "failed" ? "fault" : "quiet" }, corpus.state)),
      bar(corpus.documents ? corpus.documents_counted / corpus.documents : 0, done),
      element("small", {}, details.join(" · ")),
    );
  });
  const hint = element(
    "li",
    { class: "empty" },
    "No text has arrived yet. Send some: ",
    element("code", {}, `curl --data-binary @text.txt -H 'Content-Type: text/plain' '${location.origin}/v1/corpora?name=mine'`),
  );
  byId("corpora").replaceChildren(...(rows.length ? rows : [hint]));
}
