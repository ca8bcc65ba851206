// The stream: connected, lost, or silent, and always trying again.

// Seconds without a status after which the master is taken for silent, even though the connection stands.
const SILENCE = 15;
// So old is a status that a stream begins with only if the master has not answered: a new stream waits for a new one.
const OLD = 2.5;
// The wait before another try, where the browser gives up.
const FIRST_RETRY = 1;
const LONGEST_RETRY = 8;

export class Stream {
  #source = null;
  #silent = false;
  #openedAt = performance.now();
  #heardAt = null; // when the newest status was told
  #triedAt = performance.now();
  #retry = FIRST_RETRY;

  // `hear(kind, data)`: a message. `lose(silent, since)`: the connection is lost, or nothing comes over it, and since when, in seconds
  // since 1970; may be said again and again. `find()`: all is well, said before what is heard.
  constructor({ hear, lose, find }) {
    Object.assign(this, { hear, lose, find });
    setInterval(() => this.#look(), 1000);
    this.#connect();
  }

  #connect() {
    this.#source?.close();
    const source = new EventSource("/stream");
    this.#source = source;
    this.#triedAt = performance.now();
    for (const kind of ["hello", "event", "status"]) {
      source.addEventListener(kind, (message) => this.#take(kind, JSON.parse(message.data)));
    }
    source.addEventListener("error", () => {
      this.#lost(this.#silent);
      // The browser tries again by itself, unless it was answered with something else than a stream.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => this.#connect(), this.#retry * 1000);
      this.#retry = Math.min(LONGEST_RETRY, this.#retry * 2);
    });
  }

  #take(kind, data) {
    if (kind === "hello") this.#retry = FIRST_RETRY;
    if (kind !== "event") {
      // What a stream begins with may be old; a status of its own is not.
      const age = kind === "hello" ? data.age_seconds ?? 0 : 0;
      this.#heardAt = performance.now() - age * 1000;
      this.#silent = age >= OLD;
      if (this.#silent) this.#lost(true);
      else this.find();
    }
    this.hear(kind, data);
  }

  #lost(silent) {
    const since = this.#heardAt ?? this.#openedAt;
    this.lose(silent, (Date.now() - performance.now() + since) / 1000);
  }

  // A connection can die without a word, and so can a master.
  #look() {
    const now = performance.now();
    if (this.#source.readyState !== EventSource.OPEN || now - (this.#heardAt ?? this.#openedAt) < SILENCE * 1000) return;
    if (now - this.#triedAt < SILENCE * 1000) return;
    this.#silent = true;
    this.#lost(true);
    this.#connect();
  }
}
