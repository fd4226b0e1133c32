// Draws every chart of the report from the JSON beside it, in the colours of the page, and again when these change.
"use strict";

const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [...document.querySelectorAll("figure.chart")].map((figure) => ({
  plot: figure.querySelector(".plot"),
  given: JSON.parse(figure.querySelector("script").textContent),
}));

function colours(layout) {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const found = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font.color": of("--ink"),
    "font.family": getComputedStyle(document.body).fontFamily,
    "font.size": 12,
    "hoverlabel.bgcolor": of("--card"),
    "hoverlabel.bordercolor": of("--quiet"),
    "hoverlabel.font.color": of("--ink"),
  };
  for (const axis of ["xaxis", "yaxis"]) {
    if (layout[axis]) {
      found[`${axis}.gridcolor`] = of("--line");
      found[`${axis}.zerolinecolor`] = of("--line");
      found[`${axis}.fixedrange`] = true;
    }
  }
  return found;
}

for (const { plot, given } of charts) {
  Plotly.newPlot(plot, given.data, given.layout, { responsive: true, displayModeBar: false })
    .then(() => Plotly.relayout(plot, colours(given.layout)));
}
dark.addEventListener("change", () => charts.forEach(({ plot, given }) => Plotly.relayout(plot, colours(given.layout))));
