// The seats: one cell each, with the worker that sits there, or, during an exchange, the old one and the new one.

import { facts, html, icon, lines, setText } from "./page-draw.js";
import { clock, duration, latency, number, percent, rate, sentence, share, size } from "./page-words.js";

// As many colours as the stylesheet has for generations.
const COLOURS = 6;
// How long a worker that is gone can still be seen going.
const FAREWELL = 450;
const ROOMY = 16;
const DENSE = 128;

export const colour = (generation) => `gen-${generation % COLOURS}`;

const key = (worker) => `${worker.index} ${worker.pid} ${worker.generation}`;

export class Seats {
  #list = document.getElementById("seats");
  #seats = [];
  #tiles = new Map();
  #current = null; // the key of the tile that the keyboard is at
  #chosen = null; // the worker whose details are shown, as it was last seen
  #model = null;

  constructor() {
    this.#list.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) this.#choose(tile);
    });
    this.#list.addEventListener("keydown", (event) => this.#move(event));
    this.#list.addEventListener("focusin", (event) => this.#goTo(event.target.closest(".tile")));
    document.getElementById("details-close").addEventListener("click", () => this.#close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#chosen) this.#close();
    });
  }

  show(model) {
    this.#model = model;
    const { workers, target, generation, ready } = model.status;
    const count = Math.max(target, ...workers.map((worker) => worker.index + 1));
    this.#list.style.setProperty("--seats", count);
    this.#list.className = `seats ${count <= ROOMY ? "roomy" : count <= DENSE ? "dense" : "crowd"}`;
    while (this.#seats.length < count) this.#addSeat();
    while (this.#seats.length > count) this.#seats.pop().remove();

    const bySeat = new Map();
    for (const worker of workers) bySeat.set(worker.index, [...(bySeat.get(worker.index) ?? []), worker]);
    const there = new Set(workers.map(key));
    for (const [name, tile] of this.#tiles) if (!there.has(name)) this.#farewell(name, tile);
    this.#seats.forEach((seat, index) => this.#fill(seat, bySeat.get(index) ?? []));

    if (!this.#tiles.has(this.#current)) this.#current = null;
    if (this.#current === null && workers.length) this.#goTo(this.#tiles.get(key(workers[0])));
    const countOf = (state) => workers.filter((worker) => worker.state === state).length;
    const others = ["starting", "retiring"].filter(countOf).map((state) => `${countOf(state)} ${state}`);
    setText(document.getElementById("workers-summary"),
      [`${ready} of ${target} ready`, ...others, `generation ${generation}`].join(" · "));
    this.#showDetails();
  }

  #addSeat() {
    const index = this.#seats.length;
    const seat = html("li", { class: "seat" },
      html("span", { class: "seat-name", "aria-hidden": "true" }, String(index)),
      html("div", { class: "tiles" }),
      html("span", { class: "vacant" }, html("span", { class: "unseen" }, `Seat ${index}: `), "empty"));
    this.#seats.push(seat);
    this.#list.append(seat);
  }

  #fill(seat, workers) {
    // The old one on the left.
    workers.sort((one, other) => one.generation - other.generation || other.age_seconds - one.age_seconds);
    const tiles = seat.children[1];
    const living = [...tiles.children].filter((each) => !each.classList.contains("gone"));
    workers.forEach((worker, place) => {
      let tile = this.#tiles.get(key(worker));
      if (tile === undefined) {
        tile = html("button", { type: "button", tabindex: "-1" }, html("span", { class: "generation" }, String(worker.generation)),
          html("span", { class: "state" }), html("span", { class: "pid" }, `pid ${worker.pid}`), html("span", { class: "busy" }));
        tile.dataset.key = key(worker);
        this.#tiles.set(key(worker), tile);
      }
      if (living[place] !== tile) tiles.insertBefore(tile, living[place] ?? null);
      this.#paint(tile, worker);
    });
    seat.classList.toggle("exchange", workers.length > 1);
    seat.classList.toggle("empty", workers.length === 0);
  }

  #paint(tile, worker) {
    tile.style.setProperty("--busy", worker.busy_share ?? 0);
    const look = [worker.state, worker.recycled_for, worker.baseline, this.#isChosen(worker)].join(" ");
    if (tile.dataset.look === look) return;
    tile.dataset.look = look;
    tile.className = `tile ${colour(worker.generation)} ${worker.state}${worker.recycled_for ? " due" : ""}`;
    tile.setAttribute("aria-expanded", String(this.#isChosen(worker)));
    tile.setAttribute("aria-controls", "details");
    tile.setAttribute("aria-label", `Seat ${worker.index}: generation ${worker.generation}, ${worker.state}, `
      + `pid ${worker.pid}${worker.baseline ? ", baseline" : ""}${worker.recycled_for ? ", due for recycling" : ""}`);
    const word = worker.baseline && worker.state === "ready" ? "baseline" : worker.state;
    tile.children[1].replaceChildren(icon(worker.state), html("span", {}, word));
  }

  // Take a tile away, but let it be seen going.
  #farewell(name, tile) {
    this.#tiles.delete(name);
    tile.classList.add("gone");
    // Whoever was at it goes on with the one that took its place.
    const heir = tile.parentElement.querySelector(".tile:not(.gone)") ?? this.#list.querySelector(".tile:not(.gone)");
    if (document.activeElement === tile) heir?.focus();
    tile.disabled = true;
    tile.setAttribute("aria-hidden", "true");
    setTimeout(() => tile.remove(), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : FAREWELL);
  }

  // One tile can be reached by Tab, the others by the arrows.
  #goTo(tile) {
    if (!tile) return;
    this.#tiles.get(this.#current)?.setAttribute("tabindex", "-1");
    this.#current = tile.dataset.key;
    tile.setAttribute("tabindex", "0");
  }

  #move(event) {
    const tiles = [...this.#list.querySelectorAll(".tile:not(.gone)")];
    const place = tiles.indexOf(document.activeElement);
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tiles.length - 1,
      ArrowDown: this.#below(tiles, place, 1), ArrowUp: this.#below(tiles, place, -1) }[event.key];
    if (to === undefined || place < 0) return;
    event.preventDefault();
    tiles[Math.max(0, Math.min(tiles.length - 1, to))].focus();
  }

  // The place of the tile in the next line of cells, or in the one before, nearest below or above.
  #below(tiles, place, direction) {
    if (place < 0) return place;
    const here = tiles[place].getBoundingClientRect();
    let best = place;
    let least = Infinity;
    for (let other = place + direction; other >= 0 && other < tiles.length; other += direction) {
      const there = tiles[other].getBoundingClientRect();
      if (direction * (there.top - here.top) < here.height / 2) continue;
      const distance = Math.abs(there.left - here.left) + 4 * Math.abs(there.top - here.top);
      if (distance > least) break;
      [best, least] = [other, distance];
    }
    return best;
  }

  #isChosen(worker) {
    return this.#chosen !== null && key(this.#chosen) === key(worker);
  }

  #choose(tile) {
    const worker = this.#model.status.workers.find((each) => key(each) === tile.dataset.key);
    if (!worker) return;
    this.#chosen = this.#isChosen(worker) ? null : worker;
    this.show(this.#model);
  }

  #close() {
    const tile = this.#tiles.get(key(this.#chosen)) ?? this.#tiles.get(this.#current);
    this.#chosen = null;
    this.show(this.#model);
    tile?.focus();
  }

  #showDetails() {
    const panel = document.getElementById("details");
    panel.hidden = this.#chosen === null;
    if (this.#chosen === null) return;
    const alive = this.#model.status.workers.find((each) => this.#isChosen(each));
    this.#chosen = alive ?? this.#chosen;
    const worker = this.#chosen;
    setText(document.getElementById("details-heading"), `Seat ${worker.index}: worker with pid ${worker.pid}`);
    const last = this.#model.lastOf(worker.pid);
    const told = last ? `${clock(last.unix_time)} ${sentence(last)}` : null;
    facts(document.getElementById("details-facts"), [
      ["state", alive ? worker.state : "gone"], ...described(alive ? worker : { ...worker, waits_for: null }),
      told && ["last event", told],
    ]);
    showLines(worker);
  }
}

