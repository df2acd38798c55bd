/**
 * Grant mode `copy`: the bytes go through private pages, with one grant copy call per pass for all requests together. A
 * request's segments are packed into its pages without gaps.
 */

import { OP_READ } from "../../blkif/abi.ts";
import type { GrantCopyBatch, GrantTable, Memory, MemorySpace } from "../../hypervisor.ts";
import { PAGE_BYTES, pagesOf, SECTOR_BYTES } from "../../units.ts";
import type { SlotTable } from "../slot_table.ts";
import { GRANT_FAILURE } from "./failure.ts";
import { MOST_PAGES_PER_RING, PagePool } from "./page_pool.ts";
import type { GrantStrategy } from "./strategy.ts";

/** An idle ring keeps so many pages that it has used: giving back fewer is not worth being woken for. */
const PAGES_WORTH_KEEPING = 16;

/** The most copies of one call, unless a single request needs more. */
const MOST_COPIES = 4096;

/**
 * Copies between private pages and the guest. A read holds its pages until its data was copied to the guest. Afterwards
 * the slot keeps them for its next request: if that has the same size, it needs no search for pages and finds them in
 * the processor's cache. Slots that hold no data release their pages when the pool has no others.
 */
export class CopyStrategy implements GrantStrategy {
  readonly #slots: SlotTable;
  readonly #pool: PagePool;
  /** By slot: pages in one range that the slot has or keeps, 0 if there are none, and their address. */
  readonly #keptPages: Uint16Array;
  readonly #keptAddress: Float64Array;
  readonly #batch: GrantCopyBatch;
  /** By slot: its entries in the batch; and the slots that have any. */
  readonly #batchFirst: Uint32Array;
  readonly #batchCount: Uint16Array;
  readonly #batchSlots: Uint16Array;
  /** By entry in the batch, of a request whose pages are in several ranges: its grant reference. */
  readonly #batchGrefs: Uint32Array;
  #batchLength = 0;
  /** Since the last {@linkcode releaseBuffers}. */
  #isUsed = false;

  /** Throws RangeError when there is no memory left. */
  constructor(slots: SlotTable, grants: GrantTable, memory: MemorySpace) {
    this.#slots = slots;
    const { slots: count, maxSegments } = slots;
    using undo = new DisposableStack();
    const pages = Math.max(maxSegments, Math.min(count * maxSegments, MOST_PAGES_PER_RING));
    this.#pool = undo.use(new PagePool(memory, pages));
    this.#keptPages = new Uint16Array(count);
    this.#keptAddress = new Float64Array(count);
    // Where the pages are not adjacent, a segment may need two copies.
    const copies = Math.max(2 * maxSegments, Math.min(count * maxSegments, MOST_COPIES));
    this.#batch = undo.use(grants.createCopyBatch(copies));
    this.#batchFirst = new Uint32Array(count);
    this.#batchCount = new Uint16Array(count);
    this.#batchSlots = new Uint16Array(count);
    this.#batchGrefs = new Uint32Array(copies);
    undo.move();
  }

  get buffers(): Memory {
    return this.#pool.memory;
  }

  get bufferedBytes(): number {
    const pages = this.#pool.touchedPages;
    return pages > PAGES_WORTH_KEEPING ? pages * PAGE_BYTES : 0;
  }

  releaseBuffers(): void {
    if (!this.#isUsed && this.#slots.inUse === 0 && this.bufferedBytes > 0) {
      this.#dropIdle();
      this.#pool.discard();
    }
    this.#isUsed = false;
  }

  acquire(slot: number): boolean {
    this.#isUsed = true;
    const slots = this.#slots;
    const lengthBytes = slots.lengthBytes[slot]!;
    const pages = pagesOf(lengthBytes);
    if (this.#keptPages[slot] === pages || this.#takeRange(slot, pages)) {
      const entry = slots.firstSegment[slot]!;
      slots.vectors.addresses[entry] = this.#keptAddress[slot]!;
      slots.vectors.lengths[entry] = lengthBytes;
      slots.vectorCount[slot] = 1;
    } else if (!this.#takeScattered(slot, lengthBytes)) {
      return false;
    }
    if (slots.operation[slot] !== OP_READ) this.#copy(slot, false);
    return true;
  }

