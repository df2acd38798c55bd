/**
 * Measures how long a load goes without a response: checks every millisecond how many requests were answered, and keeps
 * the longest time in which that number did not change. Runs in the guest's process, next to the load's Worker.
 */

import type { LoadProgress } from "../../../lib/guest/load_types.ts";

const LOOK_INTERVAL_MS = 1;

/** Measures the pauses of one load until it is disposed. */
export class PauseMeter implements Disposable {
  readonly #progress: LoadProgress;
  readonly #timer: ReturnType<typeof setInterval>;
  #answered = 0;
  #changedMs = performance.now();
  #longestMs = 0;

  constructor(progress: LoadProgress) {
    this.#progress = progress;
    this.#timer = setInterval(() => this.#look(), LOOK_INTERVAL_MS);
  }

  /** Requests answered so far, and the longest pause that has ended since the last call. */
  take(): { readonly answered: number; readonly longestMs: number } {
    const longestMs = this.#longestMs;
    this.#longestMs = 0;
    return { answered: this.#answered, longestMs };
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { requests } = this.#progress.read();
    if (requests === this.#answered) return;
    const now = performance.now();
    this.#longestMs = Math.max(this.#longestMs, now - this.#changedMs);
    this.#answered = requests;
    this.#changedMs = now;
  }
}
