/**
 * The figures of one round of one case, and the medians of several rounds, for every kind of subject.
 * All times are in the units that the names say.
 */

import type { DiskCase, StorageName, SubjectName } from "./cases.ts";
import { median } from "./statistics.ts";

/** One round. */
export interface Sample {
  /** Blocks of the case's size per second. A block can take several requests. */
  readonly iops: number;
  /** Processor time of the measured process per block: user and system. */
  readonly cpuUs: number;
  /** Latency per request; undefined if a block takes several. */
  readonly latencyUs: Latency | undefined;
  /** Processor time of the frontend's process as a share of one CPU; undefined without a frontend. */
  readonly frontendShare: number | undefined;
}

/** Percentiles of request latency, in microseconds. */
export interface Latency {
  readonly p50: number;
  readonly p99: number;
  readonly p999: number;
}

/** All rounds of one subject on one case. */
export interface Measurement {
  /** Undefined for the subject `null`, which has no storage. */
  readonly storage: StorageName | undefined;
  readonly case: DiskCase;
  readonly subject: SubjectName;
  /** A remark below the table on how blocks were split into requests. */
  readonly remark: string | undefined;
  readonly samples: readonly Sample[];
}

/** The median of each value over a measurement's rounds. */
export function medianSample({ samples }: Pick<Measurement, "samples">): Sample {
  const latency = (value: (latency: Latency) => number): number =>
    median(samples.flatMap(({ latencyUs }) => latencyUs === undefined ? [] : [value(latencyUs)]))!;
  const known = samples.some(({ latencyUs }) => latencyUs !== undefined);
  return {
    iops: median(samples.map(({ iops }) => iops))!,
    cpuUs: median(samples.map(({ cpuUs }) => cpuUs))!,
    latencyUs: known
      ? { p50: latency(({ p50 }) => p50), p99: latency(({ p99 }) => p99), p999: latency(({ p999 }) => p999) }
      : undefined,
    frontendShare: median(samples.flatMap(({ frontendShare }) => frontendShare ?? [])),
  };
}

/** The measurement of a subject on the case and storage of another measurement, if any. */
export function counterpart(
  all: readonly Measurement[],
  of: Pick<Measurement, "storage" | "case">,
  subject: SubjectName,
): Measurement | undefined {
  return all.find((other) =>
    other.subject === subject && other.case.name === of.case.name &&
    (other.storage === of.storage || subject === "null")
  );
}
