/**
 * How long a device has had at least one request in flight, over all of its rings: what iostat's %util is made of. The
 * device's queues share a few bytes, whichever reactors serve them. Each queue adds up the time of those periods that it
 * was the last to end.
 */

const SINCE = 0; // a double: when the present period began, in milliseconds
const RINGS = 2; // a word: rings with a request in flight
const BYTES = 16;

/** Memory for the queues of one device, none of which is busy. */
export function createBusyTime(): SharedArrayBuffer {
  return new SharedArrayBuffer(BYTES);
}

/**
 * One thread's view of the device's memory. All of its users read the same clock. Times are passed in memory, since a number
 * that is passed may have to be allocated.
 */
export class BusyTime {
  readonly #times: Float64Array;
  readonly #words: Int32Array;

  /** `isShared`: other rings of the device are open, too. One alone needs no atomic operations, which are slow. */
  constructor(memory: SharedArrayBuffer, readonly isShared: boolean) {
    this.#times = new Float64Array(memory, 0, 1);
    this.#words = new Int32Array(memory);
  }

  /** A ring that had no request in flight has one since `ms[at]`. */
  begin(ms: Float64Array, at: number): void {
    if (!this.isShared) {
      this.#times[SINCE] = ms[at]!;
      this.#words[RINGS] = 1;
    } else if (Atomics.add(this.#words, RINGS, 1) === 0) {
      this.#times[SINCE] = ms[at]!;
    }
  }

  /** That ring has none since `ms[at]`. Adds the nanoseconds of the period to `totals[total]`, unless another is busy. */
  end(ms: Float64Array, at: number, totals: Float64Array, total: number): void {
    const sinceMs = this.#times[SINCE]!;
    if (!this.isShared) this.#words[RINGS] = 0;
    else if (Atomics.sub(this.#words, RINGS, 1) !== 1) return;
    // The ring that began the period may have stored its time only now, and another ring may have begun a new one.
    totals[total]! += Math.max(0, ms[at]! - Math.max(sinceMs, this.#times[SINCE]!)) * 1e6;
  }

  /** Nanoseconds of the period that has not ended; 0 if there is none. For any thread. */
  soFar(nowMs: number): number {
    if (Atomics.load(this.#words, RINGS) === 0) return 0;
    return Math.max(0, nowMs - this.#times[SINCE]!) * 1e6;
  }
}
