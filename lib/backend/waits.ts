/**
 * What a device waits for. Storage may never answer, so each wait has an end: after ten seconds in any case, and after
 * one second as soon as the device has something else to look at. The operation itself goes on in the background; the
 * next attempt waits for the same operation, and its result is kept until then, or until it is not wanted any more. At
 * the end of the process a device waits for the latter, too, so that an image that opens late is closed in order.
 */

import { PASSES } from "../xenbus/error_text.ts";
import type { Clock } from "../clock.ts";
import { XenblkError } from "../errors.ts";

/** From then on a wait ends when it is interrupted, and later in any case. */
const PATIENCE_MS = 1_000;
const LIMIT_MS = 10_000;

/** An operation has not ended in time. It goes on, and the device looks again when it has ended. */
export class OverdueError extends XenblkError {}

/** Something that was begun and may never end. */
export interface Operation<T> {
  /** What is done, as after "Cannot": `open image raw:/a.img`. */
  readonly text: () => string;
  /** When it began, in milliseconds of the clock. */
  readonly sinceMs: number;
  readonly outcome: Promise<T>;
  /** Thrown by every wait that comes after the limit: one error, so that it is reported once. */
  overdue: OverdueError | undefined;
  /** A wait for it ended before it did. */
  givenUp: boolean;
}

/** A wait that has not ended. */
interface Wait {
  readonly operation: Operation<unknown>;
  /** Aborted when the wait is over. */
  readonly over: AbortSignal;
  readonly end: (error: unknown) => void;
  interrupted: boolean;
}

/** The operations and the waits of one device. */
export class Waits {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #answered: () => void;
  readonly #operations = new Set<Operation<unknown>>();
  readonly #waits = new Set<Wait>();

