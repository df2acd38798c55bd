/**
 * The grant strategies that let the engine work on the guest's pages in place: a request's pages are mapped when it is
 * taken and unmapped when its I/O is over. The ring is unknown here.
 */

import { SECTOR_BYTES } from "../units.ts";
import { OP_READ } from "../blkif/abi.ts";
import type { RequestSlots } from "../blkif/request.ts";
import type { GrantTable } from "../hypervisor.ts";
import type { GrantStrategy } from "./grants.ts";
import { MOST_PAGES_PER_RING } from "./page_pool.ts";
import { SlotVectors } from "./slot_vectors.ts";

/** `map`: one map call and one unmap call per request; engines touch guest pages in place. */
export class MapStrategy extends SlotVectors implements GrantStrategy {
  /** Address of each mapped page. */
  protected readonly pages: Float64Array;
  readonly buffers = undefined;
  /** Pages that may still be mapped. */
  #room: number;

  constructor(slots: RequestSlots, protected readonly grants: GrantTable) {
    super(slots);
    this.pages = new Float64Array(slots.slots * slots.maxSegments);
    this.#room = Math.max(MOST_PAGES_PER_RING, slots.maxSegments);
  }

  acquire(slot: number): boolean {
    const { slots } = this;
    const first = slot * slots.maxSegments;
    const count = slots.segmentCount[slot]!;
    if (count > this.#room) return false;
    this.vectorCount[slot] = 0; // nothing mapped, until it is
    // Reading from the disk writes to the guest's page.
    this.failed[slot] = this.mapSegments(first, count, slots.operation[slot] === OP_READ) ? 0 : 1;
    if (this.failed[slot] === 1) return true;
    this.#room -= count;
    this.vectorCount[slot] = count;
    for (let i = first; i < first + count; i++) {
      this.vectors.addresses[i] = this.pages[i]! + slots.firstSector[i]! * SECTOR_BYTES;
      this.vectors.lengths[i] = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_BYTES;
    }
    return true;
  }

  release(slot: number, _deliver: boolean): void {
    const count = this.vectorCount[slot]!;
    if (count === 0) return;
    this.vectorCount[slot] = 0;
    this.#room += count;
    if (!this.unmapSegments(slot * this.slots.maxSegments, count)) this.failed[slot] = 1;
  }

  protected mapSegments(first: number, count: number, writable: boolean): boolean {
    return this.grants.map(this.slots.grefs, first, count, writable, this.pages) === 0;
  }

  protected unmapSegments(first: number, count: number): boolean {
    return this.grants.unmap(this.pages[first]!, count) === 0;
  }

  transfer(): void {}

  [Symbol.dispose](): void {}
}

/** `map-each`: as `map`, with one call per page, for drivers that cannot map a batch contiguously. */
export class MapEachStrategy extends MapStrategy {
  protected override mapSegments(first: number, count: number, writable: boolean): boolean {
    for (let i = first; i < first + count; i++) {
      if (this.grants.map(this.slots.grefs, i, 1, writable, this.pages) === 0) continue;
      this.unmapSegments(first, i - first);
      return false;
    }
    return true;
  }

  protected override unmapSegments(first: number, count: number): boolean {
    let done = true;
    for (let i = first; i < first + count; i++) if (this.grants.unmap(this.pages[i]!, 1) !== 0) done = false;
    return done;
  }
}
