// The charts: ready workers against N, on which the airbag can be seen, and lines of moving figures.

import { html, icon, svg } from "./page-draw.js";
import { isExpected } from "./page-model.js";
import { clock, duration, outcome } from "./page-words.js";

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

const round = (value) => Math.round(value * 10) / 10;

// A chart that fills its element, in the element's own pixels, so that its words are as large as all others.
class Chart {
  constructor(id, height) {
    this.element = document.getElementById(id);
    this.height = height;
    this.picture = svg("svg", { role: "img" });
    this.element.append(this.picture);
    this.again = () => {};
    new ResizeObserver(() => this.again()).observe(this.element);
  }

  // Begin anew: scales for the time from `from` to `to` and the values from `low` to `high`, and the axes.
  begin({ from, to, low, high, top, margin = 12, relativeTo = null, describe }) {
    const width = Math.max(200, this.element.clientWidth);
    const left = 14 + 7.5 * String(high).length;
    const area = { left, right: width - margin, top, bottom: this.height - 24 };
    const x = (time) => round(area.left + ((time - from) / (to - from)) * (area.right - area.left));
    const y = (value) => round(area.bottom - ((value - low) / (high - low)) * (area.bottom - area.top));
    this.picture.replaceChildren();
    this.picture.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.picture.setAttribute("height", this.height);
    this.picture.setAttribute("aria-label", describe);
    const axes = svg("g", { class: "axes" });
    const step = niceStep(high - low, Math.max(2, (area.bottom - area.top) / 26), 1);
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      axes.append(svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y(value), y2: y(value) }),
        svg("text", { x: area.left - 7, y: y(value) + 4, "text-anchor": "end" }, String(value)));
    }
    const zero = relativeTo ?? 0;
    const tick = timeStep(to - from, (area.right - area.left) / (relativeTo === null ? 96 : 56));
    for (let time = zero + Math.ceil((from - zero) / tick) * tick; time <= to; time += tick) {
      const label = relativeTo === null ? clock(time) : Math.abs(time - zero) < tick / 2 ? "start" : duration(time - zero).replace(/\.0 s/, " s");
      const half = label.length * 3.4;
      if (x(time) - half < 0 || x(time) + half > width) continue;
      axes.append(svg("line", { class: "tick", x1: x(time), x2: x(time), y1: area.bottom, y2: area.bottom + 4 }),
        svg("text", { x: x(time), y: area.bottom + 17, "text-anchor": "middle" }, label));
    }
    this.picture.append(axes);
    return { x, y, area, add: (name, attributes, ...children) => this.picture.appendChild(svg(name, attributes, ...children)) };
  }
}

const LANE = 24; // height of the line of upgrades at the top
const MARKS = 20; // of the line of marks below it

const MARK = {
  "upgrade-refused": ["cross", "bad", "refused"],
  "upgrade-aborted": ["stopping", "bad", "aborted"],
  "upgrade-paused": ["paused", "calm", "paused"],
  "upgrade-resumed": ["begin", "calm", "resumed"],
  "worker-died": ["cross", "bad", "a worker died"],
  "worker-hung": ["cross", "bad", "a worker hung"],
};
const END = { done: ["ready", "good"], "rolled-back": ["rolled-back", "bad"], aborted: ["rolled-back", "bad"], superseded: ["superseded", "calm"] };

function markOf(event) {
  if (event.event === "upgrade-started") return ["begin", "calm", `upgrade ${event.from} → ${event.to} started`];
  if (event.event === "upgrade-ended") return [...END[event.outcome] ?? ["stopping", "bad"], `upgrade to ${event.generation} ${outcome(event.outcome)}`];
  return MARK[event.event];
}

export class Timeline extends Chart {
  #stretches = [];
  #scales = null;
  #pointer = null;

