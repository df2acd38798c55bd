/**
 * Time that passes only when a test says so, and the time of a process that may be killed.
 */

import { type Clock, SYSTEM_CLOCK } from "../clock.ts";

interface Sleeper {
  readonly dueMs: number;
  readonly wake: () => void;
}

/**
 * A clock whose time passes only by {@linkcode SimulatedClock.advance}. Sleepers that are due wake in the order of their
 * times. It is the time of the control plane: limits, retries and pauses. Threads of the data plane and of loads run
 * beside it.
 */
export class SimulatedClock implements Clock {
  #nowMs = 0;
  #sleepers: Sleeper[] = [];

  /** Milliseconds since it was made. */
  now(): number {
    return this.#nowMs;
  }

  /** How many wait for a time, and when the first of them wakes. */
  get sleepers(): { readonly count: number; readonly firstDueMs: number | undefined } {
    const due = this.#sleepers.map(({ dueMs }) => dueMs);
    return { count: due.length, firstDueMs: due.length === 0 ? undefined : Math.min(...due) };
  }

  /** Resolves when so much time has passed, or the signal aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    const sleeper = { dueMs: this.#nowMs + ms, wake: resolve };
    this.#sleepers.push(sleeper);
    signal?.addEventListener("abort", () => {
      this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
      resolve();
    }, { once: true });
    return promise;
  }

  /** Lets time pass, and wakes the sleepers that are due, the earliest first. */
  advance(ms: number): void {
    this.#nowMs += ms;
    const due = this.#sleepers.filter(({ dueMs }) => dueMs <= this.#nowMs).sort((a, b) => a.dueMs - b.dueMs);
    this.#sleepers = this.#sleepers.filter(({ dueMs }) => dueMs > this.#nowMs);
    for (const { wake } of due) wake();
  }

  /** The present sleepers never wake: their process has ended. */
  forgetSleepers(): void {
    this.#sleepers = [];
  }
}

/** The clock of a process: once that was killed, nobody who sleeps wakes, so the process does nothing more. */
export class ProcessClock implements Clock {
  readonly #clock: Clock;
  readonly #over = new AbortController();

  constructor(clock: Clock = SYSTEM_CLOCK) {
    this.#clock = clock;
  }

  now(): number {
    return this.#clock.now();
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    const over = this.#over.signal;
    await this.#clock.sleep(ms, signal === undefined ? over : AbortSignal.any([signal, over]));
    if (over.aborted) await new Promise<never>(() => {});
  }

  /** The process was killed. */
  end(): void {
    this.#over.abort();
  }
}
