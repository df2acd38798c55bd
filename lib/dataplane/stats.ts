/**
 * The counters of one queue, in shared memory: the reactor that serves the queue is the only writer, the control plane
 * reads at any time. Plain doubles: each is written whole, and a reader may lag behind by a moment.
 */

/** Index of each counter in the Float64Array over the shared memory. */
export const STAT = {
  reads: 0,
  writes: 1,
  barriers: 2,
  flushes: 3,
  /** Requests with an operation that is not offered. */
  unsupported: 4,
  /** 512-byte sectors read from and written to the disk for the guest. */
  sectorsRead: 5,
  sectorsWritten: 6,
  /** Requests answered ERROR. */
  errors: 7,
  inFlight: 8,
  /** Batches of responses that the frontend asked to be told of, and those it did not. */
  notificationsSent: 9,
  notificationsSaved: 10,
  /** Times the reactor visited the queue. */
  passes: 11,
  /** 1 after a failed flush: writes are refused until the operator reconnects the disk. */
  latched: 12,
  /** Grants kept mapped now (mode persistent); pages that were found among them, and that were not. */
  persistentGrants: 13,
  persistentHits: 14,
  persistentMisses: 15,
  /** Requests that were copied in that mode, because too many were in use or one could not be mapped writable. */
  persistentCopied: 16,
} as const;

const COUNTERS = Object.keys(STAT).length;

/** The counters by name, as a plain object for tables and JSON. */
export type QueueStats = { readonly [Name in keyof typeof STAT]: number };

/** Zeroed counters for one queue; they outlive the queue's connection, so that a reconnect goes on counting. */
export function createStats(): SharedArrayBuffer {
  return new SharedArrayBuffer(COUNTERS * Float64Array.BYTES_PER_ELEMENT);
}

/** What the counters say now. */
export function readStats(stats: SharedArrayBuffer): QueueStats {
  const values = new Float64Array(stats);
  const entries = Object.entries(STAT).map(([name, index]) => [name, values[index]!]);
  return Object.fromEntries(entries) as QueueStats;
}
