// What is known of the master, from its stream, and what follows from that: the upgrades, and how many were ready when.

const MOST_EVENTS = 6000;
const MOST_SAMPLES = 900;
// Seconds.
const LIVE = 180;
const SHORTEST = 10;
// For how long old and new code are still compared after the end of an upgrade, and how far back.
const AFTERWARDS = 180;
const FARTHEST = 600;

// What one stretch of time has in common.
const SAME = ["ready", "live", "target", "gate"];

const sameEvent = (one, other) => one.unix_time === other.unix_time && one.event === other.event && one.pid === other.pid;

export class Model {
  status = null;
  events = [];
  samples = [];
  // Stretches of which nothing is known: [from, to].
  gaps = [];
  // The newest moment by the master's clock; the reader's own clock may be wrong.
  now = 0;

  // Take one message of the stream.
  take(kind, data) {
    if (kind === "event") this.#addEvents([data]);
    if (kind === "hello") this.#welcome(data);
    if (kind === "status") {
      if (data.status) this.status = data.status;
      this.#addSamples([data.sample]);
    }
  }

  // A stream begins, perhaps not the first one: add what is new, and know what was missed.
  #welcome({ status, events, samples }) {
    if (status.gate !== undefined) this.status = status;
    const last = this.events.at(-1);
    const known = last === undefined ? -1 : events.findLastIndex((each) => sameEvent(each, last));
    const fresh = events.slice(known + 1).filter((each) => known >= 0 || last === undefined || each.unix_time > last.unix_time);
    if (last !== undefined && known < 0 && fresh.length) this.gaps.push([this.now, fresh[0].unix_time]);
    this.#addEvents(fresh);
    const newest = this.samples.at(-1)?.unix_time ?? 0;
    this.#addSamples(samples.filter((each) => each.unix_time > newest));
  }

  #addEvents(events) {
    this.events.push(...events);
    this.events.splice(0, this.events.length - MOST_EVENTS);
    this.now = Math.max(this.now, this.events.at(-1)?.unix_time ?? 0);
  }

  #addSamples(samples) {
    this.samples.push(...samples);
    this.samples.splice(0, this.samples.length - MOST_SAMPLES);
    this.now = Math.max(this.now, this.samples.at(-1)?.unix_time ?? 0);
  }

  // The time that is shown live: the last minutes, or less where less is known.
  get live() {
    const known = Math.min(this.events[0]?.unix_time ?? Infinity, this.samples[0]?.unix_time ?? Infinity, this.now - SHORTEST);
    return { from: Math.max(this.now - LIVE, known), to: this.now };
  }

  // The upgrade whose old and new code are to be compared, {from, to, window}: while it runs, while it is watched, and for a while
  // after that; null where there is none, or nobody counts what workers answer.
  get compared() {
    const upgrade = this.status?.upgrade;
    if (!upgrade) return null;
    const began = Date.parse(upgrade.started_at) / 1000;
    const over = upgrade.outcome !== null && !upgrade.watch_left_seconds;
    if (over && this.now - Date.parse(upgrade.ended_at) / 1000 > AFTERWARDS) return null;
    const counted = this.samples.find((each) => Object.keys(each.traffic ?? {}).length && each.unix_time > this.now - FARTHEST);
    if (counted === undefined) return null;
    const from = Math.max(began - SHORTEST, counted.unix_time);
    return { from: upgrade.from, to: upgrade.to, window: { from: Math.min(from, this.now - SHORTEST), to: this.now } };
  }

  // The last upgrades, the newest first: {from, to, began, ended, outcome, reason, error}. `ended` and `outcome` are null while it
  // runs; `from` is null where nobody has seen it begin.
  upgrades() {
    const found = [];
    const running = (to) => found.find((each) => each.to === to && each.outcome === null);
    let first = 0; // of the master that runs
    for (const event of this.events) {
      if (event.event === "master-started") {
        for (const each of found) if (each.outcome === null) Object.assign(each, { outcome: "lost", ended: event.unix_time });
        first = found.length;
      } else if (event.event === "upgrade-started") {
        found.push({ from: event.from, to: event.to, began: event.unix_time, ended: null, outcome: null });
      } else if (event.event === "upgrade-ended") {
        // One that was watched, and went back, ends a second time.
        let upgrade = found.slice(first).find((each) => each.to === event.generation);
        if (upgrade === undefined) {
          upgrade = { from: null, to: event.generation, began: event.unix_time - (event.took_seconds ?? 0) };
          found.push(upgrade);
        }
        Object.assign(upgrade, { ended: event.unix_time, outcome: event.outcome, reason: event.reason, error: event.error });
      }
    }
    const told = this.status?.upgrade;
    if (told && told.outcome === null && running(told.to) === undefined) {
      found.push({ from: told.from, to: told.to, began: Date.parse(told.started_at) / 1000, ended: null, outcome: null });
    }
    return found.reverse();
  }

  // How many were ready, live and wanted from one moment to another: stretches {from, to, ready, live, target, gate}. Every change
  // is an event, so what an event says holds until the next one; what was before the first one only samples know.
  stretches(from, to) {
    const first = this.events[0]?.unix_time ?? Infinity;
    const known = [...this.samples.filter((each) => each.unix_time < first), ...this.events];
    const stretches = [];
    known.forEach((each, place) => {
      let end = Math.min(to, known[place + 1]?.unix_time ?? this.now);
      for (const [begin] of this.gaps) if (each.unix_time <= begin && begin < end) end = begin;
      const start = Math.max(from, each.unix_time);
      const before = stretches.at(-1);
      if (end < start || start > to || (each.unix_time < from && end <= from)) return;
      if (before && before.to === start && SAME.every((name) => before[name] === each[name])) {
        before.to = end;
      } else {
        stretches.push({ live: each.ready, ...each, from: start, to: end });
      }
    });
    return stretches;
  }

  // The last thing that was said of a worker.
  lastOf(pid) {
    return this.events.findLast((each) => each.pid === pid && each.event.startsWith("worker-"));
  }
}

// Whether the airbag held over these stretches. `below`: seconds below N; `expected`: those of a start, a change of N or a stop.
// `least`: the stretch with the fewest ready against N, `most` ready at once.
export function airbag(stretches) {
  const verdict = { below: 0, expected: 0, least: null, most: 0 };
  for (const each of stretches) {
    verdict.most = Math.max(verdict.most, each.ready);
    if (isExpected(each)) {
      verdict.expected += each.to - each.from;
      continue;
    }
    if (verdict.least === null || each.ready - each.target < verdict.least.ready - verdict.least.target) verdict.least = each;
    if (each.ready < each.target) verdict.below += each.to - each.from;
  }
  return verdict;
}

// Below N with nothing wrong: the gate says starting until N is reached after a start or a change of N.
export function isExpected({ ready, target, gate }) {
  return ready < target && (gate === "starting" || gate === "stopping");
}
