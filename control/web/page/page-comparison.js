// Old against new: what the two generations of an upgrade answer at the same time, as lines and as figures.

import { Lines } from "./page-charts.js";
import { html, setText } from "./page-draw.js";
import { colour } from "./page-seats.js";
import { duration, latency, number, percent, rate } from "./page-words.js";

const at = (id) => document.getElementById(id);

// `figure`: what a sample's traffic says, as the chart draws it; `least`: the top of its axis where all is zero.
const CHARTS = [
  { id: "rate", what: "Requests a second", figure: (each) => each.requests_per_second, say: rate, least: 1 },
  { id: "failed", what: "Failed of 100 requests", figure: (each) => each.failed_share && each.failed_share * 100,
    say: (value) => percent(value / 100), least: 1 },
  { id: "p99", what: "99 of 100 requests were answered within", figure: (each) => each.p99_seconds && each.p99_seconds * 1000,
    say: (value) => latency(value / 1000), least: 5 },
];

export class Comparison {
  #charts = new Map(CHARTS.map(({ id }) => [id, new Lines(id)]));

  show(model) {
    const { compared } = model;
    at("comparison").hidden = compared === null;
    if (compared === null) return;
    const { from, to, window } = compared;
    const sides = [{ generation: from, side: "old" }, { generation: to, side: "new" }];
    const span = `over the last ${duration(window.to - window.from)}`;
    setText(at("comparison-span"), `each figure is of 10 s, ${span}`);
    const samples = model.samples.filter((each) => each.unix_time >= window.from);
    for (const { id, what, figure, say, least } of CHARTS) {
      const series = sides.map(({ generation, side }) => ({
        look: `${side} ${colour(generation)}`,
        points: samples.map((each) => [each.unix_time, each.traffic?.[generation]])
          .filter(([, traffic]) => traffic).map(([time, traffic]) => [time, figure(traffic)]).filter(([, value]) => value !== null),
      }));
      const told = sides.map(({ generation, side }, place) => describe(`${side} code, generation ${generation}`, series[place].points, say));
      this.#charts.get(id).show({ window, series, least, describe: `${what} ${span}: ${told.join("; ")}.` });
    }
    const made = html("div", { id: "compared" }, table(sides, model.status.traffic ?? []));
    // Compared first, so that a selection stays.
    if (!made.isEqualNode(at("compared"))) at("compared").replaceChildren(...made.childNodes);
  }
}

function describe(who, points, say) {
  const last = points.at(-1);
  return last ? `${who}: now ${say(last[1])}, at most ${say(Math.max(...points.map(([, value]) => value)))}` : `${who}: nothing`;
}

// The same as figures; it also says which line is whose.
function table(sides, traffic) {
  const head = ["Code", "Requests a second", "Failed", "p50", "p95", "p99", "Requests since its start"];
  const rows = sides.map(({ generation, side }) => {
    const found = traffic.find((each) => each.generation === generation);
    const recent = found?.recent ?? {};
    return html("tr", {},
      html("th", { scope: "row", class: colour(generation) }, html("span", { class: `key compared ${side}`, "aria-hidden": "true" }),
        `${side}, generation ${generation}`),
      ...[rate(recent.requests_per_second), percent(recent.failed_share), latency(recent.p50_seconds), latency(recent.p95_seconds),
        latency(recent.p99_seconds), number(found?.since_start.requests)].map((text) => html("td", {}, text)));
  });
  return html("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Old against new, as figures of the last 10 s" },
    html("table", { class: "figures" },
      html("thead", {}, html("tr", {}, ...head.map((text) => html("th", { scope: "col" }, text)))),
      html("tbody", {}, ...rows)));
}
