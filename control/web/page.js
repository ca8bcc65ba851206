// The page: follows the stream, and shows what the model knows. Pausing, losing the connection and finding it again are here.

import { Line, Timeline } from "./page-charts.js";
import { facts, html, icon, setText } from "./page-draw.js";
import { airbag, Model } from "./page-model.js";
import { Seats } from "./page-seats.js";
import { clock, duration, moment, needsAttention, number, outcome, plural, reasonAndError, sentence, STATES } from "./page-words.js";

// Seconds: what the live timeline shows at most and at least; without any news, what shows is taken for old.
const LIVE = 180;
const SHORTEST = 30;
const SILENCE = 15;
// The wait before another try, where the browser gives up.
const FIRST_RETRY = 1;
const LONGEST_RETRY = 8;
const SHOWN_EVENTS = 200;
const SHOWN_UPGRADES = 5;
const WAITING_MOST = 20000;

const at = (id) => document.getElementById(id);
const model = new Model();

// ---- what is shown ---------------------------------------------------------------------------------------------------------

const seats = new Seats();
const timeline = new Timeline("timeline");
const queue = new Line("queue", "queue");
const inFlight = new Line("in-flight", "in-flight");
let chosenWindow = "live"; // or when the chosen upgrade began
let saidGate = null;
let awaited = false;

// Show the model, soon and once, however much news there is.
function showSoon() {
  if (awaited) return;
  awaited = true;
  const show = () => {
    awaited = false;
    if (model.status) showAll();
  };
  // No frames come to a page in the background; its title and icon are still seen.
  if (document.hidden) setTimeout(show, 250);
  else requestAnimationFrame(show);
}

function showAll() {
  showGate();
  seats.show(model);
  showTimeline();
  showUpgrade();
  showTraffic();
  showEvents();
}

function showGate() {
  const { status } = model;
  const { gate, reason, name, release, generation, master, uptime_seconds: uptime, labels = {}, listeners } = status;
  at("gate").dataset.gate = gate;
  setText(at("gate-word"), gate);
  setText(at("gate-reason"), reason);
  if (at("gate-icon").dataset.icon !== gate) {
    at("gate-icon").dataset.icon = gate;
    at("gate-icon").replaceChildren(...icon(gate).childNodes);
    showIcon(gate);
  }
  setText(at("name"), name);
  document.title = `${gate} · ${name} · einhornpy`;
  const wanted = Object.entries(labels).map(([key, value]) => `${key}=${value}`);
  if (wanted.join() !== [...at("labels").children].map((each) => each.textContent).join()) {
    at("labels").replaceChildren(...wanted.map((text) => html("li", {}, text)));
  }
  facts(at("facts"), [
    ["ready", `${status.ready} of ${status.target}`],
    ["generation", generation],
    ["release", release ?? "no label"],
    ["uptime", duration(uptime)],
    ["master", `pid ${master.pid}, ${master.version}`],
    ["listening", listeners.map((each) => each.address).join(", ") || "no sockets"],
  ]);
  at("stopping").hidden = gate !== "stopping";
  setText(at("stopping"), `The master is stopping: ${reason}.`);
  announce(gate, reason);
}

// For those who listen: the gate, when it changes, and nothing else.
function announce(gate, reason) {
  if (saidGate !== gate) at("announcement").textContent = `Gate ${gate}: ${reason}`;
  saidGate = gate;
}

