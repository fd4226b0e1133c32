// The corpora with their progress, and sending text: chosen or dropped anywhere on the overview.

import { bar, element, section } from "../dom.js";
import { count, plural } from "../format.js";
import { query, send } from "../http.js";
import { refresh, run } from "../run.js";

const TYPES = {
  txt: "text/plain",
  md: "text/plain",
  rst: "text/plain",
  jsonl: "application/x-ndjson",
  ndjson: "application/x-ndjson",
  parquet: "application/vnd.apache.parquet",
};

export function corpora(root) {
  const list = element("ul", { class: "corpora" });
  const said = element("ul", { class: "sent", "aria-live": "polite" });
  const zone = sending(root, said);
  const place = section("Corpora", { class: "texts" }, list, zone.form, said);
  const hint = element(
    "section",
    { class: "start", "aria-label": "What to do next", hidden: true },
    element("h2", {}, "Nothing has been counted yet"),
    element("p", {}, "Drop a text file on this page, or send one from a terminal. The numbers appear here while it is read."),
    element(
      "pre",
      {},
      element("code", {}, `curl --data-binary @text.txt -H 'Content-Type: text/plain' '${location.origin}/v1/corpora?name=mine'`),
    ),
    element("button", { type: "button", class: "primary", onclick: () => zone.pick() }, "Choose a file …"),
  );
  const show = () => list.replaceChildren(...(run.corpora ?? []).map(row));
  const table = () => ({
    name: "Corpora",
    columns: ["corpus", "state", "documents", "documents_counted", "tokens_counted", "tokens_set_aside", "bytes"],
    rows: (run.corpora ?? []).map((one) => [
      one.name,
      one.state,
      one.documents,
      one.documents_counted,
      one.tokens_counted,
      one.set_aside.tokens,
      one.bytes,
    ]),
  });
  return { place, hint, show, table };
}

function row(corpus) {
  const done = `${count(corpus.documents_counted)} of ${plural(corpus.documents, "document")}`;
  const details = [done, `${count(corpus.tokens_counted)} tokens`];
  const { set_aside: aside } = corpus;
  if (aside.documents || aside.tokens) details.push(`${count(aside.tokens)} tokens set aside: ${aside.reasons.join("; ")}`);
  return element(
    "li",
    {},
    element(
      "div",
      { class: "row" },
      element("b", {}, corpus.name),
      element("span", { class: corpus.state === "failed" ? "fault" : "quiet" }, corpus.state),
    ),
    bar(corpus.documents ? corpus.documents_counted / corpus.documents : 0, `${corpus.name}: ${done}`),
    element("small", {}, details.join(" · ")),
  );
}

function sending(root, said) {
  const name = element("input", {
    "aria-label": "corpus name",
    placeholder: "corpus name",
    maxlength: 64,
    pattern: "[A-Za-z0-9._\\-]+",
    title: "letters, digits, dots, dashes, underscores",
  });
  const file = element("input", {
    type: "file",
    multiple: true,
    class: "unseen",
    tabindex: -1,
    "aria-label": "files to send",
    accept: Object.keys(TYPES)
      .map((end) => `.${end}`)
      .join(","),
  });
  const pick = () => file.click();
  const form = element(
    "div",
    { class: "drop", "data-tool": true },
    element("span", { class: "quiet" }, "Drop .txt, .jsonl or .parquet here"),
    name,
    element("button", { type: "button", onclick: pick }, "Choose …"),
    file,
  );
  const all = async (files) => {
    for (const one of files) await upload(one, name, said);
  };
  file.addEventListener("change", async () => {
    await all([...file.files]);
    file.value = "";
  });
  let inside = 0;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  root.addEventListener("dragenter", (event) => holdsFiles(event) && root.classList.toggle("dropping", ++inside > 0));
  root.addEventListener("dragleave", (event) => holdsFiles(event) && root.classList.toggle("dropping", --inside > 0));
  root.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  root.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    root.classList.remove("dropping");
    inside = 0;
    all([...event.dataTransfer.files]);
  });
  return { form, pick };
}

async function upload(file, name, said) {
  const line = element("li", {}, `${file.name}: sending ${count(file.size / 1024)} KiB …`);
  said.prepend(line);
  const type = TYPES[file.name.split(".").pop().toLowerCase()];
  if (!type) {
    line.className = "fault";
    line.textContent = `${file.name}: its name must end in ${Object.keys(TYPES)
      .map((end) => `.${end}`)
      .join(", ")}`;
    return;
  }
  const own =
    file.name
      .replace(/\.[^.]*$/, "")
      .replace(/[^A-Za-z0-9._-]+/g, "-")
      .slice(0, 64) || "text";
  try {
    const taken = await send(`/v1/corpora?${query({ name: name.value.trim() || own })}`, file, type);
    line.textContent = `${file.name}: ${plural(taken.documents, "document")} taken into ${taken.corpus}`;
    refresh();
  } catch (error) {
    line.className = "fault";
    line.textContent = `${file.name}: ${error.message}`;
  }
}
