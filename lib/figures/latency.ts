/**
 * Histograms of durations as plain data: made from those that the data plane records, subtracted, and read.
 */

import { Histogram, rankedBucket } from "../histogram.ts";
import type { LatencyHistogram } from "./figures.ts";

/** The durations that several histograms hold together. They may be recorded into meanwhile. */
export function latencyOf(histograms: readonly Histogram[]): LatencyHistogram {
  const used = histograms.filter(({ count }) => count > 0);
  let all = used[0];
  if (all === undefined) return { count: 0, sum_ns: 0, max_ns: 0, buckets: [] };
  if (used.length > 1) {
    all = new Histogram();
    for (const histogram of used) all.add(histogram);
  }
  const { sumNs, maxNs } = all;
  const buckets = all.buckets();
  return { count: countOf(buckets), sum_ns: Math.round(sumNs), max_ns: Math.round(maxNs), buckets };
}

/** The durations that were recorded between two readings of the same histogram; the longest is that of the later one. */
export function latencyBetween(before: LatencyHistogram, now: LatencyHistogram): LatencyHistogram {
  const earlier = new Map(before.buckets);
  const buckets = now.buckets.map(([upperNs, count]) => [upperNs, count - (earlier.get(upperNs) ?? 0)] as const)
    .filter(([, count]) => count > 0);
  return { count: countOf(buckets), sum_ns: Math.max(0, now.sum_ns - before.sum_ns), max_ns: now.max_ns, buckets };
}

/** The percentile of a share from 0 to 1, in nanoseconds, right to 3 %; 0 if nothing was recorded. */
export function percentileNs({ buckets, count, max_ns }: LatencyHistogram, share: number): number {
  return Math.min(rankedBucket(buckets, Math.ceil(share * count)), max_ns);
}

function countOf(buckets: LatencyHistogram["buckets"]): number {
  return buckets.reduce((total, [, count]) => total + count, 0);
}
