/**
 * Shares a thread's time between many short pieces of work, such as xenstore calls for a thousand disks: after a few
 * milliseconds of them the event loop has its turn, so that signals, timers and messages wait for one piece at most.
 */

import { type Clock, SYSTEM_CLOCK } from "./clock.ts";

/** How long pieces of work may follow one another. */
const LONGEST_MS = 10;

/** Runs pieces of work that no other thread can do. */
export class Turns {
  readonly #clock: Clock;
  /** Spent on work since the event loop had its last turn. */
  #workedMs = 0;
  #turn: Promise<void> | undefined;

  /** `clock`: for tests and simulations. */
  constructor(clock: Clock = SYSTEM_CLOCK) {
    this.#clock = clock;
  }

  /** Resolves with what `work` returns, or rejects as it does. Only the time until it waits for something is counted. */
  async run<T>(work: () => T): Promise<Awaited<T>> {
    while (this.#isDue) await (this.#turn ??= this.#nextTurn());
    return await this.#measured(work);
  }

  /** Resolves with what `work` returns for each item, or rejects as it does. Nothing of it waits for anything. */
  async map<T, R>(items: Iterable<T>, work: (item: T) => R): Promise<R[]> {
    const results: R[] = [];
    for (const item of items) {
      while (this.#isDue) await (this.#turn ??= this.#nextTurn());
      results.push(this.#measured(() => work(item)));
    }
    return results;
  }

  /**
   * Resolves with what the steps yield, without undefined; each step is a piece of work. Rejects with what a step throws,
   * or with the signal's reason.
   */
  async collect<T>(steps: Iterator<T | undefined>, signal?: AbortSignal): Promise<T[]> {
    for (const results: T[] = [];;) {
      const { done, value } = await this.run(() => steps.next());
      signal?.throwIfAborted();
      if (done) return results;
      if (value !== undefined) results.push(value);
    }
  }

  get #isDue(): boolean {
    return this.#workedMs >= LONGEST_MS;
  }

  #measured<T>(work: () => T): T {
    const startMs = this.#clock.now();
    try {
      return work();
    } finally {
      this.#workedMs += this.#clock.now() - startMs;
    }
  }

  async #nextTurn(): Promise<void> {
    await this.#clock.sleep(0);
    this.#workedMs = 0;
    this.#turn = undefined;
  }
}
