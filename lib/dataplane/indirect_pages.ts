/**
 * Fetches the segments of indirect requests. In every grant mode, one grant copy call per pass copies their pages into
 * private memory, once, and the segments are decoded there: a guest could rewrite a mapped page while it is being
 * validated (XSA-155).
 */

import { MAX_INDIRECT_PAGES_PER_REQUEST, SEGMENT_SIZE_BYTES, SEGMENTS_PER_INDIRECT_PAGE } from "../blkif/abi.ts";
import { decodeIndirectSegments, indirectPages, SnapshotMemory } from "../blkif/request.ts";
import type { GrantCopyBatch, GrantTable, MemorySpace, OwnedMemory } from "../hypervisor.ts";
import { GRANT_FAILURE } from "./grants/failure.ts";
import type { SlotTable } from "./slot_table.ts";

/** The most requests per call. */
const MOST_REQUESTS = 64;

/** The indirect pages of one ring's requests. Nothing is allocated after construction. */
export class IndirectPages implements Disposable {
  readonly #slots: SlotTable;
  readonly #memory: OwnedMemory;
  readonly #snapshot: SnapshotMemory;
  readonly #batch: GrantCopyBatch;
  /** Bytes of private memory for each request. */
  readonly #strideBytes: number;
  readonly #capacity: number;
  /** The slots that were added; and by their number, where their copies begin in the batch. */
  readonly #added: Uint16Array;
  readonly #firstCopy: Uint16Array;
  #count = 0;
  /** What the last call returned. */
  #called = 0;

  /** For slots that have indirect segments. Throws RangeError when there is no memory left. */
  constructor(slots: SlotTable, grants: GrantTable, memory: MemorySpace) {
    using undo = new DisposableStack();
    this.#slots = slots;
    this.#capacity = Math.min(slots.slots, MOST_REQUESTS);
    this.#strideBytes = slots.maxIndirectSegments * SEGMENT_SIZE_BYTES;
    this.#memory = undo.use(memory.allocate(this.#capacity * this.#strideBytes));
    this.#snapshot = new SnapshotMemory(this.#memory.view);
    this.#batch = undo.use(grants.createCopyBatch(this.#capacity * indirectPages(slots.maxIndirectSegments)));
    this.#added = new Uint16Array(this.#capacity);
    this.#firstCopy = new Uint16Array(this.#capacity + 1);
    undo.move();
  }

  /** Requests added since the last {@linkcode clear}. */
  get count(): number {
    return this.#count;
  }

  /** No more can be added. */
  get full(): boolean {
    return this.#count === this.#capacity;
  }

  /** The slot that was added as number `index`. */
  slot(index: number): number {
    return this.#added[index]!;
  }

  /** Adds an indirect request that was validated, so that its number of segments is no more than we offer. */
  add(slot: number): void {
    const index = this.#count++;
    this.#added[index] = slot;
    this.#firstCopy[index] = this.#batch.length;
    const gref = slot * MAX_INDIRECT_PAGES_PER_REQUEST;
    let address = this.#memory.address + index * this.#strideBytes;
    let left = this.#slots.segmentCount[slot]!;
    for (let page = 0; left > 0; page++, left -= SEGMENTS_PER_INDIRECT_PAGE) {
      const lengthBytes = Math.min(left, SEGMENTS_PER_INDIRECT_PAGE) * SEGMENT_SIZE_BYTES;
      this.#batch.addFromGuest(this.#slots.indirectGrefs[gref + page]!, 0, address, lengthBytes);
      address += lengthBytes;
    }
    this.#firstCopy[index + 1] = this.#batch.length;
  }

  /** Copies all pages that were added, in one call. */
  fetch(): void {
    this.#called = this.#batch.run(); // if the call itself fails, every status is a failure
  }

  /**
   * Decodes the segments of the request that was added as number `index`. False: a page could not be copied, as the
   * slot's `grantFailed` says.
   */
  decode(index: number): boolean {
    const first = this.#firstCopy[index]!;
    for (let copy = first; copy < this.#firstCopy[index + 1]!; copy++) {
      const status = this.#batch.status(copy);
      if (status !== 0) return this.#fail(this.#added[index]!, copy - first, status);
    }
    decodeIndirectSegments(this.#snapshot, index * this.#strideBytes, this.#slots, this.#added[index]!);
    return true;
  }

  #fail(slot: number, page: number, status: number): false {
    const gref = this.#slots.indirectGrefs[slot * MAX_INDIRECT_PAGES_PER_REQUEST + page]!;
    const failure = this.#called === 0 ? GRANT_FAILURE.copyFromGuest : GRANT_FAILURE.copyCall;
    this.#slots.failGrant(slot, failure, gref, this.#called === 0 ? status : this.#called);
    return false;
  }

  /** Removes all requests that were added. */
  clear(): void {
    this.#count = 0;
    this.#batch.clear();
  }

  [Symbol.dispose](): void {
    this.#batch[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }
}
