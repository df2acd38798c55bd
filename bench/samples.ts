/**
 * What one round of one case yields, and the medians of several rounds. Pure. It must not know where samples come from.
 */

import type { DiskCase, StorageName, SubjectName } from "./cases.ts";
import { median } from "./statistics.ts";

/** One round. */
export interface Sample {
  /** Blocks of the case's size a second, however many requests a block took. */
  readonly iops: number;
  /** Processor time of the measured process for a block: user and system. */
  readonly cpuUs: number;
  /** Latency of a request; undefined where a block took several. */
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
  /** For the subject `null`, which has no storage, undefined. */
  readonly storage: StorageName | undefined;
  readonly case: DiskCase;
  readonly subject: SubjectName;
  /** A remark on how the subject was asked, for the table's foot. */
  readonly remark: string | undefined;
  readonly samples: readonly Sample[];
}

/** The medians of a measurement's rounds, each value by itself. */
export function medianSample({ samples }: Measurement): Sample {
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

/** The measurement of a subject on the same case and storage as another, if there is one. */
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
