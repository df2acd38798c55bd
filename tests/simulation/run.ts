/**
 * What all parts of one simulated run share: its decisions, its faults, an event counter that orders everything, the
 * trace with its hash, and the one way to say that something is wrong. It must not know the parts.
 */

import type { Decisions } from "./decisions.ts";
import { Faults } from "./faults.ts";

/** Something that must never happen has happened. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** Lines kept for a person when a run is not to be shown in full. */
const LAST_LINES = 40;

/** See the file's first lines. */
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

  /** Events so far: what happened at different values happened one after the other. */
  get now(): number {
    return this.#now;
  }

  /** The next event; no two have the same number. */
  tick(): number {
    return ++this.#now;
  }

  /** The first thing that went wrong. */
  get violation(): string | undefined {
    return this.#violation;
  }

  /** A number that two runs share only if the same happened in both. */
  get hash(): number {
    return this.#hash >>> 0;
  }

  /** Adds what happened to the trace. */
  note(what: string, ...values: readonly number[]): void {
    let hash = this.#hash;
    for (let i = 0; i < what.length; i++) hash = Math.imul(hash ^ what.charCodeAt(i), 0x01000193);
    for (const value of values) hash = Math.imul(hash ^ value ^ (hash >>> 15), 0x01000193);
    this.#hash = hash;
    this.lines.push(values.length === 0 ? what : `${what} ${values.join(" ")}`);
    if (!this.#keepAll && this.lines.length > 2 * LAST_LINES) this.lines.splice(0, LAST_LINES);
  }

  /**
   * Ends the run: something is wrong. It is remembered, in case that whoever is in between catches what is thrown; the
   * first time counts.
   */
  fail(what: string): never {
    this.#violation ??= what;
    throw new Violation(what);
  }

  /** Fails unless it is so. */
  require(isSo: boolean, what: string): void {
    if (!isSo) this.fail(what);
  }
}
