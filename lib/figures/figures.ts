/**
 * The figures of one live disk, as the control socket, `show --json` and `top` have them: counters and latency
 * histograms. A name that exists in blkback's sysfs (`statistics/` of the vbd, drivers/block/xen-blkback/xenbus.c) or in
 * libvirt's domblkstat (virDomainGetBlockInfo) is the same here.
 */

/** Durations of requests, from taking one off the ring to answering it. Cumulative; two of them can be subtracted. */
export interface LatencyHistogram {
  /** Requests that were answered. */
  readonly count: number;
  /** The sum of their durations, in nanoseconds. */
  readonly sum_ns: number;
  /** The longest, in nanoseconds. */
  readonly max_ns: number;
  /** Buckets that are not empty, ascending: the upper end in nanoseconds, and the requests in this bucket alone. */
  readonly buckets: readonly (readonly [upperNs: number, count: number])[];
}

/** What one disk did, over all its rings. Counters grow from 0 at the first sight of the disk by this process. */
export interface DiskFigures {
  /** Requests to read that were taken off the rings. */
  readonly rd_req: number;
  /** Writes, barriers among them. */
  readonly wr_req: number;
  /** Flushes. */
  readonly f_req: number;
  /** Discards. */
  readonly ds_req: number;
  /** 512-byte sectors read for the guest. */
  readonly rd_sect: number;
  /** 512-byte sectors written for it. */
  readonly wr_sect: number;
  /** 512-byte sectors discarded for it. */
  readonly ds_sect: number;
  /** The same in bytes. */
  readonly rd_bytes: number;
  /** The same in bytes. */
  readonly wr_bytes: number;
  /** The durations of all reads that were answered, added up, in nanoseconds. */
  readonly rd_total_times: number;
  /** Of all writes. */
  readonly wr_total_times: number;
  /** Of all flushes. */
  readonly flush_total_times: number;
  /** Requests that were answered with BLKIF_RSP_ERROR. */
  readonly errs: number;
  /** Requests that are taken and not answered. */
  readonly in_flight: number;
  /** The time in which at least one request was in flight, in nanoseconds: what iostat's %util is made of. */
  readonly busy_ns: number;
  /** When these numbers were read: milliseconds of a monotonic clock of the serving process. */
  readonly at_ms: number;
  /** Durations by operation. */
  readonly latency: {
    readonly read: LatencyHistogram;
    readonly write: LatencyHistogram;
    readonly flush: LatencyHistogram;
    readonly discard: LatencyHistogram;
  };
}
