// The address bar: `/?view=graph&start=feature:3:17&k=8`. What a view shows is in it, so a link shows the same again.

export const VIEWS = ["overview", "graph", "feature", "search", "compare"];

export function parse(search = location.search) {
  const given = Object.fromEntries(new URLSearchParams(search));
  const view = VIEWS.includes(given.view) ? given.view : given.feature ? "feature" : given.q ? "search" : "overview";
  return { ...given, view };
}

export function address(parameters) {
  const { view, ...rest } = parameters;
  const pairs = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const shown = view === "overview" ? pairs : [["view", view], ...pairs];
  const text = new URLSearchParams(shown).toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
  return text ? `/?${text}` : "/";
}

let render = () => {};
export const onRoute = (listener) => (render = listener);

// Shows what `parameters` say; `replace` where the step is too small for the back button (panning).
export function go(parameters, { replace = false, quiet = false } = {}) {
  const link = address(parameters);
  if (link !== location.pathname + location.search) history[replace ? "replaceState" : "pushState"](null, "", link);
  if (!quiet) render(parse());
}

// A click on a link of ours stays on the page; with a modifier it opens a tab as any link does.
export function followLinks() {
  addEventListener("popstate", () => render(parse()));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href^='/?'], a[href='/']");
    if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(parse(new URL(link.getAttribute("href"), location.href).search)); // `href` of a link within a drawing is no text
  });
}

export const featureLink = (feature, measure) =>
  address({ view: "feature", feature, measure: measure === "jaccard" ? null : measure });
