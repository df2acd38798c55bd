/**
 * Grant mode `copy`: the bytes go through private pages, with one grant copy call per pass for all requests together. A
 * request's segments are packed in its pages without gaps. Which request needs what is the queue's business.
 */

import { SECTOR_BYTES } from "../units.ts";
import { OP_READ } from "../blkif/abi.ts";
import type { RequestSlots } from "../blkif/request.ts";
import type { GrantCopyBatch, GrantTable, Memory, MemorySpace } from "../hypervisor.ts";
import type { GrantStrategy } from "./grants.ts";
import { MOST_PAGES_PER_RING, PagePool, pagesOf } from "./page_pool.ts";
import { SlotVectors } from "./slot_vectors.ts";

/** Most copies of one call, if no single request needs more. */
const MOST_COPIES = 4096;

/**
 * See the file's first lines. Pages that a read fills belong to it until its data was given to the guest. A slot keeps
 * its pages for the next request of their size, which then costs nothing and finds them in the processor's cache; slots
 * that have no request give up theirs when there are no others.
 */
export class CopyStrategy extends SlotVectors implements GrantStrategy {
  readonly #pool: PagePool;
  /** By slot: pages kept in one range, 0 if none, and where they are. Those of a request in flight are among them. */
  readonly #keptPages: Uint16Array;
  readonly #keptAddress: Float64Array;
  /** By slot: 1 for a request in flight. */
  readonly #inUse: Uint8Array;
  readonly #batch: GrantCopyBatch;
  /** The batch entries of a slot, and the slots that have any. */
  readonly #batchFirst: Uint32Array;
  readonly #batchCount: Uint16Array;
  readonly #batchSlots: Uint16Array;
  #batchLength = 0;

  /** Throws RangeError when there is no memory left. */
  constructor(slots: RequestSlots, grants: GrantTable, memory: MemorySpace) {
    super(slots);
    const { slots: count, maxSegments } = slots;
    using undo = new DisposableStack();
    const pages = Math.max(maxSegments, Math.min(count * maxSegments, MOST_PAGES_PER_RING));
    this.#pool = undo.use(new PagePool(memory, pages));
    this.#keptPages = new Uint16Array(count);
    this.#keptAddress = new Float64Array(count);
    this.#inUse = new Uint8Array(count);
    // A segment may be cut in two where its pages are not adjacent.
    const copies = Math.max(2 * maxSegments, Math.min(count * maxSegments, MOST_COPIES));
    this.#batch = undo.use(grants.createCopyBatch(copies));
    this.#batchFirst = new Uint32Array(count);
    this.#batchCount = new Uint16Array(count);
    this.#batchSlots = new Uint16Array(count);
    undo.move();
  }

  get buffers(): Memory {
    return this.#pool.memory;
  }

  acquire(slot: number): boolean {
    const lengthBytes = this.slots.lengthBytes[slot]!;
    const pages = pagesOf(lengthBytes);
    if (this.#keptPages[slot] === pages || this.#takeRange(slot, pages)) {
      const entry = slot * this.slots.maxSegments;
      this.vectors.addresses[entry] = this.#keptAddress[slot]!;
      this.vectors.lengths[entry] = lengthBytes;
      this.vectorCount[slot] = 1;
    } else if (!this.#takeScattered(slot, lengthBytes)) {
      return false;
    }
    this.#inUse[slot] = 1;
    this.failed[slot] = 0;
    if (this.slots.operation[slot] !== OP_READ) this.#copy(slot, false);
    return true;
  }

  release(slot: number, deliver: boolean): void {
    if (deliver && this.slots.operation[slot] === OP_READ) this.#copy(slot, true);
    else this.#giveBack(slot);
  }

  transfer(): void {
    if (this.#batchLength === 0) return;
    const batch = this.#batch;
    batch.run(); // a call that failed as a whole leaves every status a failure
    for (let n = 0; n < this.#batchLength; n++) {
      const slot = this.#batchSlots[n]!;
      const end = this.#batchFirst[slot]! + this.#batchCount[slot]!;
      for (let i = this.#batchFirst[slot]!; i < end; i++) if (batch.status(i) !== 0) this.failed[slot] = 1;
      if (this.slots.operation[slot] === OP_READ) this.#giveBack(slot);
    }
    batch.clear();
    this.#batchLength = 0;
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
    this.#pool[Symbol.dispose]();
  }

  #takeRange(slot: number, pages: number): boolean {
    this.#giveKept(slot);
    let address = this.#pool.take(pages);
    if (address < 0 && this.#giveIdle()) address = this.#pool.take(pages);
    if (address < 0) return false;
    this.#keptPages[slot] = pages;
    this.#keptAddress[slot] = address;
    return true;
  }

  #takeScattered(slot: number, lengthBytes: number): boolean {
    const entries = this.#pool.takeScattered(lengthBytes, this.vectors, slot * this.slots.maxSegments);
    this.vectorCount[slot] = entries;
    return entries > 0;
  }

  /** The request needs its pages no more: those in one range stay with the slot. */
  #giveBack(slot: number): void {
    this.#inUse[slot] = 0;
    if (this.#keptPages[slot] !== 0) return;
    const { addresses, lengths } = this.vectors;
    const first = slot * this.slots.maxSegments;
    const end = first + this.vectorCount[slot]!;
    for (let i = first; i < end; i++) this.#pool.give(addresses[i]!, pagesOf(lengths[i]!));
  }

  #giveKept(slot: number): void {
    const pages = this.#keptPages[slot]!;
    if (pages > 0) this.#pool.give(this.#keptAddress[slot]!, pages);
    this.#keptPages[slot] = 0;
  }

  /** Gives back what slots without a request keep. False: that is nothing. */
  #giveIdle(): boolean {
    const before = this.#pool.freePages;
    for (let slot = 0; slot < this.slots.slots; slot++) if (this.#inUse[slot] === 0) this.#giveKept(slot);
    return this.#pool.freePages > before;
  }

  /** Adds the slot's copies to the batch, which is carried out early if it has no room for them. */
  #copy(slot: number, toGuest: boolean): void {
    const batch = this.#batch;
    const count = this.slots.segmentCount[slot]!;
    const vectors = this.vectorCount[slot]!;
    if (batch.length + count + vectors > batch.capacity) this.transfer();
    const before = batch.length;
    const first = slot * this.slots.maxSegments;
    if (vectors === 1) this.#copyPacked(first, first + count, toGuest);
    else this.#copyScattered(first, first + count, toGuest);
    this.#batchFirst[slot] = before;
    this.#batchCount[slot] = batch.length - before;
    this.#batchSlots[this.#batchLength++] = slot;
  }

  /** Copies of segments whose pages are adjacent: one a segment. */
  #copyPacked(first: number, end: number, toGuest: boolean): void {
    const { slots } = this;
    const batch = this.#batch;
    let address = this.vectors.addresses[first]!;
    for (let i = first; i < end; i++) {
      const offset = slots.firstSector[i]! * SECTOR_BYTES;
      const length = (slots.lastSector[i]! - slots.firstSector[i]! + 1) * SECTOR_BYTES;
      if (toGuest) batch.addToGuest(slots.grefs[i]!, offset, address, length);
      else batch.addFromGuest(slots.grefs[i]!, offset, address, length);
      address += length;
    }
  }

  /** Copies of segments whose pages are not: a segment is cut in two where they end. */
  #copyScattered(first: number, end: number, toGuest: boolean): void {
    const { slots, vectors } = this;
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
