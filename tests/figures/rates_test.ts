/**
 * Figures of hand-made readings: the rows of `iostat -x` that two of them give, for one disk and for several.
 */

import { assert, assertEquals } from "@std/assert";
import type { DiskFigures, LatencyHistogram } from "../../lib/figures/figures.ts";
import { latencyBetween, latencyOf, percentileNs } from "../../lib/figures/latency.ts";
import { intervalBetween, ratesOf } from "../../lib/figures/rates.ts";
import { Histogram } from "../../lib/histogram.ts";

/** Durations in milliseconds. */
function times(...ms: number[]): LatencyHistogram {
  const histogram = new Histogram();
  for (const each of ms) histogram.record(each * 1e6);
  return latencyOf([histogram]);
}

const NONE: DiskFigures = {
  rd_req: 0,
  wr_req: 0,
  f_req: 0,
  ds_req: 0,
  rd_sect: 0,
  wr_sect: 0,
  ds_sect: 0,
  rd_bytes: 0,
  wr_bytes: 0,
  rd_total_times: 0,
  wr_total_times: 0,
  flush_total_times: 0,
  errs: 0,
  in_flight: 0,
  busy_ns: 0,
  at_ms: 5000,
  latency: { read: times(), write: times(), flush: times(), discard: times() },
};

Deno.test("two readings give the row of iostat", () => {
  const now: DiskFigures = {
    ...NONE,
    rd_req: 100,
    rd_bytes: 100 * 4096,
    wr_req: 10,
    wr_bytes: 10 * 65_536,
    f_req: 2,
    ds_req: 1,
    ds_sect: 16,
    busy_ns: 0.5e9,
    at_ms: 7000,
    latency: {
      read: times(...Array(100).fill(4)),
      write: times(...Array(9).fill(20), 200),
      flush: times(10, 30),
      discard: times(8),
    },
  };
  const { r_p50, r_p99, w_p50, w_p99, ...rates } = ratesOf([intervalBetween(NONE, now)!]);
  assertEquals(rates, {
    "r/s": 50,
    "rkB/s": 200,
    "r_await": 4,
    "rareq-sz": 4,
    "w/s": 5,
    "wkB/s": 320,
    "w_await": 38,
    "wareq-sz": 64,
    "d/s": 0.5,
    "dkB/s": 4,
    "d_await": 8,
    "dareq-sz": 8,
    "f/s": 1,
    "f_await": 20,
    "aqu-sz": (0.4 + 0.38 + 0.04 + 0.008) / 2,
    "util": 25,
  });
  for (const [found, exact] of [[r_p50, 4], [r_p99, 4], [w_p50, 20], [w_p99, 200]] as const) {
    assert(found >= exact && found <= exact * 1.032, `${found} for ${exact}`);
  }
});

Deno.test("only what happened between two readings counts; a disk that did nothing has a row of zeroes", () => {
  const before: DiskFigures = { ...NONE, rd_req: 7, latency: { ...NONE.latency, read: times(1, 1, 500) } };
  const later = { ...before, at_ms: 6000 };
  assertEquals(Object.values(ratesOf([intervalBetween(before, later)!])).every((rate) => rate === 0), true);
  const read = latencyBetween(times(1, 1, 500), times(1, 1, 500, 2, 3));
  assertEquals([read.count, read.sum_ns], [2, 5e6]);
  assert(percentileNs(read, 1) < 3.2e6, "the earlier request of 500 ms is not in it");
  assertEquals([intervalBetween(NONE, NONE), intervalBetween(later, NONE)], [undefined, undefined]);
});

Deno.test("disks of a guest add up; their waits are weighted, and the busiest one is its utilization", () => {
  const read = (ms: number, requests: number, busyMs: number): DiskFigures => ({
    ...NONE,
    rd_req: requests,
    rd_bytes: requests * 1024,
    busy_ns: busyMs * 1e6,
    at_ms: 6000,
    latency: { ...NONE.latency, read: times(...Array(requests).fill(ms)) },
  });
  const intervals = [read(2, 30, 60), read(10, 10, 900)].map((now) => intervalBetween(NONE, now)!);
  const { "r/s": reads, "rkB/s": kb, r_await, "rareq-sz": size, util } = ratesOf(intervals);
  assertEquals([reads, kb, r_await, size, util], [40, 40, 4, 1, 90]);
  assertEquals(Object.values(ratesOf([])).some((rate) => rate !== 0), false);
});
