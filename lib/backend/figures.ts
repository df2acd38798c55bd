/**
 * The figures of a device, made from its status: what the control socket, `show --json` and `top` have.
 */

import type { DiskFigures } from "../figures/figures.ts";
import { SECTOR_BYTES } from "../units.ts";
import type { DeviceStatus } from "./status.ts";

/** What a device did since this process first saw it, over all its rings. */
export function diskFigures({ totals, latency, busyNs, atMs }: DeviceStatus): DiskFigures {
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
    rd_total_times: latency.read.sum_ns,
    wr_total_times: latency.write.sum_ns,
    flush_total_times: latency.flush.sum_ns,
    errs: totals.errors,
    in_flight: totals.inFlight,
    busy_ns: Math.round(busyNs),
    at_ms: atMs,
    latency,
  };
}
