/**
 * How long to wait before the next attempt at something that keeps failing: 100 ms, then twice as long each time, at most
 * 5 s.
 */

const FIRST_MS = 100;
const LONGEST_MS = 5_000;

/** The waits of one series of attempts. */
export class Backoff {
  #nextMs = FIRST_MS;

  /** Milliseconds until the next attempt. */
  next(): number {
    const ms = this.#nextMs;
    this.#nextMs = Math.min(2 * ms, LONGEST_MS);
    return ms;
  }

  /** An attempt succeeded. */
  reset(): void {
    this.#nextMs = FIRST_MS;
  }
}
