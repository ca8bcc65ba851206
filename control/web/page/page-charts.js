// Charts over time: their scales and axes, and lines of moving figures, one or two in a chart.

import { svg } from "./page-draw.js";
import { clock, duration } from "./page-words.js";

const NICE = [1, 2, 5];

// The least nice step (1, 2, 5, 10 …) that divides `span` into at most `most` parts.
function niceStep(span, most, least = 0) {
  for (let power = 10 ** Math.floor(Math.log10(Math.max(least, span / most, 1e-3))); ; power *= 10) {
    for (const nice of NICE) if (nice * power >= least && span / (nice * power) <= most) return nice * power;
  }
}

const TIME_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400];

function timeStep(span, most) {
  return TIME_STEPS.find((step) => span / step <= most) ?? 86400;
}

export const round = (value) => Math.round(value * 10) / 10;

// A chart that fills its element, in the element's own pixels, so that its words are as large as all others.
export class Chart {
  constructor(id, height) {
    this.element = document.getElementById(id);
    this.height = height;
    this.picture = svg("svg", { role: "img" });
    this.element.append(this.picture);
    this.again = () => {};
    this.width = this.element.clientWidth;
    // Asking for the width while the page changes costs a layout each time; this tells it when it changes.
    new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width;
      this.again();
    }).observe(this.element);
  }

  // Begin anew: scales for the time from `from` to `to` and the values from `low` to `high`, and the axes. `least`: the least step
  // between two lines of the grid.
  begin({ from, to, low, high, top, margin = 12, relativeTo = null, least = 1, describe }) {
    const width = Math.max(200, this.width);
    const left = 14 + 7.5 * String(high).length;
    const area = { left, right: width - margin, top, bottom: this.height - 24 };
    const x = (time) => round(area.left + ((time - from) / (to - from)) * (area.right - area.left));
    const y = (value) => round(area.bottom - ((value - low) / (high - low)) * (area.bottom - area.top));
    this.picture.replaceChildren();
    this.picture.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.picture.setAttribute("height", this.height);
    this.picture.setAttribute("aria-label", describe);
    const axes = svg("g", { class: "axes" });
    const step = niceStep(high - low, Math.max(2, (area.bottom - area.top) / 26), least);
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      axes.append(svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
        svg("text", { x: area.left - 7, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toFixed(3)))));
    }
    const zero = relativeTo ?? 0;
    const nameOf = (time) => {
      if (relativeTo === null) return clock(time);
      return Math.abs(time - zero) < tick / 2 ? "start" : duration(time - zero).replace(".0 s", " s");
    };
    const tick = timeStep(to - from, (area.right - area.left) / (relativeTo === null ? 96 : 56));
    for (let time = zero + Math.ceil((from - zero) / tick) * tick; time <= to; time += tick) {
      const label = nameOf(time);
      const half = label.length * 3.4;
      if (x(time) - half < 0 || x(time) + half > width) continue;
      axes.append(svg("line", { class: "tick", x1: x(time), x2: x(time), y1: area.bottom, y2: area.bottom + 4 }),
        svg("text", { x: x(time), y: area.bottom + 17, "text-anchor": "middle" }, label));
    }
    this.picture.append(axes);
    return { x, y, area, add: (name, attributes, ...children) => this.picture.appendChild(svg(name, attributes, ...children)) };
  }
}

// Stretches of points; one without samples is a gap: nobody looked.
function runsOf(points) {
  const runs = [];
  for (const [time, value] of points) {
    const run = runs.at(-1);
    if (run && time - run.at(-1)[0] < 15) run.push([time, value]);
    else runs.push([[time, value]]);
  }
  return runs;
}

const pathOf = (run, x, y) => run.map(([time, value], place) => `${place ? "L" : "M"}${x(time)} ${y(value)}`).join("");

// One moving figure over the last minutes; `limit`: drawn where it is near enough to matter.
export class Line extends Chart {
  constructor(id, tone) {
    super(id, 180);
    this.tone = tone;
  }

  show({ window, points, limit = null, describe }) {
    this.again = () => this.show({ window, points, limit, describe });
    const most = Math.max(...points.map(([, value]) => value), 3);
    const near = limit !== null && most > limit / 4;
    const high = Math.ceil((near ? Math.max(limit, most) : most) * 1.12);
    const { x, y, area, add } = this.begin({ ...window, low: 0, high, top: 10, describe });
    if (near) {
      add("line", { class: "limit", x1: area.left, x2: area.right, y1: y(limit), y2: y(limit) });
      add("text", { class: "label limit", x: area.left + 4, y: y(limit) + 13 }, `limit ${limit}`);
    }
    for (const run of runsOf(points)) {
      const line = pathOf(run, x, y);
      add("path", { class: `area ${this.tone}`, d: `${line}L${x(run.at(-1)[0])} ${area.bottom}L${x(run[0][0])} ${area.bottom}Z` });
      add("path", { class: `line ${this.tone}`, d: line });
    }
    const last = points.at(-1);
    if (last) add("circle", { class: `tip ${this.tone}`, cx: x(last[0]), cy: y(last[1]), r: 3 });
  }
}

// The same figure of several, each in a look of its own: `series` of {look, points}. `least`: the top of a chart of zeros.
export class Lines extends Chart {
  constructor(id) {
    super(id, 150);
  }

  show({ window, series, least, describe }) {
    this.again = () => this.show({ window, series, least, describe });
    const most = Math.max(least, ...series.flatMap(({ points }) => points.map(([, value]) => value)));
    const high = Number((most * 1.15).toPrecision(2));
    const { x, y, add } = this.begin({ ...window, low: 0, high, top: 8, least: least / 5, describe });
    for (const { look, points } of series) {
      for (const run of runsOf(points)) add("path", { class: `line compared ${look}`, d: pathOf(run, x, y) });
      const last = points.at(-1);
      if (last) add("circle", { class: `tip compared ${look}`, cx: x(last[0]), cy: y(last[1]), r: 3.5 });
    }
  }
}
