/**
 * The data area of one channel: gives each request a range of whole granules. Nothing is allocated after construction.
 */

import { DATA_BYTES, GRANULE_BYTES } from "./layout.ts";

const COUNT = DATA_BYTES / GRANULE_BYTES;

/** Which granules are used. */
export class Granules {
  readonly #used = new Uint8Array(COUNT);
  /** All before this one are used. */
  #lowest = 0;

  /**
   * Takes the first range; -1: there is none so long now. With nothing taken, one of up to DATA_BYTES is there. Few places
   * are used again and again, so that views of them can be kept.
   */
  take(lengthBytes: number): number {
    const count = Math.ceil(lengthBytes / GRANULE_BYTES);
    const first = this.#find(this.#lowest, count);
    if (first < 0) return -1;
    this.#used.fill(1, first, first + count);
    if (first === this.#lowest) this.#lowest += count;
    return first * GRANULE_BYTES;
  }

  give(offsetBytes: number, lengthBytes: number): void {
    const first = offsetBytes / GRANULE_BYTES;
    this.#used.fill(0, first, first + Math.ceil(lengthBytes / GRANULE_BYTES));
    this.#lowest = Math.min(this.#lowest, first);
  }

  /** The first of so many free ones in a row, from `start` on. */
  #find(start: number, count: number): number {
    let run = 0;
    for (let i = start; i < COUNT; i++) {
      run = this.#used[i] === 0 ? run + 1 : 0;
      if (run === count) return i - count + 1;
    }
    return -1;
  }
}
