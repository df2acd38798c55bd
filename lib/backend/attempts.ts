/**
 * How a device's last attempt ended, and when to try again: at once if a node has changed, after a second if another
 * process holds the device or its image, and after growing waits if it was refused, or xenstore or a close failed.
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
  readonly #failures = new Backoff();
  readonly #refusals = new Backoff();
  /** With the situation, as text, in which it was tried: another one is a fresh attempt. Undefined: it was not read. */
  #last: { readonly attempt: Attempt; readonly situation: string | undefined } = FRESH;
  /** Nodes that others write may have changed so often; before the present look; and before the last attempt. */
  #changes = 0;
  #changesBefore = 0;
  #changesTried = 0;
  /** A refusal did not last, as a node had changed: from now on situations are read before an action. */
  #reads = false;
  /** Ends the present wait, if there is one. */
  #wait: { readonly dueMs: number; readonly end: AbortController } | undefined;

  /** `retry` is called when it is time to look again; never after the signal. */
  constructor(clock: Clock, signal: AbortSignal, retry: () => void) {
    this.#clock = clock;
    this.#signal = signal;
    this.#retry = retry;
  }

  /** A node that others write may have changed. */
  touched(): void {
    this.#changes++;
  }

  /** A look begins: what changes from now on may not be seen by it. */
  begin(): void {
    this.#changesBefore = this.#changes;
  }

  /**
   * The situation with all nodes, which takes many requests, as {@linkcode ended} shall know it: of an action that may be
   * refused. Undefined for the first one: should a node change after a refusal, it is tried once more for that.
   */
  async situation(fingerprint: () => Promise<string>): Promise<string | undefined> {
    return this.#reads ? await fingerprint() : undefined;
  }

  /**
   * How the last attempt ended, if that still counts. `fingerprint` is the situation with all nodes, and is called only
   * if it matters; `trusted` is what only the toolstack and this process can change, for an attempt that failed.
   */
  async current(fingerprint: () => Promise<string>, trusted: string): Promise<Attempt> {
    const { attempt, situation } = this.#last;
    if (attempt === "fresh") return attempt;
    if (situation === undefined) {
      if (this.#changes === this.#changesTried) return attempt;
      this.#reads = true;
      this.reset();
      return this.#last.attempt;
    }
    const now = attempt === "failed" ? trusted : await fingerprint();
    if (now !== situation) this.reset();
    return this.#last.attempt;
  }

  /** How an action ended, and the situation in which it was tried: `trusted` for one that failed. */
  ended(outcome: Outcome, situation: string | undefined): void {
    switch (outcome) {
      case "failed":
        this.#last = { attempt: outcome, situation };
        return this.#lookAfter(this.#wait === undefined ? this.#failures.next() : Infinity);
      case "refused":
        this.#last = { attempt: outcome, situation };
        this.#changesTried = this.#changesBefore;
        return this.#lookAfter(this.#refusals.next());
      case "busy":
        this.#last = { attempt: outcome, situation };
        this.#changesTried = this.#changesBefore;
        return;
      case "waiting":
        // After a failure the time to look again is set.
        return this.#last.attempt === "failed" ? undefined : this.#lookAfter(OTHERS_INTERVAL_MS);
      case "done":
        return this.reset();
      case "idle":
        if (this.#last.attempt === "refused") return;
        this.#reads = false;
        this.#failures.reset();
        this.#refusals.reset();
    }
  }

  /** Whatever failed before may succeed now. */
  reset(): void {
    this.#last = FRESH;
  }

  /** At most one wait at a time, the shorter one. */
  #lookAfter(ms: number): void {
    const dueMs = this.#clock.now() + ms;
    if (this.#wait !== undefined && this.#wait.dueMs <= dueMs) return;
    this.#wait?.end.abort();
    const end = new AbortController();
    const wait = this.#wait = { dueMs, end };
    void this.#clock.sleep(ms, AbortSignal.any([this.#signal, end.signal])).then(() => {
      if (this.#wait !== wait) return;
      this.#wait = undefined;
      this.reset();
      if (!this.#signal.aborted) this.#retry();
    });
  }
}

const FRESH = { attempt: "fresh", situation: "" } as const;
