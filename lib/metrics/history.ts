/**
 * What disks did in the last five minutes, for a status page that is opened: readings of the counters that it plots.
 */

import type { DiskFigures } from "../figures/figures.ts";
import type { DiskView, View } from "./view.ts";

/** As long as the page plots. */
const KEPT_MS = 5 * 60_000;

/** The counters of one disk that the page plots. */
type Plotted = Pick<DiskFigures, "at_ms" | "rd_bytes" | "wr_bytes" | "rd_req" | "wr_req" | "busy_ns"> & {
  readonly latency: Readonly<Record<"read" | "write", { readonly count: number; readonly sum_ns: number }>>;
};

/** The disks at one moment, by kind, domain and virtual device: `vbd3/5/xvda`. */
interface Reading {
  /** Unix time, in milliseconds. */
  readonly atMs: number;
  readonly disks: Readonly<Record<string, Plotted>>;
}

/** Readings of the last five minutes, oldest first. */
export class History {
  readonly #readings: Reading[] = [];

  /** Takes a reading, and forgets those that are too old. */
  add({ atMs, disks }: View): void {
    while (this.#readings[0] !== undefined && this.#readings[0].atMs < atMs - KEPT_MS) this.#readings.shift();
    this.#readings.push({ atMs, disks: Object.fromEntries(disks.map((disk) => [keyOf(disk), plotted(disk)])) });
  }

  /** For the page. */
  toJSON(): { readonly readings: readonly Reading[] } {
    return { readings: this.#readings };
  }
}

function keyOf({ kind, domid, vdev }: DiskView): string {
  return `${kind}/${domid}/${vdev}`;
}

function plotted({ figures }: DiskView): Plotted {
  const { at_ms, rd_bytes, wr_bytes, rd_req, wr_req, busy_ns, latency: { read, write } } = figures;
  return {
    at_ms,
    rd_bytes,
    wr_bytes,
    rd_req,
    wr_req,
    busy_ns,
    latency: {
      read: { count: read.count, sum_ns: read.sum_ns },
      write: { count: write.count, sum_ns: write.sum_ns },
    },
  };
}
