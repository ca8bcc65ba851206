// The airbag: ready workers against N over time, in which an upgrade that costs capacity would be a dip below N.

import { Chart, round } from "./page-charts.js";
import { html, icon, iconOf, setText, svg } from "./page-draw.js";
import { airbag, isExpected } from "./page-model.js";
import { clock, course, duration, outcome } from "./page-words.js";

// So many of the last upgrades can be chosen.
const CHOICES = 5;

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
const END = {
  done: ["ready", "good"], superseded: ["superseded", "calm"], "rolled-back": ["rolled-back", "bad"], aborted: ["rolled-back", "bad"],
};

function markOf(event) {
  if (event.event === "upgrade-started") return ["begin", "calm", `upgrade ${course(event)} started`];
  if (event.event !== "upgrade-ended") return MARK[event.event];
  const [shape, tone] = END[event.outcome] ?? ["stopping", "bad"];
  return [shape, tone, `upgrade to ${event.generation} ${outcome(event.outcome)}`];
}

class Timeline extends Chart {
  #stretches = [];
  #scales = null;
  #pointer = null;

  constructor(id) {
    super(id, 270);
    this.readout = this.element.appendChild(html("p", { class: "readout", "aria-hidden": "true" }));
    this.picture.addEventListener("pointermove", (event) => this.#point(event.clientX));
    this.picture.addEventListener("pointerdown", (event) => this.#point(event.clientX));
    this.picture.addEventListener("pointerleave", () => this.#point(null));
    this.#defineHatching();
  }

  // Below N is hatched too, for those who see no red.
  #defineHatching() {
    const size = { width: 7, height: 7 };
    const pattern = (name) => svg("pattern",
      { ...size, id: `hatch-${name}`, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { ...size, class: `hatch-ground ${name}` }), svg("rect", { ...size, width: 3, class: `hatch-line ${name}` }));
    this.element.append(svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "patterns" },
      svg("defs", {}, pattern("below"), pattern("filling"))));
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
    this.#scales = this.begin({ ...window, low, high, top: LANE + MARKS + 6, margin: 42 + 7.5 * String(most).length, describe });
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
    add("text", { class: "label target", x: area.right + 6, y: y(last.target) + 4 }, `N = ${last.target}`);
  }

  #drawUpgrades({ from, to }, upgrades) {
    const { x, area, add } = this.#scales;
    const spans = upgrades.filter((each) => (each.ended ?? to) >= from && each.began <= to).map((upgrade) => {
      const left = Math.max(area.left, x(upgrade.began));
      return { upgrade, left, right: Math.min(area.right, Math.max(x(upgrade.ended ?? to), left + 4)) };
    });
    // Words stand in their span, beside it, or nowhere: the newest first, whose words matter most.
    const taken = spans.map(({ left, right }) => [left, right]);
    for (const { upgrade, left, right } of spans) {
      const look = upgrade.outcome ?? "running";
      const words = `${course(upgrade)} ${outcome(upgrade.outcome)}`;
      const widthOf = (text) => text.length * 6.1 + 12;
      const room = widthOf(words);
      const free = (begin) => begin >= 0 && begin + room <= area.right
        && taken.every(([one, other]) => begin + room <= one || other <= begin);
      add("rect", { class: `span ${look}`, x: left, y: 1, width: round(right - left), height: LANE - 6, rx: 4 });
      const beside = [right, left - room].find(free);
      if (right - left >= room) {
        add("text", { class: "span-words", x: left + 6, y: 14 }, words);
      } else if (beside !== undefined) {
        add("text", { class: "span-words outside", x: beside + 6, y: 14 }, words);
        taken.push([beside, beside + room]);
      } else if (right - left >= widthOf(course(upgrade))) {
        add("text", { class: "span-words", x: left + 6, y: 14 }, course(upgrade));
      }
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
    const near = this.#pointer === null || !this.#scales ? []
      : this.#stretches.filter((each) => x(each.from) - 3 <= this.#pointer && this.#pointer <= x(each.to) + 3);
    // Of what is too short to be pointed at, the worst matters.
    const here = near.reduce((worst, each) => (worst && worst.ready - worst.target <= each.ready - each.target ? worst : each), null);
    if (!here) {
      this.readout.textContent = "";
      return;
    }
    this.picture.append(svg("line", { class: "pointer", x1: this.#pointer, x2: this.#pointer, y1: area.top, y2: area.bottom }));
    this.readout.textContent = `${clock(here.from)}: ${here.ready} ready, N is ${here.target}`
      + ` (for ${duration(here.to - here.from)})`;
  }
}

const keyOf = (upgrade) => String(upgrade.began);

// The panel: which stretch of time is shown, the timeline of it, and what it means in a sentence.
export class Airbag {
  #timeline = new Timeline("timeline");
  #windows = document.getElementById("windows");
  #verdict = document.getElementById("airbag-verdict");
  #chosen = "live"; // or when the chosen upgrade began
  #model = null;

  constructor() {
    this.#windows.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      this.#chosen = button.value;
      this.show(this.#model);
    });
  }

  show(model) {
    this.#model = model;
    const upgrades = model.upgrades();
    const chosen = upgrades.find((each) => keyOf(each) === this.#chosen);
    this.#showChoices(upgrades.filter((each, place) => place < CHOICES || each === chosen), chosen);
    const window = chosen ? around(chosen, model.now) : model.live;
    const stretches = model.stretches(window.from, window.to);
    const [word, text] = judge(airbag(stretches));
    setText(this.#verdict, text);
    this.#verdict.dataset.verdict = word;
    const what = chosen ? `during the upgrade ${course(chosen)}, ${outcome(chosen.outcome)}`
      : `over the last ${duration(window.to - window.from)}`;
    this.#timeline.show({ window, stretches, events: model.events, upgrades, describe: `Ready workers against N ${what}. ${text}` });
  }

  #showChoices(upgrades, chosen) {
    const choices = [{ key: "live", look: "live", content: ["Live"] }, ...upgrades.map((each) => ({
      key: keyOf(each), look: each.outcome ?? "running",
      content: [icon(iconOf(each.outcome)), `${course(each)} ${outcome(each.outcome)}, ${clock(each.began)}`],
    }))];
    const pressed = chosen ? this.#chosen : "live";
    const buttons = choices.map(({ key, look, content }) => html("button", {
      type: "button", value: key, class: `button small ${look}`, "aria-pressed": String(key === pressed) }, ...content));
    const same = (each, place) => each.isEqualNode(this.#windows.children[place]);
    if (buttons.length === this.#windows.children.length && buttons.every(same)) return;
    const focused = this.#windows.contains(document.activeElement) ? document.activeElement.value : null;
    this.#windows.replaceChildren(...buttons);
    buttons.find((each) => each.value === focused)?.focus();
  }
}

// The time of an upgrade with a little before and after it.
function around(upgrade, now) {
  const end = upgrade.ended ?? now;
  const margin = Math.max(0.3, (end - upgrade.began) * 0.06);
  return { from: upgrade.began - margin, to: Math.max(end + margin, upgrade.began + 1), relativeTo: upgrade.began };
}

// A word and a sentence on what `airbag` found.
function judge({ below, expected, least, most }) {
  if (least === null) return ["filling", expected ? "N has not been reached yet." : "Nothing is known of this time."];
  if (least.ready < least.target) {
    return ["below", `Below N for ${duration(Math.max(below, 0.1))}: at worst ${least.ready} ready of ${least.target}.`];
  }
  const once = expected ? "Never below N once it was reached" : "Never below N";
  return ["held", `${once}: at least ${least.ready} ready of ${least.target}, at most ${most}.`];
}
