/**
 * The shared words for sleeping and waking I/O Workers: a counter that every job or control message increments, the number
 * of sleepers, and for each Worker how many control messages were posted to it.
 */

const BELL = 0;
const SLEEPERS = 16;
const POSTED = 32;
/** Words between two counters, so that each has a cache line. */
const STRIDE = 16;

/** One thread's view of the bell. */
export class Doorbell {
  readonly #words: Int32Array;

  /** Memory for a bell. */
  static allocate(workers: number): SharedArrayBuffer {
    return new SharedArrayBuffer((POSTED + workers * STRIDE) * 4);
  }

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Announces work: a Worker that looked for work before this does not fall asleep. Cheap; it wakes no sleeper. */
  ring(): void {
    Atomics.add(this.#words, BELL, 1);
  }

  /** Workers that sleep. */
  get sleepers(): number {
    return Atomics.load(this.#words, SLEEPERS);
  }

  /** Wakes one sleeper, if there is one, for work that was rung for. */
  rouse(): void {
    if (this.sleepers > 0) Atomics.notify(this.#words, BELL, 1);
  }

  /** A control message was posted to the Worker; rouses it (and all others, which go back to sleep). */
  posted(worker: number): void {
    Atomics.add(this.#words, POSTED + worker * STRIDE, 1);
    Atomics.add(this.#words, BELL, 1);
    Atomics.notify(this.#words, BELL);
  }

  /** Control messages posted to the Worker so far, modulo 2^32. */
  postedTo(worker: number): number {
    return Atomics.load(this.#words, POSTED + worker * STRIDE);
  }

  /** Another Worker gets this number: nothing was posted to it. */
  reset(worker: number): void {
    Atomics.store(this.#words, POSTED + worker * STRIDE, 0);
  }

  /** What {@linkcode sleep} wants: taken before looking for work, so that a ring in between is not lost. */
  get rung(): number {
    return Atomics.load(this.#words, BELL);
  }

  /** Sleeps unless the bell was rung since `rung` was taken. */
  sleep(rung: number): void {
    Atomics.add(this.#words, SLEEPERS, 1);
    Atomics.wait(this.#words, BELL, rung);
    Atomics.sub(this.#words, SLEEPERS, 1);
  }
}
