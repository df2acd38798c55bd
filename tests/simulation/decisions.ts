/**
 * All choices of a simulation: drawn from one seed and recorded per step, so that a run can be replayed from its record
 * and the record shortened. Zero is always the least eventful choice, and missing entries of a record read as zero.
 */

import type { Random } from "../../lib/guest/random.ts";

/** The recorded choices: before the first step, in each step, and after the last. */
export interface Script {
  readonly setup: readonly number[];
  readonly steps: readonly (readonly number[])[];
  readonly ending: readonly number[];
}

/** Makes the choices of one run, from a random source or a script. */
export class Decisions {
  readonly #random: Random;
  readonly #script: Script | undefined;
  readonly #record = { setup: [] as number[], steps: [] as number[][], ending: [] as number[] };
  #made: number[];
  #played: readonly number[];

  /** With a script all choices are the script's. */
  constructor(random: Random, script?: Script) {
    this.#random = random;
    this.#script = script;
    this.#made = this.#record.setup;
    this.#played = script?.setup ?? [];
  }

  /** The choices so far. */
  get record(): Script {
    return this.#record;
  }

  /** Starts the next step. False: the script has no more steps. */
  beginStep(): boolean {
    const { steps } = this.#record;
    if (this.#script !== undefined && steps.length >= this.#script.steps.length) return false;
    this.#played = this.#script?.steps[steps.length] ?? [];
    this.#made = [];
    steps.push(this.#made);
    return true;
  }

  /** Further choices belong to the ending. */
  beginEnding(): void {
    this.#played = this.#script?.ending ?? [];
    this.#made = this.#record.ending;
  }

  /** A whole number from 0 to `end - 1`. */
  below(end: number): number {
    const scripted = this.#played[this.#made.length] ?? 0;
    const value = this.#script === undefined ? this.#random.below(end) : Math.min(scripted, end - 1);
    this.#made.push(value);
    return value;
  }

  /** A whole number from `least` to `greatest`; `least` is the least eventful. */
  between(least: number, greatest: number): number {
    return least + this.below(greatest - least + 1);
  }

  /** True in `perMille` of 1000 cases; false is the least eventful. */
  chance(perMille: number): boolean {
    return this.below(1000) >= 1000 - perMille;
  }

  /** An element of the list, which must not be empty; the first is the least eventful. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** An index into the weights, with a probability in proportion to the weight. */
  weighted(weights: readonly number[]): number {
    let left = this.below(weights.reduce((sum, weight) => sum + weight, 0));
    return Math.max(0, weights.findIndex((weight) => (left -= weight) < 0));
  }
}
