/**
 * How guest data reaches the disk: the grant strategies. `copy` moves the bytes through private buffers with one grant
 * copy call per pass, for all requests together; `map` maps a request's pages (in one call, or one by one) and lets
 * the engine work on them in place; `persistent` (persistent.ts) keeps them mapped. Which request needs what is the
 * queue's business; the ring is unknown here.
 */

import { OP_READ, SECTOR_SIZE_BYTES } from "../blkif/abi.ts";
import type { RequestSlots } from "../blkif/request.ts";
import { type GrantTable, type Memory, type MemorySpace, PAGE_SIZE_BYTES } from "../hypervisor.ts";
import type { IoVectors } from "../storage/disk.ts";
import { PersistentStrategy } from "./persistent.ts";
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
  /** Makes the slot's vectors valid, and (after transfer) its data readable for a write. */
  acquire(slot: number): void;
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

/** What all strategies keep per slot. */
class SlotVectors {
  readonly vectors: IoVectors;
  readonly vectorCount: Uint16Array;
  readonly failed: Uint8Array;

  constructor(protected readonly slots: RequestSlots) {
    const entries = slots.slots * slots.maxSegments;
    this.vectors = { addresses: new Float64Array(entries), lengths: new Uint32Array(entries) };
    this.vectorCount = new Uint16Array(slots.slots);
    this.failed = new Uint8Array(slots.slots);
  }
}

/** `copy`: every slot owns page-aligned buffers; a request's segments are packed in them without gaps. */
class CopyStrategy extends SlotVectors implements GrantStrategy {
  readonly #memory;
  readonly #batch;
  readonly #slotBytes: number;
  /** The batch entries of a slot, and the slots that have any. */
  readonly #batchFirst: Uint32Array;
  readonly #batchCount: Uint16Array;
  readonly #batchSlots: Uint16Array;
  #batchLength = 0;

  constructor(slots: RequestSlots, grants: GrantTable, memory: MemorySpace) {
    super(slots);
    this.#slotBytes = slots.maxSegments * PAGE_SIZE_BYTES;
    this.#memory = memory.allocate(slots.slots * this.#slotBytes);
    this.#batch = grants.createCopyBatch(slots.slots * slots.maxSegments);
    this.#batchFirst = new Uint32Array(slots.slots);
    this.#batchCount = new Uint16Array(slots.slots);
    this.#batchSlots = new Uint16Array(slots.slots);
  }

  get buffers(): Memory {
    return this.#memory;
  }

  acquire(slot: number): void {
    const entry = slot * this.slots.maxSegments;
    this.vectors.addresses[entry] = this.#memory.address + slot * this.#slotBytes;
    this.vectors.lengths[entry] = this.slots.lengthBytes[slot]!;
    this.vectorCount[slot] = 1;
    this.failed[slot] = 0;
    if (this.slots.operation[slot] !== OP_READ) this.#copy(slot, false);
  }

  release(slot: number, deliver: boolean): void {
    if (deliver && this.slots.operation[slot] === OP_READ) this.#copy(slot, true);
  }

  #copy(slot: number, toGuest: boolean): void {
    const { slots } = this;
    const batch = this.#batch;
    const first = slot * slots.maxSegments;
    const end = first + slots.segmentCount[slot]!;
    let address = this.#memory.address + slot * this.#slotBytes;
    this.#batchFirst[slot] = batch.length;
    for (let i = first; i < end; i++) {
      const offset = slots.firstSector[i]! * SECTOR_SIZE_BYTES;
      const length = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_SIZE_BYTES;
      if (toGuest) batch.addToGuest(slots.grefs[i]!, offset, address, length);
      else batch.addFromGuest(slots.grefs[i]!, offset, address, length);
      address += length;
    }
    this.#batchCount[slot] = end - first;
    this.#batchSlots[this.#batchLength++] = slot;
  }

  transfer(): void {
    if (this.#batchLength === 0) return;
    const batch = this.#batch;
    batch.run(); // a call that failed as a whole leaves every status a failure
    for (let n = 0; n < this.#batchLength; n++) {
      const slot = this.#batchSlots[n]!;
      const end = this.#batchFirst[slot]! + this.#batchCount[slot]!;
      for (let i = this.#batchFirst[slot]!; i < end; i++) if (batch.status(i) !== 0) this.failed[slot] = 1;
    }
    batch.clear();
    this.#batchLength = 0;
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }
}

/** `map`: one map call and one unmap call per request; engines touch guest pages in place. */
class MapStrategy extends SlotVectors implements GrantStrategy {
  /** Address of each mapped page. */
  protected readonly pages: Float64Array;
  readonly buffers = undefined;

  constructor(slots: RequestSlots, protected readonly grants: GrantTable) {
    super(slots);
    this.pages = new Float64Array(slots.slots * slots.maxSegments);
  }

  acquire(slot: number): void {
    const { slots } = this;
    const first = slot * slots.maxSegments;
    const count = slots.segmentCount[slot]!;
    this.vectorCount[slot] = 0; // nothing mapped, until it is
    // Reading from the disk writes to the guest's page.
    this.failed[slot] = this.mapSegments(first, count, slots.operation[slot] === OP_READ) ? 0 : 1;
    if (this.failed[slot] === 1) return;
    this.vectorCount[slot] = count;
    for (let i = first; i < first + count; i++) {
      this.vectors.addresses[i] = this.pages[i]! + slots.firstSector[i]! * SECTOR_SIZE_BYTES;
      this.vectors.lengths[i] = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_SIZE_BYTES;
    }
  }

  release(slot: number, _deliver: boolean): void {
    const count = this.vectorCount[slot]!;
    if (count === 0) return;
    this.vectorCount[slot] = 0;
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
