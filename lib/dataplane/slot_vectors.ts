/**
 * What every grant strategy keeps per slot: the vectors that the slot's operations point to. It must not know where
 * the memory comes from.
 */

import type { RequestSlots } from "../blkif/request.ts";
import type { IoVectors } from "../storage/disk.ts";

/** What all strategies keep per slot. */
export class SlotVectors {
  /** See {@linkcode GrantStrategy}, as for the next two. */
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
