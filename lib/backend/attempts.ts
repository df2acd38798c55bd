/**
 * How a device's last attempt ended, and when to try again: at once if a node has changed, after a second if another
 * process holds the device or its image, and after growing waits if xenstore or a close failed.
 */

import type { Clock } from "../clock.ts";
import type { Attempt, Outcome } from "../xenbus/transitions.ts";
import { Backoff } from "./backoff.ts";

/** How often a device, or an image, that another process holds is looked at: nothing announces that it ends. */
const OTHERS_INTERVAL_MS = 1_000;

/** The memory of one device. */
export class Attempts {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #retry: () => void;
  readonly #backoff = new Backoff();
  /** Refused or busy in the situation of the fingerprint; failed in any. */
  #last: { readonly attempt: Attempt; readonly fingerprint?: string } = { attempt: "fresh" };
  #waiting = false;

  /** `retry` is called when it is time to look again; never after the signal. */
  constructor(clock: Clock, signal: AbortSignal, retry: () => void) {
    this.#clock = clock;
    this.#signal = signal;
    this.#retry = retry;
  }

  /** How the last attempt ended, if that still counts; `fingerprint` is called only if it matters. */
  current(fingerprint: () => string): Attempt {
    const { attempt, fingerprint: then } = this.#last;
    if (then !== undefined && then !== fingerprint()) this.reset();
    return then === undefined ? attempt : this.#last.attempt;
  }

  /** How an action ended; `fingerprint` is the situation in which it was tried. */
  ended(outcome: Outcome, fingerprint: string): void {
    if (outcome === "failed") return this.#failed();
    if (outcome === "waiting") return this.#wait(OTHERS_INTERVAL_MS);
    if (outcome === "idle") this.#backoff.reset();
    if (outcome === "refused" || outcome === "busy") this.#last = { attempt: outcome, fingerprint };
    else if (outcome === "done") this.reset();
  }

  /** Whatever failed before may succeed now. */
  reset(): void {
    this.#last = { attempt: "fresh" };
  }

  #failed(): void {
    this.#last = { attempt: "failed" };
    if (!this.#waiting) this.#wait(this.#backoff.next());
  }

  /** At most one wait at a time: a second reason to wait shares the first one's. */
  #wait(ms: number): void {
    if (this.#waiting) return;
    this.#waiting = true;
    void this.#clock.sleep(ms, this.#signal).then(() => {
      this.#waiting = false;
      if (this.#last.attempt !== "refused") this.reset();
      if (!this.#signal.aborted) this.#retry();
    });
  }
}
