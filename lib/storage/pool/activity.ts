/**
 * What each I/O Worker does, and how many of them one disk may occupy, in memory that they share with the control plane:
 * a Worker that is blocked in a call can say nothing. A step count that is odd for long and does not change means that
 * the storage does not answer.
 */

const WORKERS_PER_DISK = 0;
const STEPS = 16;
const DISK = 17;
/** Words of a Worker, so that each has a cache line, as has what is common to all. */
const STRIDE = 16;

/** One thread's view. */
export class Activity {
  readonly #words: Int32Array;

  /** Memory for so many Workers. */
  static allocate(workers: number): SharedArrayBuffer {
    return new SharedArrayBuffer((1 + workers) * STRIDE * Int32Array.BYTES_PER_ELEMENT);
  }

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Most I/O Workers that one disk may occupy. */
  get workersPerDisk(): number {
    return Atomics.load(this.#words, WORKERS_PER_DISK);
  }

  set workersPerDisk(most: number) {
    Atomics.store(this.#words, WORKERS_PER_DISK, most);
  }

  /** The Worker is about to make a call for a disk that may block. */
  begin(worker: number, disk: number): void {
    Atomics.store(this.#words, worker * STRIDE + DISK, disk);
    Atomics.add(this.#words, worker * STRIDE + STEPS, 1);
  }

  /** The call has returned. */
  end(worker: number): void {
    Atomics.add(this.#words, worker * STRIDE + STEPS, 1);
  }

  /** Calls begun and ended: odd while one is being made. */
  steps(worker: number): number {
    return Atomics.load(this.#words, worker * STRIDE + STEPS);
  }

  /** The disk that a Worker makes a call for; undefined: it makes none. */
  disk(worker: number): number | undefined {
    return (this.steps(worker) & 1) === 0 ? undefined : Atomics.load(this.#words, worker * STRIDE + DISK);
  }

  /** Another Worker gets this number. */
  reset(worker: number): void {
    Atomics.store(this.#words, worker * STRIDE + STEPS, 0);
  }
}
