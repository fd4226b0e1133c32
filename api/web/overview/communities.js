// The most stable communities, as places to start the graph from.

import { element, empty, section } from "../dom.js";
import { count, estimate, plural } from "../format.js";
import { recent } from "../http.js";
import { address, featureLink } from "../route.js";
import { run } from "../run.js";

const SECONDS = 30;
const SHOWN = 8;

export function communities() {
  const list = element("ol", { class: "groups" });
  const told = element("p", { class: "note" });
  const place = section("Communities", { class: "wide" }, list, told);
  place.hidden = true;
  let answer = null;
  let version = null;
  const moved = async () => {
    if (version === run.snapshot.version) return;
    version = run.snapshot.version;
    try {
      answer = await recent(`/v1/communities?sort=stability&limit=${SHOWN}`, SECONDS);
    } catch (error) {
      version = null;
      place.hidden = error.status === 404;
      if (!answer) list.replaceChildren(element("li", {}, empty(error.message)));
      return;
    }
    place.hidden = false;
    list.replaceChildren(...answer.items.map(row));
    if (!answer.items.length) list.replaceChildren(element("li", {}, empty("None yet: too few pairs are similar enough.")));
    const agree = answer.agreement.adjusted_mutual_information;
    const halves =
      agree === null
        ? (answer.agreement.reason ?? "")
        : `The two halves of the documents agree on them to ${estimate(agree)} (adjusted mutual information; 1: the same).`;
    told.textContent = `${plural(answer.total, "community", "communities")} of features that fire together across layers; most stable first. ${halves}`;
  };
  return { place, moved, tables: () => (answer?.items.length ? [table(answer)] : []) };
}

const row = (one) =>
  element(
    "li",
    {},
    element("a", { class: "id", href: address({ view: "graph", start: `community:${one.id}` }) }, one.id),
    element("span", {}, `${plural(one.size, "feature")}, layers ${one.span.first}–${one.span.last}`),
    element(
      "span",
      { class: "quiet", title: "best overlap (Jaccard) with a community of either half" },
      one.stability?.mean === undefined ? "" : `stability ${estimate(one.stability.mean)}`,
    ),
    element(
      "span",
      { class: "members" },
      ...one.top.slice(0, 3).flatMap((feature, at) => [at ? " " : "", element("a", { href: featureLink(feature) }, feature)]),
    ),
  );

const table = (answer) => ({
  name: "Communities",
  columns: ["id", "size", "first_layer", "last_layer", "density", "stability", "top"],
  rows: answer.items.map((one) => [
    one.id,
    one.size,
    one.span.first,
    one.span.last,
    one.density,
    one.stability?.mean ?? null,
    one.top.join(" "),
  ]),
});
