/**
 * What a disk did since it was attached, by operation: plain data for a program that watches it, made from the
 * counters of its rings.
 */

import type { DeviceStatus } from "./backend/status.ts";
import type { LatencyHistogram } from "./figures/figures.ts";
import { percentileNs } from "./figures/latency.ts";
import { SECTOR_BYTES } from "./units.ts";

/** One kind of operation. All numbers count since the disk was attached. */
export interface OperationStats {
  /** Requests that were taken from the rings, failed ones too; those in flight are among them. */
  readonly requests: number;
  /** Bytes of the requests that succeeded; for a flush 0. */
  readonly bytes: number;
  /** Requests that were answered with BLKIF_RSP_ERROR. */
  readonly errors: number;
  /** From taking a request to answering it, in microseconds; failed ones too. Absent: none was answered. */
  readonly latencyUs?: LatencyUs;
}

/** How long requests took, in microseconds. */
export interface LatencyUs {
  /** The average. */
  readonly mean: number;
  /** Half of the requests took no longer. */
  readonly p50: number;
  /** Ninety of a hundred took no longer. */
  readonly p90: number;
  /** 99 of a hundred took no longer. */
  readonly p99: number;
  /** 999 of a thousand took no longer. */
  readonly p999: number;
  /** The longest. */
  readonly max: number;
}

/** What a disk did since it was attached, over all its rings. */
export interface DiskStats {
  /** Write barriers count as writes. Operations that were not offered count nowhere. */
  readonly operations: {
    /** From the disk to the guest. */
    readonly read: OperationStats;
    /** From the guest to the disk. */
    readonly write: OperationStats;
    /** Completed writes made durable. */
    readonly flush: OperationStats;
    /** Ranges that are no longer in use. */
    readonly discard: OperationStats;
  };
  /** Requests that are taken and not answered. */
  readonly inFlight: number;
  /** Milliseconds since the disk was attached, the time that all these numbers cover. */
  readonly sinceMs: number;
}

/** The statistics of a disk from what its rings counted and measured. */
export function diskStats({ totals, latency }: DeviceStatus, sinceMs: number): DiskStats {
  const of = (requests: number, sectors: number, errors: number, times: LatencyHistogram): OperationStats => (
    { requests, bytes: sectors * SECTOR_BYTES, errors, ...(times.count > 0 && { latencyUs: latencyUs(times) }) }
  );
  const { reads, writes, barriers, flushes, discards } = totals;
  return {
    operations: {
      read: of(reads, totals.sectorsRead, totals.readErrors, latency.read),
      write: of(writes + barriers, totals.sectorsWritten, totals.writeErrors + totals.barrierErrors, latency.write),
      flush: of(flushes, 0, totals.flushErrors, latency.flush),
      discard: of(discards, totals.sectorsDiscarded, totals.discardErrors, latency.discard),
    },
    inFlight: totals.inFlight,
    sinceMs,
  };
}

function latencyUs(times: LatencyHistogram): LatencyUs {
  return {
    mean: times.sum_ns / times.count / 1e3,
    p50: percentileNs(times, 0.5) / 1e3,
    p90: percentileNs(times, 0.9) / 1e3,
    p99: percentileNs(times, 0.99) / 1e3,
    p999: percentileNs(times, 0.999) / 1e3,
    max: times.max_ns / 1e3,
  };
}
