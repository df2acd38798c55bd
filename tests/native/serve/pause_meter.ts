/**
 * How long a load goes without an answer: looks every millisecond at how many requests were answered, and keeps the
 * longest time in which that number stayed the same. It runs in the guest's process, beside the load's Worker.
 */

import type { LoadProgress } from "../../../lib/guest/load_types.ts";

const LOOK_INTERVAL_MS = 1;

/** See the file's first lines. Disposing it ends its looking. */
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

  /** Requests answered so far, and the longest pause that has ended since this was asked last. */
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
