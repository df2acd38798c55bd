/**
 * A load's requests in flight, as a struct of arrays: operation, sectors and segments of each, the free slots, and a
 * check whether a range of sectors is in use.
 */

import { MAX_SEGMENTS_PER_REQUEST, SECTORS_PER_PAGE } from "../blkif/abi.ts";
import type { Random } from "./random.ts";

/** Operation of a free slot. */
export const FREE_SLOT = 255;

/** Most sectors of a direct request. */
export const MOST_DIRECT_SECTORS: number = MAX_SEGMENTS_PER_REQUEST * SECTORS_PER_PAGE;

/** The slots of one load. Arrays are indexed by slot, those of segments by `slot * segments + segment`. */
export class LoadSlots {
  readonly operation: Uint8Array;
  /** Index of the ring that the request is on. */
  readonly ring: Uint8Array;
  readonly sector: Float64Array;
  readonly sectorCount: Uint32Array;
  /** The number that DiskModel gave the write. */
  readonly write: Uint32Array;
  /** Upper half of the request's id, so that a second response for the same slot is noticed. */
  readonly serial: Uint32Array;
  /** By the platform's clock, in milliseconds. */
  readonly startedMs: Float64Array;
  readonly segmentCount: Uint16Array;
  readonly firstSector: Uint8Array;
  readonly lastSector: Uint8Array;

  readonly #free: Int32Array;
  #freeCount: number;

  /** `segments`: most segments per request. */
  constructor(readonly count: number, readonly segments: number) {
    this.operation = new Uint8Array(count).fill(FREE_SLOT);
    this.ring = new Uint8Array(count);
    this.sector = new Float64Array(count);
    this.sectorCount = new Uint32Array(count);
    this.write = new Uint32Array(count);
    this.serial = new Uint32Array(count);
    this.startedMs = new Float64Array(count);
    this.segmentCount = new Uint16Array(count);
    this.firstSector = new Uint8Array(count * segments);
    this.lastSector = new Uint8Array(count * segments);
    this.#free = Int32Array.from({ length: count }, (_, slot) => count - 1 - slot);
    this.#freeCount = count;
  }

  get inFlight(): number {
    return this.count - this.#freeCount;
  }

  /** A free slot, or -1. It stays free until its operation is set. */
  take(): number {
    return this.#freeCount === 0 ? -1 : this.#free[--this.#freeCount]!;
  }

  release(slot: number): void {
    this.operation[slot] = FREE_SLOT;
    this.#free[this.#freeCount++] = slot;
  }

  /** Whether a request in flight overlaps the sectors and one of the two writes. `read` is the operation READ. */
  conflicts(sector: number, count: number, writes: boolean, read: number): boolean {
    for (let slot = 0; slot < this.count; slot++) {
      const operation = this.operation[slot]!;
      if (operation === FREE_SLOT || (operation === read && !writes)) continue;
      const begin = this.sector[slot]!;
      if (sector < begin + this.sectorCount[slot]! && begin < sector + count) return true;
    }
    return false;
  }

  /** Fills page after page; the first one from sector `offset` of the page on. */
  layOutRegular(slot: number, sectors: number, offset: number): void {
    const base = slot * this.segments;
    let segment = 0;
    let first = offset;
    for (let left = sectors; left > 0; segment++) {
      const length = Math.min(SECTORS_PER_PAGE - first, left);
      this.firstSector[base + segment] = first;
      this.lastSector[base + segment] = first + length - 1;
      left -= length;
      first = 0;
    }
    this.segmentCount[slot] = segment;
  }

  /** At most `most` segments of random length at random places of their pages: legal, though few guests do it. */
  layOutIrregular(slot: number, sectors: number, most: number, random: Random): void {
    const base = slot * this.segments;
    let segment = 0;
    for (let left = sectors; left > 0; segment++) {
      const room = (most - segment - 1) * SECTORS_PER_PAGE;
      const length = random.between(Math.max(1, left - room), Math.min(SECTORS_PER_PAGE, left));
      const first = random.below(SECTORS_PER_PAGE - length + 1);
      this.firstSector[base + segment] = first;
      this.lastSector[base + segment] = first + length - 1;
      left -= length;
    }
    this.segmentCount[slot] = segment;
  }
}
