/**
 * The counters of one queue, and the histograms of its requests' durations, in shared memory: the reactor that serves the
 * queue writes them, and the control plane reads them at any time. They are plain doubles: each is written as a whole, and
 * a reader may be a moment behind.
 */

import { Histogram, HISTOGRAM_BYTES } from "../histogram.ts";

/** Index of each counter in the Float64Array over the shared memory. */
export const STAT = {
  // The index of the first four is the number of their operation.
  reads: 0,
  writes: 1,
  barriers: 2,
  flushes: 3,
  /** Requests with an operation that is not offered. */
  unsupported: 4,
  /** 512-byte sectors read from and written to the disk for the guest. */
  sectorsRead: 5,
  sectorsWritten: 6,
  /** Requests answered ERROR: all, and below by their operation. */
  errors: 7,
  inFlight: 8,
  /** Batches of responses that the frontend asked to be notified of, and those that it did not. */
  notificationsSent: 9,
  notificationsSaved: 10,
  /** Times the reactor visited the queue. */
  passes: 11,
  discards: 12,
  /** 512-byte sectors that were discarded. */
  sectorsDiscarded: 17,
  /** Mode persistent: grants that are mapped now; pages of requests that were mapped already, and that were not. */
  persistentGrants: 13,
  persistentHits: 14,
  persistentMisses: 15,
  /** Mode persistent: requests that were copied, because too many grants were in use or one could not be mapped. */
  persistentCopied: 16,
  // Errors: the first four are at this index and the number of their operation.
  readErrors: 18,
  writeErrors: 19,
  barrierErrors: 20,
  flushErrors: 21,
  discardErrors: 22,
  /** The nanoseconds in which the device had a request in flight, in periods that this queue ended; see busy_time.ts. */
  busyNs: 23,
} as const;

const COUNTERS_BYTES = Object.keys(STAT).length * Float64Array.BYTES_PER_ELEMENT;

/** The operations whose durations are measured, in the order of their histograms behind the counters. */
const MEASURED = ["read", "write", "flush", "discard"] as const;

/** From taking a request to answering it, by operation; barriers are writes. Not offered operations are left out. */
export type Durations = { readonly [Operation in typeof MEASURED[number]]: Histogram };

/** The counters by name, as a plain object for tables and JSON. */
export type QueueStats = { readonly [Name in keyof typeof STAT]: number };

/** The counters of several queues, added up. */
export function sumStats(queues: readonly QueueStats[]): QueueStats {
  const names = Object.keys(STAT) as (keyof typeof STAT)[];
  const sums = names.map((name) => [name, queues.reduce((total, queue) => total + queue[name], 0)]);
  return Object.fromEntries(sums) as QueueStats;
}

/** Zeroed memory for one queue. It outlives the connection, so that counting continues after a reconnect. */
export function createStats(): SharedArrayBuffer {
  return new SharedArrayBuffer(COUNTERS_BYTES + MEASURED.length * HISTOGRAM_BYTES);
}

/** The histograms in a queue's memory. */
export function durationsIn(stats: SharedArrayBuffer): Durations {
  const histogram = (operation: typeof MEASURED[number]): Histogram =>
    new Histogram(stats, COUNTERS_BYTES + MEASURED.indexOf(operation) * HISTOGRAM_BYTES);
  return {
    read: histogram("read"),
    write: histogram("write"),
    flush: histogram("flush"),
    discard: histogram("discard"),
  };
}

/** The counters' present values. */
export function readStats(stats: SharedArrayBuffer): QueueStats {
  const values = new Float64Array(stats, 0, COUNTERS_BYTES / Float64Array.BYTES_PER_ELEMENT);
  const entries = Object.entries(STAT).map(([name, index]) => [name, values[index]!]);
  return Object.fromEntries(entries) as QueueStats;
}
