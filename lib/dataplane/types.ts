/**
 * The data plane as the control plane sees it: open a queue (one ring of one device) somewhere in it, and close it
 * again. Interfaces only.
 */

import type { AbiName } from "../blkif/abi.ts";
import type { DomId, EvtchnPort, GrantRef } from "../hypervisor.ts";
import type { Disk } from "../storage/disk.ts";
import type { ThrottleMemory } from "../storage/filter/budget.ts";

/**
 * How guest data reaches the disk: by grant copy, through pages that stay mapped because the frontend reuses its grants
 * (which it must have promised), by mapping per request in one call, or page by page.
 */
export type GrantMode = "copy" | "persistent" | "map" | "map-each";

/** Mappings that mode `persistent` keeps per ring by default: what Linux's blkfront needs for one page of ring. */
export const DEFAULT_PERSISTENT_GRANTS = 1056;

/** Where a ring's journal is kept: memory of journalBytes(slots of the ring) bytes that outlives the process. */
export interface JournalSpec {
  /** Of the memory; it stays mapped until the queue is closed. */
  readonly address: number;
  /** Four random words that distinguish this connection of the ring from every other. */
  readonly nonce: Uint32Array;
  /** Go on where the journal ends, if it is this connection's: the frontend is connected already. */
  readonly resume: boolean;
}

/** One ring to be served. */
export interface QueueSpec {
  /** For log lines: `vbd3/5/51712 queue 0`. */
  readonly label: string;
  /** Whose ring it is. */
  readonly guest: DomId;
  /** The ring's pages, in order. */
  readonly ringRefs: readonly GrantRef[];
  /** The port that the guest left unbound for us. */
  readonly eventChannel: EvtchnPort;
  /** Layout of requests and responses. */
  readonly abi: AbiName;
  /** Stays open until the queue is closed. */
  readonly disk: Disk;
  /** How guest data is reached. */
  readonly grants: GrantMode;
  /** Most mappings that mode `persistent` keeps; absent: {@linkcode DEFAULT_PERSISTENT_GRANTS}. */
  readonly maxPersistentGrants?: number;
  /** The toolstack allows direct I/O on the guest's pages (node `direct-io-safe`). Absent: it does not. */
  readonly directIoSafe?: boolean;
  /** Most requests in flight, at most the ring's slots; absent: the ring's slots. */
  readonly maxRequests?: number;
  /** Segments that an indirect request may have, at most 256: what was offered. Absent or 0: there are none. */
  readonly maxIndirectSegments?: number;
  /** Discards were offered. Absent: they were not. */
  readonly discard?: boolean;
  /** Absent: a crash of the process loses the requests in flight. */
  readonly journal?: JournalSpec;
  /** Where the queue counts; see stats.ts. */
  readonly stats: SharedArrayBuffer;
  /** Where the queues of the device note that one of them has work; see busy_time.ts. Absent: the queue has its own. */
  readonly busy?: SharedArrayBuffer;
  /** Queues of the device that use that memory, and share its weight, at a time. Absent: 1. */
  readonly busyQueues?: number;
  /** The memory of the disk's weight, which may change at any time; see fairness.ts. Absent: it has the default one. */
  readonly weight?: SharedArrayBuffer;
  /** The disk's limits, which may change at any time; see limiter.ts. Absent: it never has any. */
  readonly throttle?: ThrottleMemory;
  /**
   * Address of the device's latch, for all of its queues; see latch.ts. It stays mapped until the queue is closed.
   * Absent: the queue has its own.
   */
  readonly latch?: number;
  /** Called when another reactor has begun to serve the ring. Absent: nobody needs to know. */
  readonly moved?: () => void;
  /** No request is taken before {@linkcode QueueHandle.start}. Absent: all are, at once. */
  readonly held?: boolean;
}

/** A ring that is served. */
export interface QueueHandle {
  /** Resolves with the reason if the data plane had to stop the ring (broken or hostile frontend). */
  readonly stopped: Promise<string>;
  /** Resolves when the data plane has set the latch after a failed flush. Absent: it does not tell. */
  readonly latched?: Promise<void>;
  /**
   * Requests taken and not yet answered, also while {@linkcode close} is pending. The flush that ends a queue is no
   * request: a queue with 0 in flight can still wait for it.
   */
  readonly inFlight: number;
  /** The number of the reactor that serves it, which can change. Absent: there is one reactor. */
  readonly reactor?: number;
  /** The disk has so many sectors from now on; resolves when requests up to its new end are taken. */
  grow(sectors: number): Promise<void>;
  /** Begins to take requests, after it was opened `held`. */
  start(): void;
  /**
   * Takes no more requests, finishes those in flight, flushes, and then lets go of the ring, which can be opened again, on
   * another disk as well. False: that was not done within the limit, and the ring is served as before. A flush that fails
   * sets the latch. One that was opened `held` has nothing to flush.
   */
  release(limitMs: number): Promise<boolean>;
  /**
   * Stops taking requests, finishes those in flight, flushes, unbinds and unmaps. Safe to call twice. It stays pending as
   * long as the disk does not complete what is in flight; other queues, also of the same guest, close meanwhile.
   */
  close(): Promise<void>;
}

/** All reactors of a process. */
export interface DataPlane extends AsyncDisposable {
  /**
   * Maps the ring, binds the event channel and serves. Rejects with the reason if it cannot, leaving nothing. Aborting
   * rejects at once, unless a reactor has begun to map the ring: it uses the journal and the latch then, so its answer is
   * waited for.
   */
  openQueue(spec: QueueSpec, signal?: AbortSignal): Promise<QueueHandle>;
  /** Milliseconds of the clock that queues measure their requests with. Absent: they do not. */
  now?(): number;
}
