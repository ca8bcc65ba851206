// Words and numbers for people. Nothing in here touches the page.

// How a number of seconds is said: "0.4 s", "12 s", "3 min 4 s", "2 h 5 min", "3 d 4 h".
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const parts = [
    [Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count);
  return parts.slice(first, first + 2).filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

const CLOCK = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: "UTC" });

// The time of day in UTC, as the log has it.
export function clock(unixTime) {
  return CLOCK.format(unixTime * 1000);
}

export function moment(unixTime) {
  return new Date(unixTime * 1000).toISOString();
}

export function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  const mebibytes = bytes / 2 ** 20;
  return mebibytes < 1024 ? `${mebibytes.toFixed(0)} MiB` : `${(mebibytes / 1024).toFixed(1)} GiB`;
}

export function number(count) {
  return count === null || count === undefined ? "–" : count.toLocaleString("en");
}

export function share(part) {
  return part === null || part === undefined ? "–" : `${Math.round(part * 100)}%`;
}

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

export function outcome(word) {
  if (word === null) return "running";
  return word === "lost" ? "cut off" : word;
}

// From which generation to which.
export function course({ from, to }) {
  return from === null ? `→ ${to}` : `${from} → ${to}`;
}

export function reasonAndError({ reason, error }) {
  return [reason, error].filter((text, place, all) => text && !(place === 1 && all[0]?.includes(text))).join(": ");
}

export function needsAttention(event) {
  return event.level === "warning";
}

// Fields that every event has, or that the sentence is not about.
const COMMON = new Set(["event", "level", "time", "unix_time", "ready", "live", "target", "gate", "gate_reason", "replaced"]);

const worker = (event) => `worker ${event.index} (pid ${event.pid}, generation ${event.generation})`;
const took = (event) => event.took.replace("s", " s");
const because = (text) => (text ? `: ${text}` : "");

const SENTENCES = {
  "worker-starting": (event) => `${worker(event)} starting`,
  "worker-ready": (event) => `${worker(event)} ready after ${took(event)}`,
  "worker-due": (event) => `${worker(event)} due for recycling: it ${event.reason}`,
  "worker-retiring": (event) => `${worker(event)} retiring: ${event.reason}`,
  "worker-gone": (event) => `${worker(event)} gone${because(event.error)}`,
  "worker-died": (event) => `${worker(event)} died with status ${event.status}${because(event.error)}`,
  "worker-failed": (event) => `${worker(event)} failed${because(event.error)}`,
  "worker-hung": (event) => `${worker(event)} hung: it ${event.reason}`,
  "worker-killed": (event) => `${worker(event)} killed: it ${event.reason}`,
  "start-failed": (event) => `start of generation ${event.generation} failed, ${event.in_a_row} in a row`
    + (event.next_try_in ? `, next try in ${event.next_try_in.replace("s", " s")}` : "") + because(event.error),
  "upgrade-started": (event) => `upgrade ${event.from} → ${event.to} started (${event.kind}`
    + `${event.release ? `, release ${event.release}` : ""}), asked for by ${event.requested_by}`,
  "upgrade-refused": (event) => `generation ${event.generation} refused, going back to ${event.back_to}`
    + because(reasonAndError(event)),
  "upgrade-ended": (event) => `upgrade to generation ${event.generation} ${outcome(event.outcome)} after ${took(event)}`
    + because(reasonAndError(event)),
  "upgrade-paused": (event) => `upgrade paused by ${event.by}`,
  "upgrade-resumed": (event) => `upgrade resumed by ${event.by}`,
  "upgrade-aborted": (event) => `upgrade aborted by ${event.by}`,
  "generation-prepared": (event) => `generation ${event.generation} prepared in ${event.directory}`,
  "hold-begun": (event) => `hold begun: ${plural(event.canaries, "new worker")} serving, ${event.hold}`,
  "hold-ended": () => "hold ended, everybody follows",
  "check-failed": (event) => `check failed${because(reasonAndError(event))}`,
  scaled: (event) => `scaled from ${event.from} to ${event.to}`,
  stopping: (event) => `stopping, ${plural(event.workers, "worker")} still there`,
  "web-started": (event) => `this page served on ${event.listen}`,
  "web-died": (event) => `this page's server died: ${event.why}`,
};

// One event as a sentence. One that is not known here says its fields, as the log does.
export function sentence(event) {
  const known = SENTENCES[event.event];
  if (known) return known(event);
  const fields = Object.entries(event).filter(([key, value]) => !COMMON.has(key) && value !== null);
  return [event.event.replaceAll("-", " "), ...fields.map(([key, value]) => `${key}=${value}`)].join(" ");
}
