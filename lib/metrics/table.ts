/**
 * Every metric, as one table: its name, type, unit and meaning, and how a view has its value. The exposition for
 * Prometheus, OpenTelemetry and docs/metrics.md are made from it. Names follow Prometheus' rules and, where there is
 * such a metric, those of node_exporter's `node_disk_*`.
 */

import type { LatencyHistogram } from "../figures/figures.ts";
import { SECTOR_BYTES } from "../units.ts";
import type { DiskView, ErrorCounts, JobView, View } from "./view.ts";

/** Labels of a sample. */
export type Labels = Readonly<Record<string, string>>;

/** A value with its labels. */
export interface Sample<V> {
  readonly labels: Labels;
  readonly value: V;
}

interface Described {
  readonly name: string;
  readonly help: string;
  /** In the notation of UCUM, as OpenTelemetry has it. */
  readonly unit: "s" | "By" | "By/s" | "1" | "{request}/s" | "{request}" | "{error}" | "{pass}" | "{event}";
  /** The names of its labels. */
  readonly labelNames: readonly string[];
}

/** A metric whose samples are numbers. A counter never falls while the process runs; its name ends with `_total`. */
export interface Scalar extends Described {
  readonly type: "counter" | "gauge";
  readonly samples: (view: View) => readonly Sample<number>[];
}

/** A metric whose samples are histograms of durations. */
export interface Durations extends Described {
  readonly type: "histogram";
  readonly samples: (view: View) => readonly Sample<LatencyHistogram>[];
}

/** Any metric. */
export type Metric = Scalar | Durations;

/** The labels of each disk. */
const DISK_LABELS = ["domain", "domid", "vdev", "kind"] as const;

function labelsOf({ domain, domid, vdev, kind }: DiskView): Labels {
  return { domain, domid: String(domid), vdev, kind };
}

function ofDisks<V>(value: (disk: DiskView) => V): (view: View) => readonly Sample<V>[] {
  return ({ disks }) => disks.map((disk) => ({ labels: labelsOf(disk), value: value(disk) }));
}

/** The image without its size and the like, in parentheses at the end: a label should not change when a disk grows. */
function named({ image }: DiskView): string {
  return image.replace(/ \((?:[^()]|\([^()]*\))*\)$/, "");
}

type Unit = Described["unit"];

function counter(name: string, unit: Unit, help: string, value: (disk: DiskView) => number): Scalar {
  return { type: "counter", name, unit, help, labelNames: DISK_LABELS, samples: ofDisks(value) };
}

function gauge(name: string, unit: Unit, help: string, value: (disk: DiskView) => number): Scalar {
  return { type: "gauge", name, unit, help, labelNames: DISK_LABELS, samples: ofDisks(value) };
}

function durations(operation: keyof DiskView["figures"]["latency"], what: string): Durations {
  return {
    type: "histogram",
    name: `xenblk_disk_${operation}_duration_seconds`,
    unit: "s",
    help: `Durations of ${what}, from taking a request off the ring to answering it`,
    labelNames: DISK_LABELS,
    samples: ofDisks(({ figures }) => figures.latency[operation]),
  };
}

function ofProcess(
  type: Scalar["type"],
  name: string,
  unit: Unit,
  help: string,
  value: (view: View) => number,
): Scalar {
  return { type, name, unit, help, labelNames: [], samples: (view) => [{ labels: {}, value: value(view) }] };
}

const OPERATIONS: readonly (keyof ErrorCounts)[] = ["read", "write", "flush", "discard", "other"];

const REQUESTS: readonly Metric[] = [
  counter(
    "xenblk_disk_reads_completed_total",
    "{request}",
    "Reads that were answered, failed ones too",
    ({ figures }) => figures.latency.read.count,
  ),
  counter(
    "xenblk_disk_writes_completed_total",
    "{request}",
    "Writes and barriers that were answered, failed ones too",
    ({ figures }) => figures.latency.write.count,
  ),
  counter(
    "xenblk_disk_flushes_completed_total",
    "{request}",
    "Flushes that were answered, failed ones too",
    ({ figures }) => figures.latency.flush.count,
  ),
  counter(
    "xenblk_disk_discards_completed_total",
    "{request}",
    "Discards that were answered, failed ones too",
    ({ figures }) => figures.latency.discard.count,
  ),
  counter("xenblk_disk_read_bytes_total", "By", "Bytes read for the guest", ({ figures }) => figures.rd_bytes),
  counter("xenblk_disk_written_bytes_total", "By", "Bytes written for the guest", ({ figures }) => figures.wr_bytes),
  counter(
    "xenblk_disk_discarded_bytes_total",
    "By",
    "Bytes discarded for the guest",
    ({ figures }) => figures.ds_sect * SECTOR_BYTES,
  ),
  durations("read", "reads"),
  durations("write", "writes and barriers"),
  durations("flush", "flushes"),
  durations("discard", "discards"),
  {
    type: "counter",
    name: "xenblk_disk_errors_total",
    unit: "{error}",
    help: `Requests that were answered with an error, by operation: ${OPERATIONS.join(", ")}`,
    labelNames: [...DISK_LABELS, "operation"],
    samples: ({ disks }) =>
      disks.flatMap((disk) =>
        OPERATIONS.map((operation) => ({ labels: { ...labelsOf(disk), operation }, value: disk.errors[operation] }))
      ),
  },
  gauge(
    "xenblk_disk_in_flight",
    "{request}",
    "Requests that are taken and not answered",
    ({ figures }) => figures.in_flight,
  ),
  counter(
    "xenblk_disk_busy_seconds_total",
    "s",
    "Time in which at least one request was in flight; its rate is the utilisation",
    ({ figures }) => figures.busy_ns / 1e9,
  ),
];

