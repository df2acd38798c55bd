/**
 * Two readings of a disk's figures -> the row that `iostat -x` (sysstat) prints of a device, under the names of its JSON
 * output. rrqm/s and wrqm/s are left out: requests were merged, if at all, in the guest.
 */

import type { DiskFigures, LatencyHistogram } from "./figures.ts";
import { latencyBetween, percentileNs } from "./latency.ts";

const NS_PER_S = 1e9;
const NS_PER_MS = 1e6;
const KB = 1024;

/** What requests of one kind did in an interval. */
interface OperationInterval {
  readonly requests: number;
  readonly bytes: number;
  /** Durations of those that were answered in it. */
  readonly times: LatencyHistogram;
}

/** What one disk did between two readings. */
export interface DiskInterval {
  /** Its length. */
  readonly seconds: number;
  readonly read: OperationInterval;
  readonly write: OperationInterval;
  readonly flush: OperationInterval;
  readonly discard: OperationInterval;
  /** Nanoseconds of it with a request in flight. */
  readonly busyNs: number;
}

/** A row of `iostat -x`. Rates are per second, kB are 1024 bytes, waits are milliseconds, sizes kB. */
export interface DiskRates {
  readonly "r/s": number;
  readonly "rkB/s": number;
  /** Average, and of the reads half and 99 of a hundred took no longer. */
  readonly "r_await": number;
  readonly "r_p50": number;
  readonly "r_p99": number;
  /** Average size. */
  readonly "rareq-sz": number;
  readonly "w/s": number;
  readonly "wkB/s": number;
  readonly "w_await": number;
  readonly "w_p50": number;
  readonly "w_p99": number;
  readonly "wareq-sz": number;
  readonly "d/s": number;
  readonly "dkB/s": number;
  readonly "d_await": number;
  readonly "dareq-sz": number;
  readonly "f/s": number;
  readonly "f_await": number;
  /** Average number of requests in flight. */
  readonly "aqu-sz": number;
  /** Percent of the time with a request in flight; of several disks, that of the busiest. */
  readonly "util": number;
}

/** What happened between two readings of the same disk in the same process; undefined if no time passed. */
export function intervalBetween(before: DiskFigures, now: DiskFigures): DiskInterval | undefined {
  const seconds = (now.at_ms - before.at_ms) / 1000;
  if (!(seconds > 0)) return undefined;
  const of = (requests: number, bytes: number, operation: keyof DiskFigures["latency"]): OperationInterval => ({
    requests: Math.max(0, requests),
    bytes: Math.max(0, bytes),
    times: latencyBetween(before.latency[operation], now.latency[operation]),
  });
  return {
    seconds,
    read: of(now.rd_req - before.rd_req, now.rd_bytes - before.rd_bytes, "read"),
    write: of(now.wr_req - before.wr_req, now.wr_bytes - before.wr_bytes, "write"),
    flush: of(now.f_req - before.f_req, 0, "flush"),
    discard: of(now.ds_req - before.ds_req, 512 * (now.ds_sect - before.ds_sect), "discard"),
    busyNs: Math.max(0, now.busy_ns - before.busy_ns),
  };
}

/** The row of one disk, or of several disks together: all of a guest. */
export function ratesOf(disks: readonly DiskInterval[]): DiskRates {
  const read = operationRates(disks, "read");
  const write = operationRates(disks, "write");
  const flush = operationRates(disks, "flush");
  const discard = operationRates(disks, "discard");
  return {
    "r/s": read.perSecond,
    "rkB/s": read.kbPerSecond,
    "r_await": read.awaitMs,
    "r_p50": read.p50Ms,
    "r_p99": read.p99Ms,
    "rareq-sz": read.sizeKb,
    "w/s": write.perSecond,
    "wkB/s": write.kbPerSecond,
    "w_await": write.awaitMs,
    "w_p50": write.p50Ms,
    "w_p99": write.p99Ms,
    "wareq-sz": write.sizeKb,
    "d/s": discard.perSecond,
    "dkB/s": discard.kbPerSecond,
    "d_await": discard.awaitMs,
    "dareq-sz": discard.sizeKb,
    "f/s": flush.perSecond,
    "f_await": flush.awaitMs,
    "aqu-sz": read.queued + write.queued + flush.queued + discard.queued,
    "util": Math.min(100, Math.max(0, ...disks.map(({ busyNs, seconds }) => 100 * busyNs / NS_PER_S / seconds))),
  };
}

interface OperationRates {
  readonly perSecond: number;
  readonly kbPerSecond: number;
  readonly awaitMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly sizeKb: number;
  /** Average number in flight: the durations of an interval, divided by its length. */
  readonly queued: number;
}

function operationRates(disks: readonly DiskInterval[], name: "read" | "write" | "flush" | "discard"): OperationRates {
  const sum = (value: (disk: OperationInterval, seconds: number) => number): number =>
    disks.reduce((total, disk) => total + value(disk[name], disk.seconds), 0);
  const requests = sum((each) => each.requests);
  const answered = sum(({ times }) => times.count);
  const times = togetherOf(disks.map((disk) => disk[name].times));
  return {
    perSecond: sum((each, seconds) => each.requests / seconds),
    kbPerSecond: sum(({ bytes }, seconds) => bytes / KB / seconds),
    awaitMs: answered === 0 ? 0 : sum((each) => each.times.sum_ns) / answered / NS_PER_MS,
    p50Ms: percentileNs(times, 0.5) / NS_PER_MS,
    p99Ms: percentileNs(times, 0.99) / NS_PER_MS,
    sizeKb: requests === 0 ? 0 : sum(({ bytes }) => bytes) / KB / requests,
    queued: sum((each, seconds) => each.times.sum_ns / NS_PER_S / seconds),
  };
}

/** Several histograms as one. */
function togetherOf(histograms: readonly LatencyHistogram[]): LatencyHistogram {
  const counts = new Map<number, number>();
  for (const [upperNs, count] of histograms.flatMap(({ buckets }) => buckets)) {
    counts.set(upperNs, (counts.get(upperNs) ?? 0) + count);
  }
  return {
    count: histograms.reduce((total, { count }) => total + count, 0),
    sum_ns: histograms.reduce((total, { sum_ns }) => total + sum_ns, 0),
    max_ns: Math.max(0, ...histograms.map(({ max_ns }) => max_ns)),
    buckets: [...counts].sort(([a], [b]) => a - b),
  };
}
