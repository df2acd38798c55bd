/**
 * fio as a subject: the same load on the same file without a guest. It shows the limit of the storage.
 */

import { XenblkError } from "../lib/errors.ts";
import type { DiskCase } from "./cases.ts";
import type { Sample } from "./samples.ts";

/** A file and how to open it. */
export interface FioTarget {
  readonly path: string;
  /** With O_DIRECT. */
  readonly direct: boolean;
}

/** The parts of fio's JSON output that are used. */
interface FioJob {
  readonly error: number;
  /** Processor time in percent of {@linkcode job_runtime}. */
  readonly usr_cpu: number;
  readonly sys_cpu: number;
  readonly job_runtime: number;
  readonly read: FioDirection;
  readonly write: FioDirection;
}

interface FioDirection {
  readonly iops: number;
  readonly total_ios: number;
  readonly lat_ns: { readonly percentile: Readonly<Record<string, number>> };
}

/** Why fio cannot be run here; undefined if it can. */
export function missingFio(): string | undefined {
  try {
    new Deno.Command("fio", { args: ["--version"], stdin: "null", stdout: "null", stderr: "null" }).outputSync();
    return undefined;
  } catch {
    return "fio is missing (Debian package fio)";
  }
}

/** One round of a case. Throws {@linkcode XenblkError} with fio's message if it fails. */
export async function runFio(target: FioTarget, diskCase: DiskCase, durationMs: number, seed: number): Promise<Sample> {
  const args = fioArguments(target, diskCase, durationMs, seed);
  const { success, stdout, stderr } = await new Deno.Command("fio", { args, stdin: "null" }).output();
  const output = new TextDecoder().decode(stdout);
  if (!success) {
    const words = new TextDecoder().decode(stderr).trim() || output.trim();
    throw new XenblkError(`Cannot measure ${target.path} with fio: ${words.split("\n")[0]}`);
  }
  // fio may print warnings before the JSON.
  return sampleOf(JSON.parse(output.slice(output.indexOf("{\n"))).jobs[0], diskCase);
}

function fioArguments(target: FioTarget, diskCase: DiskCase, durationMs: number, seed: number): string[] {
  const { pattern, operation, blockBytes, depth } = diskCase;
  return [
    "--name=bench",
    `--filename=${target.path}`,
    "--allow_file_create=0",
    "--ioengine=io_uring",
    `--direct=${target.direct ? 1 : 0}`,
    "--invalidate=0", // keep the page cache, as for the backends
    `--rw=${pattern === "random" ? "rand" : ""}${operation}`,
    `--bs=${blockBytes}`,
    `--iodepth=${depth}`,
    "--norandommap",
    `--randseed=${seed}`,
    "--time_based",
    `--runtime=${Math.round(durationMs)}ms`,
    "--lat_percentiles=1",
    "--clat_percentiles=0",
    "--percentile_list=50:99:99.9",
    "--output-format=json",
  ];
}

/** Reads one job's result. Throws {@linkcode XenblkError} if it failed or did nothing. */
export function sampleOf(job: FioJob, { operation }: Pick<DiskCase, "operation">): Sample {
  const { iops, total_ios: count, lat_ns: latency } = job[operation];
  if (job.error !== 0 || count === 0) throw new XenblkError(`Cannot measure with fio: its job failed (${job.error})`);
  const us = (percentile: string): number => latency.percentile[percentile]! / 1000;
  return {
    iops,
    cpuUs: (job.usr_cpu + job.sys_cpu) / 100 * job.job_runtime * 1000 / count,
    latencyUs: { p50: us("50.000000"), p99: us("99.000000"), p999: us("99.900000") },
    frontendShare: undefined,
  };
}
