/**
 * Views of disks as a serving process would make them, for the tests of what is made from views.
 * All numbers are different, so that a mix-up shows.
 */

import type { LatencyHistogram } from "../../lib/figures/figures.ts";
import { Exposition } from "../../lib/metrics/exposition.ts";
import type { DiskView, View } from "../../lib/metrics/view.ts";

/** Durations in nanoseconds, each in a bucket of its own. */
export function durations(...ns: readonly number[]): LatencyHistogram {
  const sum = ns.reduce((total, one) => total + one, 0);
  return { count: ns.length, sum_ns: sum, max_ns: Math.max(0, ...ns), buckets: ns.map((one) => [one, 1] as const) };
}

/** A disk that did a little of each. */
export function diskView(changes: Partial<DiskView> = {}): DiskView {
  return {
    domain: "web",
    domid: 5,
    vdev: "xvda",
    kind: "vbd3",
    state: "Connected",
    frontendState: "Connected",
    connected: true,
    image: "raw:/a (b).img (1.0 GiB, engine uring (no fallback))",
    error: "",
    waitsFor: "",
    latched: false,
    limits: {
      iops: 500,
      iopsBurst: 0,
      bytesPerSecond: 0,
      bytesBurst: 0,
      readIops: 0,
      writeIops: 0,
      readBytesPerSecond: 10_000,
      writeBytesPerSecond: 20_000,
    },
    errors: { read: 1, write: 2, flush: 3, discard: 4, other: 5 },
    passes: 11,
    notifications: 12,
    figures: {
      rd_req: 4,
      wr_req: 3,
      f_req: 1,
      ds_req: 1,
      rd_sect: 8,
      wr_sect: 16,
      ds_sect: 32,
      rd_bytes: 4096,
      wr_bytes: 8192,
      rd_total_times: 6e6,
      wr_total_times: 3e6,
      flush_total_times: 1e6,
      errs: 15,
      in_flight: 2,
      busy_ns: 5e8,
      at_ms: 1000,
      latency: {
        read: durations(9_000, 30_000, 2e6),
        write: durations(1e6, 40e9),
        flush: durations(1e6),
        discard: durations(),
      },
    },
    ...changes,
  };
}

/** A process with these disks. */
export function viewOf(...disks: readonly DiskView[]): View {
  const process = { version: "1.2.3", deno: "2.0.0", pid: 42, startedS: 1.5e9, cpuS: 2.5, residentBytes: 1e8 };
  return { atMs: 1.6e12, process, disks, jobs: [] };
}

/** The text that Prometheus gets. */
export async function textOf(view: View): Promise<string> {
  return await new Exposition().text(view);
}