  constructor(id) {
    super(id, 250);
    this.readout = this.element.appendChild(html("p", { class: "readout", "aria-hidden": "true" }));
    this.picture.addEventListener("pointermove", (event) => this.#point(event.clientX));
    this.picture.addEventListener("pointerdown", (event) => this.#point(event.clientX));
    this.picture.addEventListener("pointerleave", () => this.#point(null));
    this.#defineHatching();
  }

  // Below N is hatched too, for those who see no red.
  #defineHatching() {
    const pattern = (name) => svg("pattern", { id: `hatch-${name}`, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { class: `hatch-ground ${name}`, width: 7, height: 7 }), svg("rect", { class: `hatch-line ${name}`, width: 3, height: 7 }));
    const patterns = svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "patterns" }, svg("defs", {}, pattern("below"), pattern("filling")));
    this.element.append(patterns);
  }

  // `window`: {from, to, relativeTo}; `stretches`: of that window; `events`, `upgrades`: all that are known.
  show({ window, stretches, events, upgrades, describe }) {
    this.again = () => this.show({ window, stretches, events, upgrades, describe });
    this.#stretches = stretches;
    const values = stretches.flatMap((each) => [each.ready, each.live, each.target]);
    const [least, most] = [Math.min(...values, Infinity), Math.max(...values, 1)];
    // Among many workers one more or less must still be seen.
    const low = most <= 12 || least < most / 2 ? 0 : Math.max(0, Math.floor(least - Math.max(2, (most - least) * 0.5)));
    const high = Math.ceil(most + Math.max(1, (most - Math.max(low, 0)) * 0.12));
    this.#scales = this.begin({ ...window, low, high, top: LANE + MARKS + 6, margin: 26 + 7.5 * String(most).length, describe });
    this.#drawAreas();
    this.#drawLines();
    this.#drawUpgrades(window, upgrades);
    this.#drawMarks(window, events);
    this.#drawPointer();
  }

