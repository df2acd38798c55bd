/**
 * The latency histograms of a disk with the few fixed edges that a monitoring system keeps.
 */

import type { LatencyHistogram } from "../figures/figures.ts";

/** Upper edges in seconds; one more bucket takes the rest. From a cached read to a disk that is about to be given up. */
export const EDGES_S: readonly number[] = [
  ...[10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05],
  ...[0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
];

/** Durations below each edge, as Prometheus counts them. */
export interface CumulativeHistogram {
  /** Of each edge, the durations that are not longer. */
  readonly counts: readonly number[];
  /** All durations. */
  readonly count: number;
  /** Their sum, in seconds. */
  readonly sumS: number;
}

/**
 * Gathers the fine buckets. One that an edge cuts through counts above the edge, so that a percentile made of the result
 * is never too good. `count` is that of the buckets: the histogram is read while it is written, and a total that does
 * not match its buckets would be refused.
 */
export function cumulative({ buckets, sum_ns }: LatencyHistogram): CumulativeHistogram {
  const counts: number[] = [];
  let count = 0;
  let next = 0;
  for (const edge of EDGES_S) {
    // Half a nanosecond forgives the rounding of the edge.
    for (; next < buckets.length && buckets[next]![0] <= edge * 1e9 + 0.5; next++) count += buckets[next]![1];
    counts.push(count);
  }
  for (; next < buckets.length; next++) count += buckets[next]![1];
  return { counts, count, sumS: sum_ns / 1e9 };
}
