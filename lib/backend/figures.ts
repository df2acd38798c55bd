/**
 * The figures of a device, made from its status: what the control socket, `show --json` and `top` have.
 */

import type { DiskFigures, LatencyHistogram } from "../figures/figures.ts";
import { SECTOR_BYTES } from "../units.ts";
import type { DeviceStatus } from "./status.ts";

const NO_REQUESTS: LatencyHistogram = { count: 0, sum_ns: 0, max_ns: 0, buckets: [] };

/** What a device did since this process first saw it, over all its rings. */
export function diskFigures({ totals }: DeviceStatus): DiskFigures {
  return {
    rd_req: totals.reads,
    wr_req: totals.writes + totals.barriers,
    f_req: totals.flushes,
    ds_req: totals.discards,
    rd_sect: totals.sectorsRead,
    wr_sect: totals.sectorsWritten,
    ds_sect: totals.sectorsDiscarded,
    rd_bytes: totals.sectorsRead * SECTOR_BYTES,
    wr_bytes: totals.sectorsWritten * SECTOR_BYTES,
    rd_total_times: 0,
    wr_total_times: 0,
    flush_total_times: 0,
    errs: totals.errors,
    in_flight: totals.inFlight,
    busy_ns: 0,
    at_ms: performance.now(),
    latency: { read: NO_REQUESTS, write: NO_REQUESTS, flush: NO_REQUESTS, discard: NO_REQUESTS },
  };
}
