/**
 * The slots of one queue: everything that is known of a request in flight, by slot. A slot is free, or holds one
 * request from the moment it is taken off the ring until its response is put. The queue and its steps move slots from
 * phase to phase; grant strategies fill in the vectors. Nothing is allocated after construction.
 */

import { RequestSlots, SEGMENT_BYTES, segmentEntries } from "../blkif/request.ts";
import type { IoVectors } from "../storage/disk.ts";
import { type GrantFailure, NO_GRANT_FAILURE } from "./grants/failure.ts";

/** Phases: what a slot waits for. */
const PHASE_FREE = 0; // for a request
const PHASE_REPLAY = 1; // to be taken again, from the journal of a crashed process
export const PHASE_TAKEN = 2; // for room, for its data to be copied in, then to be started
export const PHASE_FLUSH_BEFORE = 3; // for the flush before its data
export const PHASE_DATA = 4; // for its read, write or discard
export const PHASE_FLUSH_AFTER = 5; // for the flush after a barrier's data
const PHASE_FINISHED = 6; // for its response to be put

/** In place of a slot's number: there is none. */
export const NO_SLOT = -1;

/** A vector's address and length. */
const VECTOR_BYTES = 12;

/**
 * How much memory a {@linkcode SlotTable} takes for what there is by segment. It is most of what a ring needs, and most of
 * it is never used: few requests have so many segments, and slots that were free last are taken first.
 */
export function segmentTableBytes(count: number, maxSegments: number): number {
  return segmentEntries(count, maxSegments) * (VECTOR_BYTES + SEGMENT_BYTES);
}

/** The decoded requests of a queue together with their state. */
export class SlotTable extends RequestSlots {
  /** One of the phases above. */
  readonly phase: Uint8Array;
  /** STATUS_* of the response, in {@linkcode PHASE_FINISHED}. */
  readonly status: Int8Array;
  /** What failed first of the request's grants, or {@linkcode NO_GRANT_FAILURE}. Cleared when the slot is taken. */
  readonly grantFailed: Uint8Array;
  /** The grant reference of that failure, and its status. */
  readonly failedGref: Uint32Array;
  readonly failedStatus: Int32Array;
  /** Where the request's data is: from the slot's `firstSegment` on. */
  readonly vectors: IoVectors;
  /** How many of the slot's vectors are valid; 0 as long as the slot holds no pages. */
  readonly vectorCount: Uint16Array;

  /** Slots in the order of the ring, as long as one of them waits for room. No others are taken in that time. */
  readonly taken: Uint16Array;
  takenCount = 0;
  /** How many of {@linkcode taken}, from the first on, have room for their data. */
  acquiredCount = 0;
  /** Finished slots in the order of their responses, which are put together at the end of a pass. */
  readonly finished: Uint16Array;
  finishedCount = 0;
  /** The barrier that waits for earlier requests, or is carried out. Nothing is taken behind it. */
  barrier: number = NO_SLOT;
  /** The slots in phase replay, the oldest request last. */
  readonly replay: number[];

  readonly #free: Uint16Array;
  #freeCount = 0;

  /**
   * Like {@linkcode RequestSlots}; `replay`: slots whose requests a crashed process did not answer, the oldest first.
   * `memory`: {@linkcode segmentTableBytes}, zeroed, aligned to 8, of which pages that are not used need not be there.
   */
  constructor(
    count: number,
    maxSegments: number,
    maxIndirectSegments = 0,
    replay: readonly number[] = [],
    memory: Uint8Array = new Uint8Array(segmentTableBytes(count, maxSegments)),
  ) {
    const entries = segmentEntries(count, maxSegments);
    super(count, maxSegments, maxIndirectSegments, memory.subarray(entries * VECTOR_BYTES));
    const { buffer, byteOffset } = memory;
    this.phase = new Uint8Array(count);
    this.status = new Int8Array(count);
    this.grantFailed = new Uint8Array(count);
    this.failedGref = new Uint32Array(count);
    this.failedStatus = new Int32Array(count);
    this.vectors = {
      addresses: new Float64Array(buffer, byteOffset, entries),
      lengths: new Uint32Array(buffer, byteOffset + 8 * entries, entries),
    };
    this.vectorCount = new Uint16Array(count);
    this.taken = new Uint16Array(count);
    this.finished = new Uint16Array(count);
    this.replay = [...replay].reverse();
    this.#free = new Uint16Array(count);
    for (let slot = count - 1; slot >= 0; slot--) {
      if (replay.includes(slot)) this.phase[slot] = PHASE_REPLAY;
      else this.#free[this.#freeCount++] = slot;
    }
  }

  /** Slots that are not free. */
  get inUse(): number {
    return this.slots - this.#freeCount;
  }

  get anyFree(): boolean {
    return this.#freeCount > 0;
  }

  /** Reserves a free slot for a request that will be taken. Call it only if there is {@linkcode anyFree}. */
  claim(): number {
    return this.#free[--this.#freeCount]!;
  }

  /** The slot holds a request now, which waits for room behind those that were taken before. */
  take(slot: number): void {
    this.phase[slot] = PHASE_TAKEN;
    this.grantFailed[slot] = NO_GRANT_FAILURE;
    this.taken[this.takenCount++] = slot;
  }

  /** A grant of the request could not be used. A second failure of the same request is not kept. */
  failGrant(slot: number, failure: GrantFailure, gref: number, status: number): void {
    if (this.grantFailed[slot] !== NO_GRANT_FAILURE) return;
    this.grantFailed[slot] = failure;
    this.failedGref[slot] = gref;
    this.failedStatus[slot] = status;
  }

  /** The request is over. Its response is put at the end of the pass. */
  finish(slot: number, status: number): void {
    this.phase[slot] = PHASE_FINISHED;
    this.status[slot] = status;
    this.finished[this.finishedCount++] = slot;
  }

  /** The slot's response was put. */
  release(slot: number): void {
    this.phase[slot] = PHASE_FREE;
    if (slot === this.barrier) this.barrier = NO_SLOT;
    this.#free[this.#freeCount++] = slot;
  }
}
