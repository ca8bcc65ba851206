// The panels that are words and figures: the gate, the upgrade, the traffic, the events.

import { Line } from "./page-charts.js";
import { facts, html, icon, iconOf, lines, setText } from "./page-draw.js";
import { isExpected } from "./page-model.js";
import { bytes, clock, course, duration, latency, moment, needsAttention, number, outcome, percent, plural, reasonAndError, sentence,
  usage } from "./page-words.js";

const MOST_EVENTS = 200;

const at = (id) => document.getElementById(id);

export function showGate({ status }) {
  const { gate, reason, name, master, labels = {}, listeners, memory = {} } = status;
  at("gate").dataset.gate = gate;
  setText(at("gate-word"), gate);
  setText(at("gate-reason"), reason);
  if (at("gate-icon").dataset.icon !== gate) {
    at("gate-icon").dataset.icon = gate;
    at("gate-icon").replaceChildren(...icon(gate).childNodes);
  }
  setText(at("name"), name);
  const wanted = html("ul", {}, ...Object.entries(labels).map(([key, value]) => html("li", {}, `${key}=${value}`)));
  if (at("labels").innerHTML !== wanted.innerHTML) at("labels").replaceChildren(...wanted.childNodes);
  at("labels").hidden = !at("labels").hasChildNodes();
  facts(at("facts"), [
    ["ready", `${status.ready} of ${status.target}`],
    ["generation", status.generation],
    ["release", status.release ?? "no label"],
    ["uptime", duration(status.uptime_seconds)],
    ["master", `pid ${master.pid}, ${master.version}`],
    typeof memory.total_bytes === "number" && ["memory", usage(memory)],
    ["listening", listeners.map((each) => each.address).join(", ") || "no sockets"],
  ]);
  at("stopping").hidden = gate !== "stopping";
  setText(at("stopping"), `The master is stopping: ${reason}.`);
}

