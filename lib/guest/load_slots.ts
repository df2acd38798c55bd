/**
 * A load's requests in flight, as a struct of arrays: what each asked for, where its segments are in its pages, which
 * slots are free, and whether a range of sectors is in use. It must not know how requests travel.
 */

import { MAX_SEGMENTS_PER_REQUEST, SECTORS_PER_PAGE } from "../blkif/abi.ts";
import type { Random } from "./random.ts";

/** In place of an operation: the slot is free. */
export const FREE_SLOT = 255;

/** Sectors that a direct request can move. */
export const MOST_DIRECT_SECTORS: number = MAX_SEGMENTS_PER_REQUEST * SECTORS_PER_PAGE;

/** See the file's first lines. Arrays are indexed by slot, segments by `slot * segments + segment`. */
export class LoadSlots {
  readonly operation: Uint8Array;
  /** The ring that it is on. */
  readonly ring: Uint8Array;
  readonly sector: Float64Array;
  readonly sectorCount: Uint32Array;
  /** Number of the write (DiskModel), for those that write. */
  readonly write: Uint32Array;
  /** Upper half of the id: tells a late answer from the right one. */
  readonly serial: Uint32Array;
  /** Milliseconds of the platform's clock. */
  readonly startedMs: Float64Array;
  readonly segmentCount: Uint16Array;
  readonly firstSector: Uint8Array;
  readonly lastSector: Uint8Array;

  readonly #free: Int32Array;
  #freeCount: number;

  /** `segments` is the room for each request. */
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

  give(slot: number): void {
    this.operation[slot] = FREE_SLOT;
    this.#free[this.#freeCount++] = slot;
  }

  /** Whether a request in flight touches the sectors, and either it or the new one writes. `read` is READ's code. */
  conflicts(sector: number, count: number, writes: boolean, read: number): boolean {
    for (let slot = 0; slot < this.count; slot++) {
      const operation = this.operation[slot]!;
      if (operation === FREE_SLOT || (operation === read && !writes)) continue;
      const begin = this.sector[slot]!;
      if (sector < begin + this.sectorCount[slot]! && begin < sector + count) return true;
    }
    return false;
  }

  /** Segments that fill page after page, the first from sector `offset` of its page on. */
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

  /** At most `most` segments of any length at any place of their pages, as the protocol allows and few guests make. */
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