  release(slot: number, deliver: boolean): void {
    if (deliver && this.#slots.operation[slot] === OP_READ) this.#copy(slot, true);
    else this.#releasePages(slot);
  }

  transfer(): void {
    if (this.#batchLength === 0) return;
    const batch = this.#batch;
    const { operation } = this.#slots;
    const called = batch.run(); // if the call itself fails, every status is a failure
    for (let n = 0; n < this.#batchLength; n++) {
      const slot = this.#batchSlots[n]!;
      const end = this.#batchFirst[slot]! + this.#batchCount[slot]!;
      for (let i = this.#batchFirst[slot]!; i < end; i++) if (batch.status(i) !== 0) this.#fail(slot, i, called);
      if (operation[slot] === OP_READ) this.#releasePages(slot);
    }
    batch.clear();
    this.#batchLength = 0;
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
    this.#pool[Symbol.dispose]();
  }

  #fail(slot: number, entry: number, called: number): void {
    const gref = this.#grefOf(slot, entry);
    if (called !== 0) return this.#slots.failGrant(slot, GRANT_FAILURE.copyCall, gref, called);
    const reading = this.#slots.operation[slot] === OP_READ;
    const failure = reading ? GRANT_FAILURE.copyToGuest : GRANT_FAILURE.copyFromGuest;
    this.#slots.failGrant(slot, failure, gref, this.#batch.status(entry));
  }

  #grefOf(slot: number, entry: number): number {
    const { vectorCount, grefs, firstSegment } = this.#slots;
    if (vectorCount[slot] !== 1) return this.#batchGrefs[entry]!;
    return grefs[firstSegment[slot]! + entry - this.#batchFirst[slot]!]!;
  }

  #takeRange(slot: number, pages: number): boolean {
    this.#dropKept(slot);
    let address = this.#pool.take(pages);
    if (address < 0 && this.#dropIdle()) address = this.#pool.take(pages);
    if (address < 0) return false;
    this.#keptPages[slot] = pages;
    this.#keptAddress[slot] = address;
    return true;
  }

  #takeScattered(slot: number, lengthBytes: number): boolean {
    const slots = this.#slots;
    slots.vectorCount[slot] = this.#pool.takeScattered(lengthBytes, slots.vectors, slots.firstSegment[slot]!);
    return slots.vectorCount[slot] !== 0;
  }

  /** The request needs its pages no longer. The slot keeps them if they are in one range. */
  #releasePages(slot: number): void {
    const { vectors, vectorCount, firstSegment } = this.#slots;
    const count = vectorCount[slot]!;
    vectorCount[slot] = 0;
    if (this.#keptPages[slot] !== 0) return;
    const first = firstSegment[slot]!;
    for (let i = first; i < first + count; i++) this.#pool.give(vectors.addresses[i]!, pagesOf(vectors.lengths[i]!));
  }

  #dropKept(slot: number): void {
    const pages = this.#keptPages[slot]!;
    if (pages > 0) this.#pool.give(this.#keptAddress[slot]!, pages);
    this.#keptPages[slot] = 0;
  }

  /** Returns the pages of slots that hold no data to the pool. False: there are none. */
  #dropIdle(): boolean {
    const before = this.#pool.freePages;
    const { slots, vectorCount } = this.#slots;
    for (let slot = 0; slot < slots; slot++) if (vectorCount[slot] === 0) this.#dropKept(slot);
    return this.#pool.freePages > before;
  }

  /** Adds the slot's copies to the batch. If they do not fit, the batch is carried out before. */
  #copy(slot: number, toGuest: boolean): void {
    const batch = this.#batch;
    const { segmentCount, vectorCount, firstSegment } = this.#slots;
    const count = segmentCount[slot]!;
    const vectors = vectorCount[slot]!;
    if (batch.length + count + vectors > batch.capacity) this.transfer();
    const before = batch.length;
    const first = firstSegment[slot]!;
    if (vectors === 1) this.#copyPacked(first, first + count, toGuest);
    else this.#copyScattered(first, first + count, toGuest);
    this.#batchFirst[slot] = before;
    this.#batchCount[slot] = batch.length - before;
    this.#batchSlots[this.#batchLength++] = slot;
  }

  /** Adjacent pages: one copy per segment. */
  #copyPacked(first: number, end: number, toGuest: boolean): void {
    const slots = this.#slots;
    const batch = this.#batch;
    let address = slots.vectors.addresses[first]!;
    for (let i = first; i < end; i++) {
      const offset = slots.firstSector[i]! * SECTOR_BYTES;
      const length = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_BYTES;
      if (toGuest) batch.addToGuest(slots.grefs[i]!, offset, address, length);
      else batch.addFromGuest(slots.grefs[i]!, offset, address, length);
      address += length;
    }
  }

  /** Pages in several ranges: a segment that crosses the end of a range is cut there. */
  #copyScattered(first: number, end: number, toGuest: boolean): void {
    const slots = this.#slots;
    const { vectors } = slots;
    const batch = this.#batch;
    let vector = first;
    let address = vectors.addresses[vector]!;
    let room = vectors.lengths[vector]!;
    for (let i = first; i < end; i++) {
      let offset = slots.firstSector[i]! * SECTOR_BYTES;
      for (let left = (slots.lastSector[i]! + 1) * SECTOR_BYTES - offset; left > 0;) {
        if (room === 0) {
          address = vectors.addresses[++vector]!;
          room = vectors.lengths[vector]!;
        }
        const length = Math.min(left, room);
        this.#batchGrefs[batch.length] = slots.grefs[i]!;
        if (toGuest) batch.addToGuest(slots.grefs[i]!, offset, address, length);
        else batch.addFromGuest(slots.grefs[i]!, offset, address, length);
        offset += length;
        address += length;
        room -= length;
        left -= length;
      }
    }
  }
}