function showIcon(gate) {
  const tone = getComputedStyle(at("gate")).getPropertyValue("--tone").trim() || "#888";
  const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="6" fill="${tone}"/>`
    + `<path d="${icon(gate).firstChild.getAttribute("d")}" transform="translate(3 3) scale(.75)" fill="none" stroke="#fff" stroke-width="3"/></svg>`;
  at("icon").href = `data:image/svg+xml,${encodeURIComponent(picture)}`;
}

const keyOf = (upgrade) => String(upgrade.began);

function liveWindow() {
  const to = model.now;
  return { from: Math.max(to - LIVE, Math.min(model.since, to - SHORTEST)), to };
}

function showTimeline() {
  const upgrades = model.upgrades();
  const choices = upgrades.slice(0, SHOWN_UPGRADES);
  const chosen = upgrades.find((each) => keyOf(each) === chosenWindow);
  if (chosen && !choices.includes(chosen)) choices.push(chosen);
  showWindows(choices, chosen);
  let window = liveWindow();
  if (chosen) {
    const end = chosen.ended ?? model.now;
    const margin = Math.max(0.3, (end - chosen.began) * 0.06);
    window = { from: chosen.began - margin, to: Math.max(end + margin, chosen.began + 1), relativeTo: chosen.began };
  }
  const stretches = model.stretches(window.from, window.to);
  const verdict = describeAirbag(airbag(stretches));
  setText(at("airbag-verdict"), verdict.text);
  at("airbag-verdict").dataset.verdict = verdict.word;
  const what = chosen ? `during the upgrade to generation ${chosen.to}, ${outcome(chosen.outcome)}` : `over the last ${duration(window.to - window.from)}`;
  timeline.show({ window, stretches, events: model.events, upgrades, describe: `Ready workers against N ${what}. ${verdict.text}` });
}

// In one sentence what the timeline shows.
function describeAirbag({ below, expected, least, most }) {
  if (least === null) return { word: "filling", text: expected ? "N has not been reached yet." : "Nothing is known of this time." };
  if (least.ready < least.target) {
    return { word: "below", text: `Below N for ${duration(Math.max(below, 0.1))}: at worst ${least.ready} ready of ${least.target}.` };
  }
  const once = expected ? `Never below N once it was reached` : "Never below N";
  return { word: "held", text: `${once}: at least ${least.ready} ready of ${least.target}, at most ${most}.` };
}

function showWindows(choices, chosen) {
  const wanted = [["live", "Live", null], ...choices.map((each) => [keyOf(each), wordsOf(each), each.outcome ?? "running"])];
  const text = JSON.stringify([wanted, chosen && keyOf(chosen)]);
  const group = at("windows");
  if (group.dataset.text === text) return;
  group.dataset.text = text;
  const focused = group.contains(document.activeElement) ? document.activeElement.value : null;
  group.replaceChildren(...wanted.map(([key, words, tone]) => html("button", {
    type: "button", value: key, class: `button small ${tone ?? "live"}`, "aria-pressed": String(key === (chosen ? keyOf(chosen) : "live")),
  }, ...(tone ? [icon({ done: "ready", running: "upgrading", superseded: "superseded" }[tone] ?? "rolled-back")] : []), words)));
  [...group.children].find((each) => each.value === focused)?.focus();
}

function wordsOf({ from, to, outcome: word, began }) {
  return `${from === null ? "" : `${from} `}→ ${to} ${outcome(word)}, ${clock(began)}`;
}

function showUpgrade() {
  const { upgrade, target, gate, reason } = model.status;
  const place = at("upgrade");
  const earlier = model.upgrades().find((each) => each.outcome !== null && (each.to !== upgrade?.to || upgrade.outcome === null));
  const parts = [];
  if (!upgrade) parts.push(html("p", { class: "aside" }, "None since the master started."));
  else parts.push(...describeUpgrade(upgrade, target, gate, reason));
  if (upgrade && earlier) {
    const word = earlier.outcome;
    parts.push(html("div", { class: `earlier ${word}` }, html("h3", {}, `Before: ${earlier.from === null ? "" : `${earlier.from} `}→ ${earlier.to} `,
      html("span", { class: `outcome ${word}` }, icon(word === "done" ? "ready" : "rolled-back"), outcome(word))),
    ...(reasonAndError(earlier) ? [html("p", { class: "error" }, reasonAndError(earlier))] : [])));
  }
  // Compared first, so that a selection stays.
  const made = html("div", { id: "upgrade" }, ...parts);
  if (!made.isEqualNode(place)) place.replaceChildren(...made.childNodes);
}

function* describeUpgrade(upgrade, target, gate, reason) {
  const running = upgrade.outcome === null;
  const word = running ? gate === "paused" ? "paused" : "running" : upgrade.outcome;
  yield html("p", { class: "which" }, html("strong", {}, `${upgrade.from} → ${upgrade.to}`),
    html("span", { class: `outcome ${word}` }, icon({ done: "ready", running: "upgrading", paused: "paused", superseded: "superseded" }[word] ?? "rolled-back"),
      word === "paused" ? "paused" : outcome(upgrade.outcome)));
  const done = `${upgrade.replaced} of ${target} replaced`;
  yield html("div", { class: "progress" }, html("progress", { max: target, value: Math.min(upgrade.replaced, target), "aria-label": done }), html("span", {}, done));
  const list = html("dl", { class: "facts" });
  facts(list, [
    ["kind", upgrade.recipe_of === null ? upgrade.kind : `${upgrade.kind}, recipe of ${upgrade.recipe_of}`],
    ["release", upgrade.release ?? "no label"],
    ["asked for by", upgrade.requested_by],
    [running ? "running for" : "took", duration(upgrade.took_seconds)],
    ["failed starts", upgrade.failures],
    upgrade.canary && ["canary", plural(upgrade.canary, "worker")],
    upgrade.check && ["check", upgrade.check],
    upgrade.hold_left_seconds === null ? null : ["hold left", duration(upgrade.hold_left_seconds)],
    upgrade.paused_by && ["paused by", upgrade.paused_by],
  ]);
  yield list;
  if (running) yield html("p", { class: "course" }, reason);
  const why = reasonAndError(upgrade);
  if (why && !(running && reason.includes(why))) yield html("p", { class: "error" }, why);
}

function showTraffic() {
  const { listeners, workers } = model.status;
  const window = liveWindow();
  const points = (name) => model.samples.filter((each) => each.unix_time >= window.from).map((each) => [each.unix_time, each[name]]);
  const now = model.samples.at(-1);
  const limits = listeners.map((each) => each.backlog).filter((each) => each !== null);
  const limit = limits.length ? limits.reduce((sum, each) => sum + each) : null;
  const most = (list) => Math.max(0, ...list.map(([, value]) => value));
  const waiting = points("queue");
  const span = duration(window.to - window.from);
  setText(at("queue-now"), `${number(now?.queue)}${limit === null ? "" : ` of ${number(limit)}`}`);
  queue.show({ window, points: waiting, limit,
    describe: `Connections that wait to be accepted, over the last ${span}: now ${now?.queue ?? "unknown"}, at most ${most(waiting)}, limit ${limit ?? "unknown"}.` });
  const counted = workers.some((worker) => worker.in_flight !== null);
  const flying = counted ? points("in_flight") : [];
  setText(at("in-flight-now"), counted ? number(now?.in_flight) : "not counted by these workers");
  inFlight.show({ window, points: flying,
    describe: `Requests in flight over the last ${span}: ${counted ? `now ${now?.in_flight ?? "unknown"}, at most ${most(flying)}` : "not counted by these workers"}.` });
}

function showEvents() {
  const chosen = at("attention").checked ? model.events.filter(needsAttention) : model.events;
  const wanted = chosen.slice(-SHOWN_EVENTS).reverse();
  const list = at("events");
  const known = new Set();
  for (const [place, event] of wanted.entries()) {
    let item = shownEvents.get(event);
    if (item === undefined) {
      item = describeEvent(event);
      shownEvents.set(event, item);
    }
    known.add(item);
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  }
  for (const item of [...list.children]) if (!known.has(item)) item.remove();
  at("no-events").hidden = wanted.length > 0;
}

const shownEvents = new WeakMap();

function describeEvent(event) {
  const bad = needsAttention(event);
  const good = event.event === "upgrade-ended" && event.outcome === "done";
  return html("li", { class: bad ? "bad" : good ? "good" : "" },
    html("time", { datetime: moment(event.unix_time) }, clock(event.unix_time)),
    html("span", { class: "sign" }, ...(bad ? [icon("degraded"), html("span", { class: "unseen" }, "attention: ")] : good ? [icon("ready")] : [])),
    html("span", { class: "sentence" }, sentence(event)),
    html("span", { class: event.ready < event.target ? "counts short" : "counts" }, `${event.ready}/${event.target}`, html("span", { class: "unseen" }, " ready")));
}

at("windows").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  chosenWindow = button.value;
  showTimeline();
});
at("attention").addEventListener("change", showEvents);
// Back in the foreground, or in other colours.
document.addEventListener("visibilitychange", () => model.status && showSoon());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => model.status && showIcon(model.status.gate));

// ---- pausing ---------------------------------------------------------------------------------------------------------------

let pausedSince = null;
let waiting = [];

// Messages wait as they came, but of the documents only the newest is kept.
function keep(kind, data) {
  const last = waiting.findLast((each) => each[1].status);
  if (kind === "status" && last?.[0] === "status") last[1] = { status: null, sample: last[1].sample };
  waiting.push([kind, data]);
  if (waiting.length > WAITING_MOST) waiting.splice(waiting.findIndex((each) => each[0] !== "hello"), 1);
  const events = waiting.filter((each) => each[0] === "event").length;
  setText(at("paused"), `Paused since ${clock(pausedSince)}; ${plural(events, "event waits", "events wait")}.`);
}

at("pause").addEventListener("click", () => {
  const pausing = pausedSince === null;
  at("pause").setAttribute("aria-pressed", String(pausing));
  setText(at("pause"), pausing ? "Resume" : "Pause");
  at("paused").hidden = !pausing;
  document.body.classList.toggle("paused", pausing);
  if (pausing) {
    pausedSince = Date.now() / 1000;
    setText(at("paused"), `Paused since ${clock(pausedSince)}; 0 events wait.`);
    setText(at("freshness-text"), "paused");
    return;
  }
  for (const [kind, data] of waiting) model.take(kind, data);
  waiting = [];
  pausedSince = null;
  showSoon();
  showFreshness();
});

// ---- the connection --------------------------------------------------------------------------------------------------------

let source = null;
let lostSince = null;
let silent = false; // connected, but the master says nothing
let heardAt = performance.now();
let retry = FIRST_RETRY;

function connect() {
  source?.close();
  source = new EventSource("/stream");
  for (const kind of ["hello", "event", "status"]) source.addEventListener(kind, (message) => hear(kind, JSON.parse(message.data)));
  source.addEventListener("error", () => {
    lose();
    // The browser tries again by itself, unless it was answered with something else than a stream.
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(connect, retry * 1000);
    retry = Math.min(LONGEST_RETRY, retry * 2);
  });
}

function hear(kind, data) {
  if (kind === "hello") retry = FIRST_RETRY;
  // What a new stream begins with may be old; a status of its own is not.
  if (kind === "status" || (kind === "hello" && !silent)) {
    heardAt = performance.now();
    silent = false;
    find();
  }
  if (pausedSince !== null) {
    keep(kind, data);
    return;
  }
  model.take(kind, data);
  showSoon();
  showFreshness();
}

function lose() {
  lostSince ??= Date.now() / 1000;
  document.body.classList.add("stale");
  at("lost").hidden = false;
  const stopped = model.status?.gate === "stopping" ? " The master was stopping." : "";
  setText(at("lost"), silent ? `No news from the master since ${clock(lostSince)}, trying again. What shows is old.`
    : `Connection lost since ${clock(lostSince)}, trying again. What shows is old.${stopped}`);
  setText(at("freshness-text"), silent ? "no news" : "connection lost");
  announce("unknown", silent ? "no news from the master" : "connection lost");
}

function find() {
  if (lostSince === null) return;
  lostSince = null;
  document.body.classList.remove("stale");
  at("lost").hidden = true;
  showFreshness();
}

function showFreshness() {
  if (pausedSince === null && lostSince === null) setText(at("freshness-text"), `live, ${clock(model.now)}`);
}

// A connection can die without a word.
setInterval(() => {
  if (performance.now() - heardAt < SILENCE * 1000 || (lostSince !== null && !silent)) return;
  heardAt = performance.now();
  silent = true;
  lose();
  connect();
}, 1000);

connect();