  /** The signal ends all waits of that moment. `answered` is called when an operation ends that was given up. */
  constructor(clock: Clock, signal: AbortSignal, answered: () => void) {
    this.#clock = clock;
    this.#signal = signal;
    this.#answered = answered;
    signal.addEventListener("abort", () => {
      for (const wait of [...this.#waits]) this.#end(wait, signal.reason);
    }, { once: true });
  }

  /** An operation has not ended in time. */
  get overdue(): boolean {
    return [...this.#operations].some(({ overdue }) => overdue !== undefined);
  }

  /** What has not ended yet, and for how long: `open image raw:/a.img: no answer for 7 s`. */
  get pending(): string[] {
    return [...new Set([...this.#operations].map((operation) => this.#describe(operation)))];
  }

  /** Notes an operation that has begun, by default just now. `text` is what it does, as after "Cannot". */
  begin<T>(text: () => string, begun: PromiseLike<T>, sinceMs = this.#clock.now()): Operation<T> {
    const outcome = Promise.resolve(begun);
    const operation = { text, sinceMs, outcome, overdue: undefined, givenUp: false };
    this.#operations.add(operation);
    const ended = (): void => {
      this.#operations.delete(operation);
      if (operation.givenUp) this.#answered();
    };
    outcome.then(ended, ended);
    return operation;
  }

  /**
   * The operation's outcome. Rejects with {@linkcode OverdueError} ten seconds after it began, or with an AbortError if
   * it is interrupted before.
   */
  async until<T>(operation: Operation<T>): Promise<T> {
    const { promise: ended, reject } = Promise.withResolvers<never>();
    const over = new AbortController();
    const wait: Wait = { operation, over: over.signal, end: reject, interrupted: false };
    this.#waits.add(wait);
    this.#endAfter(LIMIT_MS, wait, () => this.#overdue(operation));
    try {
      return await Promise.race([operation.outcome, ended]);
    } finally {
      this.#waits.delete(wait);
      over.abort();
    }
  }

  /** Something else may have to be done: ends the waits that have lasted a second, and the others when they have. */
  interrupt(): void {
    for (const wait of [...this.#waits]) {
      if (wait.interrupted) continue;
      wait.interrupted = true;
      this.#endAfter(PATIENCE_MS, wait, () => new DOMException("interrupted", "AbortError"));
    }
  }

  /** Waits until the operation has ended, or is so old. The signal does not end this. */
  async untilOld({ outcome, sinceMs }: Operation<unknown>, ageMs: number): Promise<void> {
    const leftMs = sinceMs + ageMs - this.#clock.now();
    if (leftMs <= 0) return;
    const over = new AbortController();
    await Promise.race([outcome.catch(() => {}), this.#clock.sleep(leftMs, over.signal)]);
    over.abort();
  }

  /** Throws the signal's reason if it is aborted. */
  throwIfStopped(): void {
    this.#signal.throwIfAborted();
  }

  #endAfter(ms: number, wait: Wait, error: () => unknown): void {
    const leftMs = wait.operation.sinceMs + ms - this.#clock.now();
    if (leftMs <= 0) return this.#end(wait, error());
    void this.#clock.sleep(leftMs, wait.over).then(() => {
      if (!wait.over.aborted) this.#end(wait, error());
    });
  }

  #end(wait: Wait, error: unknown): void {
    wait.operation.givenUp = true;
    wait.end(error);
  }

  #overdue(operation: Operation<unknown>): OverdueError {
    return operation.overdue ??= new OverdueError(`Cannot ${operation.text()}: no answer within ${LIMIT_MS / 1000} s`, {
      remedy: `check the storage behind it; ${PASSES}`,
    });
  }

  #describe({ text, sinceMs }: Operation<unknown>): string {
    return `${text()}: no answer for ${Math.round((this.#clock.now() - sinceMs) / 1000)} s`;
  }
}

/** What {@linkcode Acquisition} is getting. */
interface Pending<T> {
  readonly key: string;
  readonly text: () => string;
  readonly operation: Operation<T>;
  readonly abandon: AbortController;
}

/** Gets one thing at a time that has to be disposed; keeps what comes late for the next call, until it is dropped. */
export class Acquisition<T> {
  readonly #waits: Waits;
  readonly #release: (text: string, late: T) => void;
  #pending: Pending<T> | undefined;
  /** Operations whose result was not wanted any more, and that have not ended. */
  readonly #dropped = new Set<Operation<T>>();

  /** `release` disposes what came and is not wanted any more; the text is what that does, as after "Cannot". */
  constructor(waits: Waits, release: (text: string, late: T) => void) {
    this.#waits = waits;
    this.#release = release;
  }

  /**
   * What `begin` resolves with. An operation of the same key that was begun before, and may have ended since, is waited
   * for again; one of another key is dropped. The signal that `begin` receives aborts when the result is not wanted any
   * more. Rejects as `begin` and {@linkcode Waits.until} do.
   */
  async get(key: string, text: () => string, begin: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#waits.throwIfStopped();
    if (this.#pending?.key !== key) {
      this.drop();
      this.#begin(key, text, begin);
    }
    const pending = this.#pending!;
    const got = await this.#waits.until(pending.operation);
    if (this.#pending === pending) this.#pending = undefined;
    return got;
  }

  /** The result is not wanted any more. */
  drop(): void {
    const pending = this.#pending;
    if (pending === undefined) return;
    this.#pending = undefined;
    pending.abandon.abort();
    const { operation, text } = pending;
    this.#dropped.add(operation);
    const release = (late: T): void => this.#release(`dispose what came late (${text()})`, late);
    operation.outcome.then(release, () => {}).finally(() => this.#dropped.delete(operation));
  }

  /**
   * Waits until what was dropped has come and is being released: for each until ten seconds after it was begun, and if
   * it is `urgent`, until one second after that.
   */
  async dropped(urgent: boolean): Promise<void> {
    const ageMs = urgent ? PATIENCE_MS : LIMIT_MS;
    await Promise.all([...this.#dropped].map((operation) => this.#waits.untilOld(operation, ageMs)));
  }

  #begin(key: string, text: () => string, begin: (signal: AbortSignal) => Promise<T>): void {
    const abandon = new AbortController();
    const operation = this.#waits.begin(text, begin(abandon.signal));
    const pending: Pending<T> = this.#pending = { key, text, operation, abandon };
    operation.outcome.catch(() => {
      if (this.#pending === pending) this.#pending = undefined;
    });
  }
}
