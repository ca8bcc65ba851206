// The page: what the stream says goes into the model, and what the model knows is shown; unless the reader has paused it.
//
// Plain modules without a build. page-stream.js connects; page-model.js knows, and touches no element;
// page-seats.js, page-templates.js, page-airbag.js, page-comparison.js and page-panels.js show it, by page-charts.js, page-draw.js,
// page-words.js.

import { Airbag } from "./page-airbag.js";
import { Comparison } from "./page-comparison.js";
import { Model } from "./page-model.js";
import { showEvents, showFailedStart, showGate, showTab, showUpgrade, Traffic } from "./page-panels.js";
import { Seats } from "./page-seats.js";
import { Stream } from "./page-stream.js";
import { showTemplates } from "./page-templates.js";
import { clock, plural } from "./page-words.js";
import { setText } from "./page-draw.js";

// Messages that wait while the page is paused.
const MOST_WAITING = 20000;
// Milliseconds between two showings; and so many times what the last one took, since with very many workers it is work.
const INTERVAL = 80;
const REST = 5;

const at = (id) => document.getElementById(id);
const seconds = () => Date.now() / 1000;
const model = new Model();
const seats = new Seats();
const airbag = new Airbag();
const comparison = new Comparison();
const traffic = new Traffic();
let asked = false; // to show the model
let restUntil = 0;
let announced = null; // the gate that was last said aloud
let lostSince = null;
let pausedSince = null;
let waiting = [];
let newest = null; // of those that wait, the message with the newest document
let events = 0; // that wait

// Show the model, soon and once, however much news there is.
function showSoon() {
  if (asked) return;
  asked = true;
  setTimeout(() => {
    // No frames come to a page in the background; its title and its icon are still seen.
    if (document.hidden) show();
    else requestAnimationFrame(show);
  }, restUntil - performance.now());
}

function show() {
  asked = false;
  if (!model.status) return;
  const began = performance.now();
  showGate(model);
  seats.show(model);
  showFailedStart(model);
  showTemplates(model);
  airbag.show(model);
  showUpgrade(model);
  comparison.show(model);
  traffic.show(model);
  showEvents(model);
  if (lostSince === null) announce(model.status.gate, model.status.reason);
  showFreshness();
  showTabNow();
  restUntil = performance.now() + Math.max(INTERVAL, REST * (performance.now() - began));
}

// For those who listen: the gate when it changes, and nothing else.
function announce(gate, reason) {
  if (announced !== gate) setText(at("announcement"), `Gate ${gate}: ${reason}`);
  announced = gate;
}

function showFreshness() {
  const course = lostSince === null ? `live, ${clock(model.now)} UTC` : "connection lost";
  setText(at("freshness-text"), pausedSince === null ? course : "paused");
}

function showTabNow() {
  if (model.status) showTab(lostSince === null ? model.status.gate : null, model.status.name);
}

function hear(kind, data) {
  if (pausedSince !== null) {
    keep(kind, data);
    return;
  }
  model.take(kind, data);
  showSoon();
}

function lose(silent, since) {
  lostSince ??= since;
  document.body.classList.add("stale");
  at("lost").hidden = false;
  const stopped = model.status?.gate === "stopping" ? " The master was stopping." : "";
  setText(at("lost"), `${silent ? "No news from the master" : "Connection lost"} since ${clock(lostSince)} UTC, trying again.`
    + ` What shows is old.${stopped}`);
  announce("unknown", silent ? "no news from the master" : "the connection is lost");
  showFreshness();
  showTabNow();
}

function find() {
  if (lostSince === null) return;
  lostSince = null;
  document.body.classList.remove("stale");
  at("lost").hidden = true;
  showSoon();
}

// Keep a message as it came; but of the documents only the newest one, since it says all.
function keep(kind, data) {
  const message = [kind, data];
  if (kind === "status" && newest) newest[1] = { status: null, sample: newest[1].sample };
  if (kind === "status") newest = message;
  if (kind === "hello") newest = null;
  if (kind === "event") events += 1;
  waiting.push(message);
  if (waiting.length > MOST_WAITING) waiting.shift();
  sayWhatWaits();
}

function sayWhatWaits() {
  setText(at("paused"), `Paused since ${clock(pausedSince)}; ${plural(events, "event waits", "events wait")}.`);
}

function pauseOrResume() {
  const pausing = pausedSince === null;
  pausedSince = pausing ? seconds() : null;
  at("pause").setAttribute("aria-pressed", String(pausing));
  setText(at("pause"), pausing ? "Resume" : "Pause");
  at("paused").hidden = !pausing;
  document.body.classList.toggle("paused", pausing);
  showFreshness();
  if (pausing) {
    show(); // what has come until now
    sayWhatWaits();
    return;
  }
  for (const [kind, data] of waiting) model.take(kind, data);
  [waiting, newest, events] = [[], null, 0];
  showSoon();
}

at("pause").addEventListener("click", pauseOrResume);
at("attention").addEventListener("change", () => showEvents(model));
document.addEventListener("visibilitychange", showSoon);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTabNow);
new Stream({ hear, lose, find });
