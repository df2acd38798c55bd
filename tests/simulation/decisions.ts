/**
 * Every choice of a simulation, drawn from one seed and recorded step by step, so that a run can be replayed from its
 * record and the record be cut down. Zero is always the dullest choice: what a shortened record lacks reads as zero. It
 * must not know what is decided.
 */

import type { Random } from "../../lib/guest/random.ts";

/** What was decided: before the first step, in each step, and after the last. */
export interface Script {
  readonly setup: readonly number[];
  readonly steps: readonly (readonly number[])[];
  readonly ending: readonly number[];
}

/** See the file's first lines. */
export class Decisions {
  readonly #random: Random;
  readonly #script: Script | undefined;
  readonly #record = { setup: [] as number[], steps: [] as number[][], ending: [] as number[] };
  #made: number[];
  #played: readonly number[];

  /** With a script the choices are the script's, and none is random. */
  constructor(random: Random, script?: Script) {
    this.#random = random;
    this.#script = script;
    this.#made = this.#record.setup;
    this.#played = script?.setup ?? [];
  }

  /** What was decided so far. */
  get record(): Script {
    return this.#record;
  }

  /** Begins the next step. False, and nothing begun, if a script has no more. */
  beginStep(): boolean {
    const { steps } = this.#record;
    if (this.#script !== undefined && steps.length >= this.#script.steps.length) return false;
    this.#played = this.#script?.steps[steps.length] ?? [];
    this.#made = [];
    steps.push(this.#made);
    return true;
  }

  /** What is decided from now on belongs to the end. */
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

  /** A whole number from `least` to `greatest`; the least is the dullest. */
  between(least: number, greatest: number): number {
    return least + this.below(greatest - least + 1);
  }

  /** True in so many of a thousand cases; false is the dullest. */
  chance(perMille: number): boolean {
    return this.below(1000) >= 1000 - perMille;
  }

  /** One of the list, which must not be empty; the first is the dullest. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  /** The index of one of the weights, each as likely as it is heavy. */
  weighted(weights: readonly number[]): number {
    let left = this.below(weights.reduce((sum, weight) => sum + weight, 0));
    return Math.max(0, weights.findIndex((weight) => (left -= weight) < 0));
  }
}