// The gate in the page's title and icon, for whoever has it among many tabs; null: not known now.
export function showTab(gate, name) {
  document.title = `${gate ?? "lost"} · ${name} · einhornpy`;
  const tone = getComputedStyle(gate === null ? at("lost") : at("gate")).getPropertyValue("--tone").trim();
  const path = icon(gate ?? "unknown").firstChild.getAttribute("d");
  const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="6" fill="${tone}"/>`
    + `<path d="${path}" transform="translate(3 3) scale(.75)" fill="none" stroke="#fff" stroke-width="3"/></svg>`;
  const address = `data:image/svg+xml,${encodeURIComponent(picture)}`;
  if (at("icon").getAttribute("href") !== address) at("icon").href = address;
}

export function showUpgrade(model) {
  const { upgrade } = model.status;
  const parts = upgrade ? describeUpgrade(model.status) : [html("p", { class: "aside" }, "None since the master started.")];
  const earlier = model.upgrades().find((each) => each.outcome !== null && each.to !== upgrade?.to);
  const why = earlier && reasonAndError(earlier);
  const before = earlier ? [html("div", { class: "earlier" }, html("h3", {}, `Before: ${course(earlier)}`, pill(earlier.outcome)),
    ...(why ? [html("p", { class: "error" }, why)] : []))] : [];
  const made = html("div", { id: "upgrade" }, ...parts, ...before);
  // Compared first, so that a selection stays.
  if (!made.isEqualNode(at("upgrade"))) at("upgrade").replaceChildren(...made.childNodes);
}

// The last start that failed, until it is made good: the end of what it wrote.
export function showFailedStart({ status: { failed_start: failed = null, reason } }) {
  const place = at("failed-start");
  const parts = failed === null ? [] : [html("h3", {}, `The last failed start: generation ${failed.generation}`),
    ...(failed.error && !reason.includes(failed.error) ? [html("p", { class: "error" }, failed.error)] : []),
    ...(failed.last_lines.length ? lines("its last lines", failed.last_lines) : [])];
  const made = html("div", { id: "failed-start", hidden: "" }, ...parts);
  place.hidden = parts.length < 2; // a heading alone says nothing that isn't said elsewhere
  if (made.innerHTML !== place.innerHTML) place.replaceChildren(...made.childNodes);
}

function pill(word, paused = false) {
  const [look, shape, text] = paused ? ["paused", "paused", "paused"] : [word ?? "running", iconOf(word), outcome(word)];
  return html("span", { class: `outcome ${look}` }, icon(shape), text);
}

function* describeUpgrade({ upgrade, target, gate, reason, left_behind = [] }) {
  const running = upgrade.outcome === null;
  yield html("p", { class: "which" }, html("strong", {}, course(upgrade)), pill(upgrade.outcome, running && gate === "paused"));
  const done = `${upgrade.replaced} of ${target} replaced`;
  yield html("div", { class: "progress" },
    html("progress", { max: target, value: Math.min(upgrade.replaced, target), "aria-label": done }), html("span", {}, done));
  const list = html("dl", { class: "facts" });
  facts(list, [
    ["kind", upgrade.recipe_of === null ? upgrade.kind : `${upgrade.kind}, recipe of ${upgrade.recipe_of}`],
    ["release", upgrade.release ?? "no label"],
    ["asked for by", upgrade.requested_by],
    [running ? "running for" : "took", duration(upgrade.took_seconds)],
    ["failed starts", upgrade.failures],
    upgrade.canary && ["canary", plural(upgrade.canary, "worker")],
    upgrade.check && ["check", upgrade.check],
    upgrade.hold_left_seconds !== null && ["hold left", duration(upgrade.hold_left_seconds)],
    upgrade.paused_by && ["paused by", upgrade.paused_by],
    upgrade.watch_left_seconds && ["can go back for", duration(upgrade.watch_left_seconds)],
  ]);
  yield list;
  if (upgrade.verdict) yield showVerdict(upgrade.verdict);
  // The bar has said how far the exchange is.
  const more = gate === "paused" || left_behind.length > 0 || !["canary", "exchanging"].includes(upgrade.phase);
  if (running && more) yield html("p", { class: "course" }, reason);
  const why = reasonAndError(upgrade);
  const told = (running && reason.includes(why)) || why === upgrade.verdict?.reason;
  if (why && !told) yield html("p", { class: "error" }, why);
}

const LOOKS = { well: "ready", "no-worse": "ready", unsure: "unknown", worse: "degraded" };
const MEASURES = {
  failed: ["failed", percent], p50: ["p50", latency], p99: ["p99", latency], cpu: ["processor time a request", latency],
  memory: ["memory that grows with a request", bytes], hung: ["without an answer", percent],
};

// What the judge makes of new code against old: his word, why, and his figures.
function showVerdict({ word, reason, measures = [], overruled_by: by = null }) {
  const rows = measures.map(({ measure, new: fresh, old }) => {
    const [name, say] = MEASURES[measure] ?? [measure, (value) => value ?? "–"];
    return html("tr", {}, html("th", { scope: "row" }, name), html("td", {}, String(say(old))), html("td", {}, String(say(fresh))));
  });
  const ended = by === null ? "" : `; ${["worse", "unsure"].includes(word) ? "overruled" : "judging ended"} by ${by}`;
  const figures = html("table", { class: "figures" },
    html("thead", {}, html("tr", {}, ...["Measure", "Old", "New"].map((text) => html("th", { scope: "col" }, text)))),
    html("tbody", {}, ...rows));
  return html("section", { class: "judged", "data-word": word, "aria-label": "Verdict on the new code" },
    html("h3", {}, icon(LOOKS[word] ?? "unknown"), `Verdict: ${word}`),
    html("p", {}, `${reason}${ended}`), ...(rows.length ? [figures] : []));
}

export class Traffic {
  #queue = new Line("queue", "queue");
  #inFlight = new Line("in-flight", "in-flight");

  show(model) {
    const { listeners, workers } = model.status;
    const window = model.live;
    const samples = model.samples.filter((each) => each.unix_time >= window.from);
    const now = model.samples.at(-1) ?? { queue: null, in_flight: null };
    const most = (name) => Math.max(0, ...samples.map((each) => each[name]));
    const span = `over the last ${duration(window.to - window.from)}`;

    const limits = listeners.map((each) => each.backlog).filter((each) => each !== null);
    const limit = limits.length ? limits.reduce((sum, each) => sum + each) : null;
    setText(at("queue-now"), `${number(now.queue)}${limit === null ? "" : ` of ${number(limit)}`}`);
    this.#queue.show({ window, limit, points: samples.map((each) => [each.unix_time, each.queue]),
      describe: `Connections that wait to be accepted ${span}: now ${number(now.queue)}, at most ${most("queue")}, `
        + `limit ${number(limit)}.` });

    const counted = workers.some((worker) => worker.in_flight !== null);
    const uncounted = "not counted by these workers";
    const figures = counted ? `now ${number(now.in_flight)}, at most ${most("in_flight")}` : uncounted;
    setText(at("in-flight-now"), counted ? number(now.in_flight) : uncounted);
    this.#inFlight.show({ window, points: samples.filter((each) => each.in_flight !== null).map((each) => [each.unix_time, each.in_flight]),
      describe: `Requests in flight ${span}: ${figures}.` });
  }
}

const made = new WeakMap(); // the line of each event

export function showEvents(model) {
  const chosen = at("attention").checked ? model.events.filter(needsAttention) : model.events;
  const wanted = chosen.slice(-MOST_EVENTS).reverse();
  const list = at("events");
  for (const [place, event] of wanted.entries()) {
    if (!made.has(event)) made.set(event, describeEvent(event));
    if (list.children[place] !== made.get(event)) list.insertBefore(made.get(event), list.children[place] ?? null);
  }
  while (list.children.length > wanted.length) list.lastChild.remove();
  at("no-events").hidden = wanted.length > 0;
}

function describeEvent(event) {
  const look = needsAttention(event) ? "bad" : event.event === "upgrade-ended" && event.outcome === "done" ? "good" : "";
  const sign = { bad: [icon("degraded"), html("span", { class: "unseen" }, "attention: ")], good: [icon("ready")] }[look] ?? [];
  const short = event.ready < event.target && !isExpected(event);
  return html("li", { class: look },
    html("time", { datetime: moment(event.unix_time) }, clock(event.unix_time)), html("span", { class: "sign" }, ...sign),
    html("span", { class: "sentence" }, sentence(event)),
    html("span", { class: short ? "counts short" : "counts" }, `${event.ready}/${event.target}`,
      html("span", { class: "unseen" }, " ready")));
}
