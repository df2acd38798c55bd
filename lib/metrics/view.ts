/**
 * What metrics and the status page are made of: the serving process and its disks at one moment, as plain data that a
 * Worker can be sent.
 */

import { cpuUsage } from "node:process";
import { diskFigures } from "../backend/figures.ts";
import type { DeviceStatus } from "../backend/status.ts";
import type { DiskFigures } from "../figures/figures.ts";
import type { JobReport } from "../jobs/job.ts";
import { printable } from "../log.ts";

/** Longest text in a view, in characters: a guest has a part in some of them. */
const MOST_CHARACTERS = 200;

/** Requests that were answered with BLKIF_RSP_ERROR, by operation. */
export interface ErrorCounts {
  readonly read: number;
  readonly write: number;
  readonly flush: number;
  readonly discard: number;
  /** Of an operation that was not offered, or of none. */
  readonly other: number;
}

/** One disk at one moment. */
export interface DiskView {
  /** The guest's name; its domid where it has none. */
  readonly domain: string;
  readonly domid: number;
  /** The virtual device's name, such as `xvda`. */
  readonly vdev: string;
  /** The backend kind, such as `vbd3`. */
  readonly kind: string;
  /** The backend's xenbus state, by name. */
  readonly state: string;
  /** The guest's. */
  readonly frontendState: string;
  /** Its rings are served. */
  readonly connected: boolean;
  /** The open image; empty while none is open. */
  readonly image: string;
  /** The last error that was not put right; empty if there is none. */
  readonly error: string;
  /** What its storage has not done yet; empty if it waits for nothing. */
  readonly waitsFor: string;
  /** A flush failed: writes are refused until the disk is attached again. */
  readonly latched: boolean;
  /** 0: no limit. */
  readonly limits: Limits;
  readonly errors: ErrorCounts;
  /** Times a reactor visited the disk's rings. */
  readonly passes: number;
  /** Events sent to the guest. */
  readonly notifications: number;
  /** The disk's counters and latencies. */
  readonly figures: DiskFigures;
}

type Limits = NonNullable<DeviceStatus["limits"]>;

const NO_LIMITS: Limits = {
  iops: 0,
  iopsBurst: 0,
  bytesPerSecond: 0,
  bytesBurst: 0,
  readIops: 0,
  writeIops: 0,
  readBytesPerSecond: 0,
  writeBytesPerSecond: 0,
};

/** One job of a disk, running or over. */
export interface JobView extends Pick<DiskView, "domain" | "domid" | "vdev" | "kind"> {
  /** `backup`, ... */
  readonly job: string;
  readonly state: JobReport["state"];
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Unix time, in seconds; 0: it is not over. */
  readonly endedS: number;
}

/** The serving process. */
export interface ProcessView {
  readonly version: string;
  readonly deno: string;
  readonly pid: number;
  /** Unix time, in seconds. */
  readonly startedS: number;
  /** CPU time of all its threads, in seconds. */
  readonly cpuS: number;
  readonly residentBytes: number;
}

/** A serving process and its disks at one moment. */
export interface View {
  /** Unix time, in milliseconds. */
  readonly atMs: number;
  readonly process: ProcessView;
  /** Those that this process has, by guest, then by virtual device. */
  readonly disks: readonly DiskView[];
  /** Those of these disks. */
  readonly jobs: readonly JobView[];
}

/** The view of this process. */
export function takeView(
  devices: readonly DeviceStatus[],
  version: string,
  jobs: readonly JobReport[] = [],
): View {
  const byGuest = (a: DeviceStatus, b: DeviceStatus): number => a.domain - b.domain || a.vdev - b.vdev;
  return {
    atMs: Date.now(),
    process: processView(version),
    // What another process serves is in the metrics of that process.
    disks: devices.filter(({ owned }) => owned).sort(byGuest).map(diskView),
    jobs: jobs.flatMap((job) => {
      const device = devices.find(({ label, owned }) => owned && label === job.device);
      return device === undefined ? [] : [jobView(job, diskView(device))];
    }),
  };
}

function jobView({ kind: job, state, doneBytes, totalBytes, ended }: JobReport, disk: DiskView): JobView {
  const { domain, domid, vdev, kind } = disk;
  const endedS = ended === undefined ? 0 : Date.parse(ended) / 1000;
  return { domain, domid, vdev, kind, job, state, doneBytes, totalBytes, endedS };
}

function diskView(device: DeviceStatus): DiskView {
  const {
    domain,
    name,
    kind,
    backendState,
    frontendState,
    connected,
    image,
    error,
    waitsFor,
    latched,
    totals,
    limits,
  } = device;
  const errors = {
    read: totals.readErrors,
    write: totals.writeErrors + totals.barrierErrors,
    flush: totals.flushErrors,
    discard: totals.discardErrors,
  };
  const named = errors.read + errors.write + errors.flush + errors.discard;
  return {
    domain: bounded(device.guest ?? String(domain)),
    domid: domain,
    vdev: name,
    kind,
    state: backendState,
    frontendState,
    connected,
    image: bounded(image ?? ""),
    error: bounded(error ?? ""),
    waitsFor: bounded((waitsFor ?? []).join("; ")),
    latched,
    limits: limits ?? NO_LIMITS,
    errors: { ...errors, other: Math.max(0, totals.errors - named) },
    passes: totals.passes,
    notifications: totals.notificationsSent,
    figures: diskFigures(device),
  };
}

function processView(version: string): ProcessView {
  const { user, system } = cpuUsage();
  return {
    version,
    deno: Deno.version.deno,
    pid: Deno.pid,
    startedS: performance.timeOrigin / 1000,
    cpuS: (user + system) / 1e6,
    residentBytes: Deno.memoryUsage().rss,
  };
}

/** Printable, and not too long for a label. */
function bounded(text: string): string {
  return printable(text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS - 1)}…` : text);
}
