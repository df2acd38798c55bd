/**
 * How guest data reaches the disk: what a grant strategy does for a ring. Which request needs what is the queue's
 * business; the ring is unknown here, and so are the strategies (grant_strategies.ts makes them).
 */

import type { Memory } from "../hypervisor.ts";
import type { IoVectors } from "../storage/disk.ts";

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
