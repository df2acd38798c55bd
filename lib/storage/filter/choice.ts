/**
 * How `error` and `hang` choose the operations that they befall: by kind, by place, by chance and by number. All rings of
 * a disk choose in one sequence, so one ring's choices depend on the seed alone.
 */

import { SECTOR_BYTES } from "../../units.ts";
import { OPERATION } from "../engine/executor.ts";
import type { FilterOption, FilterValue } from "./filter.ts";
import { LiveValues } from "./live.ts";
import { decimal, live, operations, whole } from "./options.ts";

/** Which operations are chosen. All but the seed can be changed while the disk is served. */
export interface ChoiceOptions {
  /** The chance of each operation, from 0 (none) to 1 (all). Default 1. */
  readonly rate?: number;
  /** How many at most, from the last change of an option on; 0: any number. Default 0. */
  readonly count?: number;
  /** The first sector of 512 bytes of the range. Default 0. */
  readonly first?: number;
  /** The sectors of the range; 0: up to the end of the disk. Flushes have no place: the range is ignored. Default 0. */
  readonly sectors?: number;
  /** Names joined by `+`: `read`, `write`, `flush`, `discard`. Default `read+write`. */
  readonly operations?: string;
  /** Decides which operations `rate` chooses. Default 1. */
  readonly seed?: number;
}

const MOST_COUNT = 2 ** 24 - 1;
const MOST_SECTORS = 2 ** 44;

/** The options, for the definition of a filter; the live ones in the order in which {@linkcode Choice} has them. */
export const CHOICE_OPTIONS: Readonly<Record<keyof ChoiceOptions, FilterOption>> = {
  rate: live(decimal("The chance of each operation, 0 to 1", 0, 1, 1)),
  count: live(whole("How many at most, from the last change of an option on; 0: any number", 0, MOST_COUNT, 0)),
  first: live(whole("First sector of the range, of 512 bytes", 0, MOST_SECTORS, 0)),
  sectors: live(whole("Sectors of the range; 0: up to the end of the disk", 0, MOST_SECTORS, 0)),
  operations: operations("Which operations", "read+write"),
  seed: whole("Decides which operations the rate chooses", 0, 2 ** 32 - 1, 1),
};

/** Where the live options are. */
const [RATE, COUNT, FIRST, SECTORS, OPERATIONS] = [0, 1, 2, 3, 4] as const;

const DECISIONS = 0;
const CHOSEN = 1;

/** What the rings of a disk share. */
export function createChoiceState(): SharedArrayBuffer {
  return new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
}

/** One ring's choices. */
export class Choice {
  /** The live options: first those above, then what the filter adds. */
  readonly live: LiveValues;
  readonly #words: Int32Array;
  readonly #seed: number;

  constructor(live: SharedArrayBuffer, state: SharedArrayBuffer, seed: FilterValue) {
    this.live = new LiveValues(live);
    this.#words = new Int32Array(state);
    this.#seed = Number(seed);
  }

  /** Nothing is chosen at present. */
  get isOff(): boolean {
    return this.live.numbers[RATE] === 0;
  }

  /** Whether this operation is chosen. To be called once for each. */
  chooses(operation: number, offsetBytes: number, lengthBytes: number): boolean {
    const { numbers } = this.live;
    const rate = numbers[RATE]!;
    if (rate === 0 || (numbers[OPERATIONS]! & (1 << operation)) === 0) return false;
    if (operation !== OPERATION.flush && !this.#isInRange(offsetBytes, lengthBytes)) return false;
    if (rate < 1 && this.#next() >= rate) return false;
    return this.#count();
  }

  #isInRange(offsetBytes: number, lengthBytes: number): boolean {
    const { numbers } = this.live;
    const begin = numbers[FIRST]! * SECTOR_BYTES;
    const sectors = numbers[SECTORS]!;
    return offsetBytes + lengthBytes > begin && (sectors === 0 || offsetBytes < begin + sectors * SECTOR_BYTES);
  }

  /** The next number of the sequence, from 0 to 1. */
  #next(): number {
    const n = Atomics.add(this.#words, DECISIONS, 1);
    let x = (this.#seed + Math.imul(n, 0x9E3779B9)) | 0;
    x = Math.imul(x ^ (x >>> 16), 0x85EBCA6B);
    x = Math.imul(x ^ (x >>> 13), 0xC2B2AE35);
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 32;
  }

  /** Takes one of those that are left. The word has the generation of the options above, so that a change starts anew. */
  #count(): boolean {
    const most = this.live.numbers[COUNT]!;
    if (most === 0) return true;
    const generation = (this.live.generation >> 1) & 0xff;
    for (;;) {
      const word = Atomics.load(this.#words, CHOSEN);
      const chosen = (word >>> 24) === generation ? word & MOST_COUNT : 0;
      if (chosen >= most) return false;
      const next = (generation << 24) | (chosen + 1);
      if (Atomics.compareExchange(this.#words, CHOSEN, word, next) === word) return true;
    }
  }
}
