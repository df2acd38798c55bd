/**
 * The counters of one queue, in shared memory: the reactor that serves the queue is the only writer, the control plane
 * reads at any time. Plain doubles: each is written whole, and a reader may lag behind by a moment.
 */

import { OP_DISCARD, OP_READ, STATUS_EOPNOTSUPP } from "../blkif/abi.ts";

/** Index of each counter in the Float64Array over the shared memory. */
export const STAT = {
  // The first four are at the number of their operation.
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
  /** Batches of responses that the frontend asked to be told of, and those it did not. */
  notificationsSent: 9,
  notificationsSaved: 10,
  /** Times the reactor visited the queue. */
  passes: 11,
  discards: 12,
  /** 512-byte sectors that were discarded. */
  sectorsDiscarded: 17,
  /** Grants kept mapped now (mode persistent); pages that were found among them, and that were not. */
  persistentGrants: 13,
  persistentHits: 14,
  persistentMisses: 15,
  /** Requests that were copied in that mode, because too many were in use or one could not be mapped writable. */
  persistentCopied: 16,
  // Errors: the first four are at this index and the number of their operation.
  readErrors: 18,
  writeErrors: 19,
  barrierErrors: 20,
  flushErrors: 21,
  discardErrors: 22,
} as const;

const COUNTERS = Object.keys(STAT).length;

/** The counters by name, as a plain object for tables and JSON. */
export type QueueStats = { readonly [Name in keyof typeof STAT]: number };

/** Counts a request that was admitted or refused with this status, by what it asks for. */
export function countRequest(stats: Float64Array, operation: number, status: number): void {
  if (status === STATUS_EOPNOTSUPP) stats[STAT.unsupported]!++;
  else stats[operation === OP_DISCARD ? STAT.discards : operation]!++;
}

/** Counts a request that was answered ERROR. */
export function countError(stats: Float64Array, operation: number): void {
  stats[STAT.errors]!++;
  stats[operation === OP_DISCARD ? STAT.discardErrors : STAT.readErrors + operation]!++;
}

/** Counts the sectors of a request that was carried out. */
export function countSectors(stats: Float64Array, operation: number, sectors: number): void {
  if (operation === OP_READ) stats[STAT.sectorsRead]! += sectors;
  else stats[operation === OP_DISCARD ? STAT.sectorsDiscarded : STAT.sectorsWritten]! += sectors;
}

/** The counters of several queues, added up. */
export function sumStats(queues: readonly QueueStats[]): QueueStats {
  const names = Object.keys(STAT) as (keyof typeof STAT)[];
  const sums = names.map((name) => [name, queues.reduce((total, queue) => total + queue[name], 0)]);
  return Object.fromEntries(sums) as QueueStats;
}

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