const STATES: readonly Metric[] = [
  gauge("xenblk_disk_connected", "1", "1: the disk's rings are served", ({ connected }) => Number(connected)),
  gauge(
    "xenblk_disk_latched",
    "1",
    "1: a flush failed, and writes are refused until the disk is attached again",
    ({ latched }) => Number(latched),
  ),
  gauge(
    "xenblk_disk_error",
    "1",
    "1: the disk has an error that was not put right; `xenblk list` and the status page have its text",
    ({ error }) => Number(error !== ""),
  ),
  gauge(
    "xenblk_disk_storage_waiting",
    "1",
    "1: the disk waits for its storage to open, lock or close its image",
    ({ waitsFor }) => Number(waitsFor !== ""),
  ),
  gauge(
    "xenblk_disk_limit_requests_per_second",
    "{request}/s",
    "Most reads, writes and discards per second; 0: no limit",
    ({ limits }) => limits.iops,
  ),
  gauge(
    "xenblk_disk_limit_read_requests_per_second",
    "{request}/s",
    "Most reads per second, where writes are limited apart; 0: no such limit",
    ({ limits }) => limits.readIops,
  ),
  gauge(
    "xenblk_disk_limit_write_requests_per_second",
    "{request}/s",
    "Most writes and discards per second, where reads are limited apart; 0: no such limit",
    ({ limits }) => limits.writeIops,
  ),
  gauge(
    "xenblk_disk_limit_bytes_per_second",
    "By/s",
    "Most bytes read and written per second; 0: no limit",
    ({ limits }) => limits.bytesPerSecond,
  ),
  gauge(
    "xenblk_disk_limit_read_bytes_per_second",
    "By/s",
    "Most bytes read per second, where writes are limited apart; 0: no such limit",
    ({ limits }) => limits.readBytesPerSecond,
  ),
  gauge(
    "xenblk_disk_limit_write_bytes_per_second",
    "By/s",
    "Most bytes written per second, where reads are limited apart; 0: no such limit",
    ({ limits }) => limits.writeBytesPerSecond,
  ),
  {
    type: "gauge",
    name: "xenblk_disk_info",
    unit: "1",
    help: "Always 1; its labels say which image the disk has",
    labelNames: [...DISK_LABELS, "image"],
    samples: ({ disks }) => disks.map((disk) => ({ labels: { ...labelsOf(disk), image: named(disk) }, value: 1 })),
  },
  counter(
    "xenblk_disk_ring_passes_total",
    "{pass}",
    "Times a reactor visited the disk's rings",
    ({ passes }) => passes,
  ),
  counter(
    "xenblk_disk_notifications_total",
    "{event}",
    "Events sent to the guest for answered requests",
    ({ notifications }) => notifications,
  ),
];

const JOB_STATES = [
  "running",
  "ready",
  "completed",
  "failed",
  "cancelled",
] as const satisfies readonly JobView["state"][];

function ofJobs(name: string, unit: Unit, help: string, value: (job: JobView) => number): Scalar {
  return {
    type: "gauge",
    name,
    unit,
    help,
    labelNames: [...DISK_LABELS, "job_kind"],
    samples: ({ jobs }) => jobs.map((job) => ({ labels: jobLabels(job), value: value(job) })),
  };
}

function jobLabels({ domain, domid, vdev, kind, job }: JobView): Labels {
  return { domain, domid: String(domid), vdev, kind, job_kind: job };
}

const JOBS: readonly Metric[] = [
  {
    type: "gauge",
    name: "xenblk_job_state",
    unit: "1",
    help: `1 for the state that the disk's last job of the kind is in: ${JOB_STATES.join(", ")}; 0 for the others`,
    labelNames: [...DISK_LABELS, "job_kind", "state"],
    samples: ({ jobs }) =>
      jobs.flatMap((job) =>
        JOB_STATES.map((state) => ({ labels: { ...jobLabels(job), state }, value: Number(job.state === state) }))
      ),
  },
  ofJobs("xenblk_job_done_bytes", "By", "What the job has done", ({ doneBytes }) => doneBytes),
  ofJobs("xenblk_job_total_bytes", "By", "What is known to be done by it", ({ totalBytes }) => totalBytes),
  ofJobs(
    "xenblk_job_ended_timestamp_seconds",
    "s",
    "When it ended, as Unix time; 0: it is not over",
    ({ endedS }) => endedS,
  ),
];

const PROCESS: readonly Metric[] = [
  {
    type: "gauge",
    name: "xenblk_build_info",
    unit: "1",
    help: "Always 1; its labels say which version of xenblk runs on which version of Deno",
    labelNames: ["version", "deno"],
    samples: ({ process: { version, deno } }) => [{ labels: { version, deno }, value: 1 }],
  },
  ofProcess("gauge", "xenblk_disks", "1", "Disks that this process serves or tries to", ({ disks }) => disks.length),
  ofProcess(
    "counter",
    "process_cpu_seconds_total",
    "s",
    "CPU time of all threads of the serving process",
    ({ process: { cpuS } }) => cpuS,
  ),
  ofProcess(
    "gauge",
    "process_resident_memory_bytes",
    "By",
    "Resident memory of the serving process",
    ({ process: { residentBytes } }) => residentBytes,
  ),
  ofProcess(
    "gauge",
    "process_start_time_seconds",
    "s",
    "Unix time at which the serving process started",
    ({ process: { startedS } }) => startedS,
  ),
];

/** All metrics, in the order of the exposition. */
export const METRICS: readonly Metric[] = [...REQUESTS, ...STATES, ...JOBS, ...PROCESS];
