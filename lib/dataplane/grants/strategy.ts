/**
 * How the data of requests gets from the guest to the disk and back: what a grant strategy does for one ring. create.ts
 * makes the strategy of a grant mode. The engine works on the slots' vectors; the strategy makes them valid.
 */

import type { Memory } from "../../hypervisor.ts";

/**
 * One ring's use of the guest's grants. A slot is acquired once its request is taken, if it has data, and released when
 * its I/O is over, before its response is put. Either may be deferred until {@linkcode transfer}.
 */
export interface GrantStrategy extends Disposable {
  /** Buffers that live as long as the strategy, for engines that keep views; undefined when pages come and go. */
  readonly buffers: Memory | undefined;
  /**
   * Makes the slot's vectors valid and, after transfer, its data readable if it is a write. A grant that cannot be used
   * sets the slot's `grantFailed`; that slot must be released, too. False: there is no room now, and nothing was
   * changed; there will be room when other slots are released. If no slot is acquired there is room.
   */
  acquire(slot: number): boolean;
  /** Releases the slot's pages. `deliver`: first gives the guest the data of a read; false if the read failed. */
  release(slot: number, deliver: boolean): void;
  /** Carries out everything that was deferred, in one call. */
  transfer(): void;
  /** Mappings that outlive their requests; absent if the strategy has none. */
  readonly kept?: KeptGrants;
  /** Bytes of buffers that have memory behind them, if that is worth giving back; absent if there are no buffers. */
  readonly bufferedBytes?: number;
  /** Gives that memory back, unless a request has used or uses it since the last call. */
  releaseBuffers?(): void;
}

/** Mappings that are kept for later requests. */
export interface KeptGrants {
  /** How many there are now. */
  readonly count: number;
  /**
   * Unmaps what was not used between the last two rounds of calls, a bounded number per call. True: there is more, call
   * again; false: this round is over. It costs next to nothing if there is nothing to unmap.
   */
  releaseIdle(): boolean;
}
