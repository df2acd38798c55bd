/**
 * What all parts of one simulated run share: its decisions and faults, an event counter that orders everything, the
 * trace with its hash, and the report of a violation.
 */

import type { Decisions } from "./decisions.ts";
import { Faults } from "./faults.ts";

/** Something happened that must never happen. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** Lines of the trace that are kept, unless all are. */
const LAST_LINES = 40;

/** The shared state of one run. */
export class Run {
  readonly decisions: Decisions;
  readonly faults: Faults;
  /** The last lines of the trace, or all. */
  readonly lines: string[] = [];
  readonly #keepAll: boolean;
  #violation: string | undefined;
  #now = 0;
  #hash = 0x811C9DC5;

  constructor(decisions: Decisions, keepAllLines: boolean) {
    this.decisions = decisions;
    this.faults = new Faults(decisions);
    this.#keepAll = keepAllLines;
  }

  /** The event counter: events with a larger number happened later. */
  get now(): number {
    return this.#now;
  }

  /** Counts an event and returns its number. */
  tick(): number {
    return ++this.#now;
  }

  /** The first violation. */
  get violation(): string | undefined {
    return this.#violation;
  }

  /** Hash over the trace: equal for two runs only if the same happened in both. */
  get hash(): number {
    return this.#hash >>> 0;
  }

  /** Adds an event to the trace. */
  note(what: string, ...values: readonly number[]): void {
    let hash = this.#hash;
    for (let i = 0; i < what.length; i++) hash = Math.imul(hash ^ what.charCodeAt(i), 0x01000193);
    for (const value of values) hash = Math.imul(hash ^ value ^ (hash >>> 15), 0x01000193);
    this.#hash = hash;
    this.lines.push(values.length === 0 ? what : `${what} ${values.join(" ")}`);
    if (!this.#keepAll && this.lines.length > 2 * LAST_LINES) this.lines.splice(0, LAST_LINES);
  }

  /**
   * Ends the run with a violation. The first one is remembered, in case the code under test catches what is thrown.
   */
  fail(what: string): never {
    this.#violation ??= what;
    throw new Violation(what);
  }

  /** Fails unless `isSo`. */
  require(isSo: boolean, what: string): void {
    if (!isSo) this.fail(what);
  }
}
