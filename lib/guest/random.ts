/**
 * Seeded random numbers for loads and tests (xoshiro128**), so that a seed replays a run. Taking a number allocates
 * nothing. Not for secrets.
 */

/** A stream of random numbers, determined by its seed. */
export class Random {
  readonly #state = new Int32Array(4);

  /** Only the low 32 bits of the seed count. */
  constructor(seed: number) {
    // splitmix32: similar seeds give different streams.
    let x = seed | 0;
    for (let i = 0; i < 4; i++) {
      x = (x + 0x9E3779B9) | 0;
      let z = Math.imul(x ^ (x >>> 16), 0x21F0AAAD);
      z = Math.imul(z ^ (z >>> 15), 0x735A2D97);
      this.#state[i] = z ^ (z >>> 15);
    }
  }

  /** A whole number from 0 to 2^32 - 1. */
  next(): number {
    const state = this.#state;
    const second = state[1]!;
    const fives = Math.imul(second, 5);
    const result = Math.imul((fives << 7) | (fives >>> 25), 9) >>> 0;
    const shifted = second << 9;
    state[2]! ^= state[0]!;
    state[3]! ^= second;
    state[1]! ^= state[2]!;
    state[0]! ^= state[3]!;
    state[2]! ^= shifted;
    const last = state[3]!;
    state[3] = (last << 11) | (last >>> 21);
    return result;
  }

  /** A number from 0 to below 1, of 53 random bits. */
  fraction(): number {
    return (this.next() * 0x200000 + (this.next() >>> 11)) / 0x20000000000000;
  }

  /** A whole number from 0 to `end - 1`; `end` is at most 2^53. */
  below(end: number): number {
    return end <= 0x100000000 ? Math.floor(this.next() / 0x100000000 * end) : Math.floor(this.fraction() * end);
  }

  /** A whole number from `least` to `greatest`. */
  between(least: number, greatest: number): number {
    return least + this.below(greatest - least + 1);
  }

  /** True with this probability, from 0 to 1. */
  chance(probability: number): boolean {
    return this.next() < probability * 0x100000000;
  }

  /** An element of the list, which must not be empty. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}
