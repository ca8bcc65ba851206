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

// The same for what may be little.
export function bytes(count) {
  if (count === null || count === undefined) return "–";
  return Math.abs(count) < 2 ** 20 ? `${(count / 2 ** 10).toFixed(1)} KiB` : size(count);
}

// What all processes use together, and what sharing saves of it.
export function usage({ total_bytes: total, saved_bytes: saved }) {
  return saved >= 2 ** 20 ? `${size(total)}, sharing saves ${size(saved)}` : size(total);
}

export function number(count) {
  return count === null || count === undefined ? "–" : count.toLocaleString("en");
}

export function share(part) {
  return part === null || part === undefined ? "–" : `${Math.round(part * 100)}%`;
}

// Requests a second: "0.31", "12.1", "1,234".
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond.toLocaleString("en", { maximumFractionDigits: perSecond >= 100 ? 0 : perSecond >= 10 ? 1 : 2 });
}

// A small share, of which what isn't nothing never looks like it: "0%", "0.81%", "4.1%", "34%".
export function percent(part) {
  if (part === null || part === undefined) return "–";
  if (part > 0 && part < 0.0001) return "<0.01%";
  return `${Number((part * 100).toFixed(part >= 0.0995 ? 0 : part >= 0.00995 ? 1 : 2))}%`;
}

// A latency: "4.7 ms", "120 ms", "1.3 s".
export function latency(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const [value, unit] = seconds < 0.9995 ? [seconds * 1000, "ms"] : [seconds, "s"];
  return `${value.toFixed(value >= 9.95 ? 0 : 1)} ${unit}`;
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

// One event in the words of its master. One that a master of an older version has told has none, and says its fields, as the log
// does.
export function sentence(event) {
  if (event.message) return event.message;
  const fields = Object.entries(event).filter(([key, value]) => !COMMON.has(key) && value !== null);
  return [event.event.replaceAll("-", " "), ...fields.map(([key, value]) => `${key}=${value}`)].join(" ");
}
