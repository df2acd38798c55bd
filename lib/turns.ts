/**
 * Shares a thread's time between many short pieces of work, such as xenstore calls for a thousand disks: after a few
 * milliseconds of them the event loop has its turn, so that signals, timers and messages wait for one piece at most.
 */

import { type Clock, SYSTEM_CLOCK } from "./clock.ts";

/** How long pieces of work may follow one another. */
const LONGEST_MS = 10;

/** A piece of work that waits. */
interface Waiting {
  /** Its place in the line: the smallest is next. */
  readonly place: number;
  readonly begin: () => void;
}

/** Runs pieces of work that no other thread can do. */
export class Turns {
  readonly #clock: Clock;
  /** Spent on work since the event loop had its last turn. */
  #workedMs = 0;
  #places = 0;
  /** In the order in which they begin. */
  readonly #waiting: Waiting[] = [];
  #isEmptying = false;

  /** `clock`: for tests and simulations. */
  constructor(clock: Clock = SYSTEM_CLOCK) {
    this.#clock = clock;
  }

  /** The end of the line. */
  nextPlace(): number {
    return this.#places++;
  }

  /**
   * Resolves with what `work` returns, or rejects as it does. Only the time until it waits for something is counted. Where
   * pieces wait, the one with the smallest `place` is next; absent: it comes last.
   */
  async run<T>(work: () => T, place: number = this.nextPlace()): Promise<Awaited<T>> {
    if (this.#isDue || this.#waiting.length > 0) await this.#admission(place);
    return await this.#measured(work);
  }

  /** Resolves with what `work` returns for each item, or rejects as it does. Nothing of it waits for anything. */
  async map<T, R>(items: Iterable<T>, work: (item: T) => R): Promise<R[]> {
    const results: R[] = [];
    for (const item of items) {
      if (this.#isDue || this.#waiting.length > 0) await this.#admission(this.nextPlace());
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

  /** Resolves when it is this place's turn. */
  #admission(place: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    let at = this.#waiting.length;
    while (at > 0 && this.#waiting[at - 1]!.place > place) at--;
    this.#waiting.splice(at, 0, { place, begin: resolve });
    if (!this.#isEmptying) void this.#empty();
    return promise;
  }

  async #empty(): Promise<void> {
    this.#isEmptying = true;
    while (this.#waiting.length > 0) {
      if (this.#isDue) {
        await this.#clock.sleep(0);
        this.#workedMs = 0;
      }
      this.#waiting.shift()!.begin();
      await undefined; // the piece begins
      await undefined;
    }
    this.#isEmptying = false;
  }
}

/**
 * One of many that share a thread, whose pieces of work come before those of all that came later: so the first is served
 * soon, and not all of them at the end.
 */
export class Place {
  readonly #turns: Turns;
  #place: number;

  /** At the end of the line. */
  constructor(turns: Turns) {
    this.#turns = turns;
    this.#place = turns.nextPlace();
  }

  /** Goes to the end of the line. */
  renew(): void {
    this.#place = this.#turns.nextPlace();
  }

  /** See {@linkcode Turns.run}. */
  run<T>(work: () => T): Promise<Awaited<T>> {
    return this.#turns.run(work, this.#place);
  }
}
