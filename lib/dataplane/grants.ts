/**
 * How guest data reaches the disk: the grant strategies. `copy` moves the bytes through private buffers with one grant
 * copy call per pass, for all requests together; `map` maps a request's pages (in one call, or one by one) and lets
 * the engine work on them in place; `persistent` (persistent.ts) keeps them mapped. Which request needs what is the
 * queue's business; the ring is unknown here.
 */

import { OP_READ, SECTOR_SIZE_BYTES } from "../blkif/abi.ts";
import type { RequestSlots } from "../blkif/request.ts";
import type { GrantTable, Memory, MemorySpace } from "../hypervisor.ts";
import type { IoVectors } from "../storage/disk.ts";
import { CopyStrategy } from "./copy_strategy.ts";
import { MOST_PAGES_PER_RING } from "./page_pool.ts";
import { PersistentStrategy } from "./persistent.ts";
import { SlotVectors } from "./slot_vectors.ts";
import type { GrantMode } from "./types.ts";

/**
 * One ring's use of the guest's grants. A slot is acquired when its request was taken and has data, and released when
 * its I/O is over, before its response is put. Either may be deferred until {@linkcode transfer}.
 */
export interface GrantStrategy extends Disposable {
  /** What the slots' operations point to; entry `slot * maxSegments` onwards belongs to `slot`. */
  readonly vectors: IoVectors;
  /** Valid entries of {@linkcode vectors} by slot. */
  readonly vectorCount: Uint16Array;
  /** 1 for a slot whose grants could not be used; set by acquire, release and transfer, cleared by acquire. */
  readonly failed: Uint8Array;
  /** Buffers that live as long as the strategy, for engines that keep views; undefined when pages come and go. */
  readonly buffers: Memory | undefined;
  /**
   * Makes the slot's vectors valid, and (after transfer) its data readable for a write. False: there is no room now, and
   * nothing happened; there will be when slots that were acquired are released. With none acquired there is room.
   */
  acquire(slot: number): boolean;
  /** Gives the slot's data back to the guest; `deliver` is false where a read failed and there is nothing to give. */
  release(slot: number, deliver: boolean): void;
  /** Carries out all that was deferred, in one call. */
  transfer(): void;
  /** Mappings that outlive their requests; absent if there never are any. */
  readonly kept?: KeptGrants;
}

/** Mappings that are kept for requests to come. */
export interface KeptGrants {
  /** Mappings there are. */
  readonly count: number;
  /**
   * Gives back what was not used between the last two rounds of calls, a bounded number a call. True: there is more,
   * call again; false: the round is over. It costs next to nothing if there is nothing to give back.
   */
  releaseIdle(): boolean;
}

/** What a strategy is made of. */
export interface GrantParts {
  readonly slots: RequestSlots;
  readonly grants: GrantTable;
  readonly memory: MemorySpace;
  /** Most mappings that `persistent` keeps. */
  readonly maxPersistentGrants: number;
  /** The queue's counters' memory; see stats.ts. */
  readonly stats: SharedArrayBuffer;
}

/** Makes the strategy of a mode. */
export function createGrantStrategy(mode: GrantMode, parts: GrantParts): GrantStrategy {
  const { slots, grants, memory, maxPersistentGrants, stats } = parts;
  switch (mode) {
    case "copy":
      return new CopyStrategy(slots, grants, memory);
    case "persistent":
      return new PersistentStrategy({
        slots,
        grants,
        fallback: new CopyStrategy(slots, grants, memory),
        maxGrants: maxPersistentGrants,
        stats: new Float64Array(stats),
      });
    case "map":
      return new MapStrategy(slots, grants);
    case "map-each":
      return new MapEachStrategy(slots, grants);
  }
}

/** `map`: one map call and one unmap call per request; engines touch guest pages in place. */
class MapStrategy extends SlotVectors implements GrantStrategy {
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
      this.vectors.addresses[i] = this.pages[i]! + slots.firstSector[i]! * SECTOR_SIZE_BYTES;
      this.vectors.lengths[i] = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_SIZE_BYTES;
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
class MapEachStrategy extends MapStrategy {
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
