// The stream: connected, lost, or silent, and always trying again.

// Seconds without a status after which the master is taken for silent, even though the connection stands.
const SILENCE = 15;
// The wait before another try, where the browser gives up.
const FIRST_RETRY = 1;
const LONGEST_RETRY = 8;

export class Stream {
  #source = null;
  #silent = false;
  #heardAt = performance.now();
  #retry = FIRST_RETRY;

  // `hear(kind, data)`: a message. `lose(silent)`: the connection is lost, or nothing comes over it; may be said again and again.
  // `find()`: all is well, said before what is heard.
  constructor({ hear, lose, find }) {
    Object.assign(this, { hear, lose, find });
    setInterval(() => this.#look(), 1000);
    this.#connect();
  }

  #connect() {
    this.#source?.close();
    const source = new EventSource("/stream");
    this.#source = source;
    for (const kind of ["hello", "event", "status"]) {
      source.addEventListener(kind, (message) => this.#take(kind, JSON.parse(message.data)));
    }
    source.addEventListener("error", () => {
      this.lose(this.#silent);
      // The browser tries again by itself, unless it was answered with something else than a stream.
      if (source.readyState !== EventSource.CLOSED) return;
      setTimeout(() => this.#connect(), this.#retry * 1000);
      this.#retry = Math.min(LONGEST_RETRY, this.#retry * 2);
    });
  }

  #take(kind, data) {
    if (kind === "hello") this.#retry = FIRST_RETRY;
    // What a stream begins with may be old; a status of its own is not.
    if (kind === "status" || (kind === "hello" && !this.#silent)) {
      this.#heardAt = performance.now();
      this.#silent = false;
      this.find();
    }
    this.hear(kind, data);
  }

  // A connection can die without a word, and so can a master.
  #look() {
    if (this.#source.readyState !== EventSource.OPEN || performance.now() - this.#heardAt < SILENCE * 1000) return;
    this.#heardAt = performance.now();
    this.#silent = true;
    this.lose(true);
    this.#connect();
  }
}
