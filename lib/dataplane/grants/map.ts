/**
 * Grant modes `map` and `map-each`: the engine works on the guest's pages in place. A request's pages are mapped when
 * it is acquired and unmapped when its I/O is over.
 */

import { OP_READ } from "../../blkif/abi.ts";
import type { GrantTable } from "../../hypervisor.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { SlotTable } from "../slot_table.ts";
import { GRANT_FAILURE } from "./failure.ts";
import { MOST_PAGES_PER_RING } from "./page_pool.ts";
import type { GrantStrategy } from "./strategy.ts";

/** `map`: one map call and one unmap call per request. */
export class MapStrategy implements GrantStrategy {
  /** Address of each mapped page. */
  protected readonly pages: Float64Array;
  readonly buffers = undefined;
  /** Pages that may still be mapped. */
  #room: number;

  constructor(protected readonly slots: SlotTable, protected readonly grants: GrantTable) {
    this.pages = new Float64Array(slots.segmentEntries);
    this.#room = Math.max(MOST_PAGES_PER_RING, slots.maxSegments);
  }

  acquire(slot: number): boolean {
    const { slots } = this;
    const first = slots.firstSegment[slot]!;
    const count = slots.segmentCount[slot]!;
    if (count > this.#room) return false;
    // Reading from the disk writes to the guest's page.
    const mapped = this.mapSegments(first, count, slots.operation[slot] === OP_READ);
    if (mapped !== 0) {
      slots.failGrant(slot, GRANT_FAILURE.map, slots.grefs[first]!, mapped);
      return true;
    }
    this.#room -= count;
    slots.vectorCount[slot] = count;
    for (let i = first; i < first + count; i++) {
      slots.vectors.addresses[i] = this.pages[i]! + slots.firstSector[i]! * SECTOR_BYTES;
      slots.vectors.lengths[i] = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_BYTES;
    }
    return true;
  }

  release(slot: number, _deliver: boolean): void {
    const { slots } = this;
    const count = slots.vectorCount[slot]!;
    if (count === 0) return; // mapping them failed
    slots.vectorCount[slot] = 0;
    this.#room += count;
    const first = slots.firstSegment[slot]!;
    const unmapped = this.unmapSegments(first, count);
    if (unmapped !== 0) slots.failGrant(slot, GRANT_FAILURE.unmap, slots.grefs[first]!, unmapped);
  }

  /** Returns 0 or a negative errno, as {@linkcode unmapSegments} does. */
  protected mapSegments(first: number, count: number, writable: boolean): number {
    return this.grants.map(this.slots.grefs, first, count, writable, this.pages);
  }

  protected unmapSegments(first: number, count: number): number {
    return this.grants.unmap(this.pages[first]!, count);
  }

  transfer(): void {}

  [Symbol.dispose](): void {}
}

/** `map-each`: like `map`, with one call per page, for drivers that cannot map several pages contiguously. */
export class MapEachStrategy extends MapStrategy {
  protected override mapSegments(first: number, count: number, writable: boolean): number {
    for (let i = first; i < first + count; i++) {
      const status = this.grants.map(this.slots.grefs, i, 1, writable, this.pages);
      if (status === 0) continue;
      this.unmapSegments(first, i - first);
      return status;
    }
    return 0;
  }

  protected override unmapSegments(first: number, count: number): number {
    let failed = 0;
    for (let i = first; i < first + count; i++) failed = this.grants.unmap(this.pages[i]!, 1) || failed;
    return failed;
  }
}