  #drawAreas() {
    const { x, y, add } = this.#scales;
    const paths = { live: "", above: "", below: "", filling: "" };
    // However short, it is seen.
    const box = (from, to, one, other) => `M${x(from)} ${y(one)}H${Math.max(x(to), x(from) + 2.5)}V${y(other)}H${x(from)}Z`;
    for (const stretch of this.#stretches) {
      const { from, to, ready, live, target } = stretch;
      if (live > ready) paths.live += box(from, to, ready, live);
      if (ready > target) paths.above += box(from, to, target, ready);
      if (ready < target) paths[isExpected(stretch) ? "filling" : "below"] += box(from, to, target, ready);
    }
    for (const [kind, path] of Object.entries(paths)) if (path) add("path", { class: `area ${kind}`, d: path });
  }

  #drawLines() {
    const { x, y, area, add } = this.#scales;
    const path = (what) => this.#stretches.map((each, place) => {
      const joined = place > 0 && this.#stretches[place - 1].to === each.from;
      return `${joined ? `V${y(each[what])}` : `M${x(each.from)} ${y(each[what])}`}H${x(each.to)}`;
    }).join("");
    const last = this.#stretches.at(-1);
    if (last === undefined) return;
    add("path", { class: "line ready", d: path("ready") });
    add("path", { class: "line target", d: path("target") });
    const right = Math.min(x(last.to), area.right);
    add("circle", { class: "tip", cx: right, cy: y(last.ready), r: 3.5 });
    add("text", { class: "label target", x: area.right + 6, y: y(last.target) + 4 }, `N ${last.target}`);
  }

  #drawUpgrades({ from, to }, upgrades) {
    const { x, area, add } = this.#scales;
    let free = area.right; // from the newest to the oldest, since the newest one's words matter most
    for (const upgrade of upgrades) {
      const end = upgrade.ended ?? to;
      if (end < from || upgrade.began > to) continue;
      const [left, right] = [Math.max(area.left, x(upgrade.began)), Math.min(area.right, Math.max(x(end), x(upgrade.began) + 4))];
      const words = `${upgrade.from === null ? "" : `${upgrade.from} `}→ ${upgrade.to} ${outcome(upgrade.outcome)}`;
      const room = words.length * 6.4 + 10;
      const inside = right - left >= room;
      add("rect", { class: `span ${upgrade.outcome ?? "running"}`, x: left, y: 1, width: round(right - left), height: LANE - 6, rx: 4 });
      if (inside) {
        add("text", { class: `span-words ${upgrade.outcome ?? "running"}`, x: left + 6, y: 14 }, words);
      } else if (right + room < free) {
        add("text", { class: "span-words outside", x: right + 5, y: 14 }, words);
      } else if (left - room > area.left && right >= free - room) {
        add("text", { class: "span-words outside", x: left - 5, y: 14, "text-anchor": "end" }, words);
        free = left - room;
        continue;
      }
      free = left;
    }
  }

  #drawMarks({ from, to }, events) {
    const { x, area, add } = this.#scales;
    let last = -Infinity;
    for (const event of events) {
      if (event.unix_time < from || event.unix_time > to) continue;
      const mark = markOf(event);
      if (!mark) continue;
      const [shape, tone, about] = mark;
      const here = x(event.unix_time);
      add("line", { class: `mark-line ${tone}`, x1: here, x2: here, y1: LANE + MARKS - 4, y2: area.bottom });
      if (here - last < 13) continue;
      last = here;
      const drawn = icon(shape, { class: `mark ${tone}`, x: here - 6.5, y: LANE, width: 13, height: 13 });
      drawn.prepend(svg("title", {}, `${clock(event.unix_time)} ${about}`));
      this.picture.append(drawn);
    }
  }

  #point(clientX) {
    this.#pointer = clientX === null ? null : clientX - this.picture.getBoundingClientRect().left;
    this.#drawPointer();
  }

  #drawPointer() {
    this.picture.querySelector(".pointer")?.remove();
    const { x, area } = this.#scales ?? {};
    const here = this.#scales && this.#pointer !== null
      && this.#stretches.find((each) => x(each.from) <= this.#pointer && this.#pointer <= x(each.to));
    if (!here) {
      this.readout.textContent = "";
      return;
    }
    this.picture.append(svg("line", { class: "pointer", x1: this.#pointer, x2: this.#pointer, y1: area.top, y2: area.bottom }));
    this.readout.textContent = `${clock(here.from)}: ${here.ready} ready, N is ${here.target}`
      + ` (for ${duration(here.to - here.from)})`;
  }
}

// One moving figure over the last minutes; `limit`: drawn where it is near enough to matter.
export class Line extends Chart {
  constructor(id, tone) {
    super(id, 130);
    this.tone = tone;
  }

  show({ window, points, limit = null, describe }) {
    this.again = () => this.show({ window, points, limit, describe });
    const most = Math.max(...points.map(([, value]) => value), 3);
    const near = limit !== null && most > limit / 4;
    const { x, y, area, add } = this.begin({ ...window, low: 0, high: Math.ceil((near ? Math.max(limit, most) : most) * 1.12), top: 10, describe });
    if (near) {
      add("line", { class: "limit", x1: area.left, x2: area.right, y1: y(limit), y2: y(limit) });
      add("text", { class: "label limit", x: area.left + 4, y: y(limit) + 13 }, `limit ${limit}`);
    }
    // A stretch without samples is a gap: nobody looked.
    const runs = [];
    for (const [time, value] of points) {
      const run = runs.at(-1);
      if (run && time - run.at(-1)[0] < 15) run.push([time, value]);
      else runs.push([[time, value]]);
    }
    for (const run of runs) {
      const line = run.map(([time, value], place) => `${place ? "L" : "M"}${x(time)} ${y(value)}`).join("");
      add("path", { class: `area ${this.tone}`, d: `${line}L${x(run.at(-1)[0])} ${area.bottom}L${x(run[0][0])} ${area.bottom}Z` });
      add("path", { class: `line ${this.tone}`, d: line });
    }
    const last = points.at(-1);
    if (last) add("circle", { class: `tip ${this.tone}`, cx: x(last[0]), cy: y(last[1]), r: 3 });
  }
}