const KNOWN = {
  generation: ["generation", String],
  age_seconds: ["age", duration],
  ready_after_seconds: ["ready after", duration],
  memory_bytes: ["memory", size],
  requests: ["requests done", number],
  in_flight: ["in flight", number],
  busy_share: ["busy", share],
  restarts: ["restarts", (count) => (count ? `${number(count)} in this seat` : "none")],
  recycled_for: ["due for recycling", (reason) => `it ${reason}`],
  waits_for: ["waits for", String],
};
// Said elsewhere, or in words.
const HIDDEN = new Set(["index", "pid", "state", "recycling", "killed_in_seconds", "baseline"]);

// What the document says of a worker. Keys are only ever added to it: one that is not known here is shown as it is.
function* described(worker) {
  for (const [name, [term, say]] of Object.entries(KNOWN)) {
    if (!(name in worker) || (worker[name] === null && (name === "recycled_for" || name === "waits_for"))) continue;
    yield [term, worker[name] === null ? "–" : say(worker[name])];
  }
  if (worker.baseline) yield ["baseline", "runs the old code, to compare new workers with"];
  const recent = worker.traffic?.recent;
  if (recent?.requests) {
    yield ["requests a second", rate(recent.requests_per_second)];
    yield ["failed", percent(recent.failed_share)];
    yield ["p99", latency(recent.p99_seconds)];
  }
  for (const [name, value] of Object.entries(worker)) {
    if (name in KNOWN || HIDDEN.has(name) || value === null || typeof value === "object") continue;
    yield [name.replaceAll("_", " "), value];
  }
}

// Lists of lines, such as the last ones that a worker wrote.
function showLines(worker) {
  const place = document.getElementById("details-lines");
  const lists = Object.entries(worker).filter(([, value]) => Array.isArray(value) && value.length);
  const text = JSON.stringify(lists);
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(...lists.flatMap(([name, all]) => lines(name.replaceAll("_", " "), all)));
}
