/**
 * Jobs as a storage daemon tells of them (QEMU: qapi/job.json).
 */

import type { DaemonMonitor } from "../storage/disk.ts";
import type { QmpObject } from "../storage/qemu/qmp.ts";
import type { JobState } from "./job.ts";

/** How long a daemon may take to say how far its jobs are. */
const ASK_MS = 2_000;

/** The error of a job that was cancelled. */
export const CANCELLED = "Operation canceled";

/** A job of a daemon. */
export interface DaemonJob {
  readonly id: string;
  /** QEMU's JobStatus. */
  readonly status: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** Of one that is over: why it failed. */
  readonly error?: string;
  /** Why it has stopped and goes on no more, though it is not over: see `on-target-error`. */
  readonly stopped?: string;
}

/** QEMU's BlockDeviceIoStatus, for people. */
const STOPPED: Readonly<Record<string, string>> = {
  nospace: "No space left on device",
  failed: "its source or target has an I/O error",
};

/** All jobs of a daemon. Rejects with XenblkError. */
export async function jobsOf({ execute }: Pick<DaemonMonitor, "execute">): Promise<readonly DaemonJob[]> {
  const jobs = await execute("query-jobs", undefined, ASK_MS) as readonly QmpObject[];
  // One is also paused for a moment while something else of its disk changes.
  const stopped = jobs.some(({ status }) => status === "paused" || status === "standby")
    ? stoppedOf(await execute("query-block-jobs", undefined, ASK_MS) as readonly QmpObject[])
    : new Map<string, string>();
  return jobs.map((job) => {
    const why = stopped.get(`${job.id}`);
    return {
      id: `${job.id}`,
      status: `${job.status}`,
      doneBytes: Number(job["current-progress"]),
      totalBytes: Number(job["total-progress"]),
      ...(job.error === undefined ? {} : { error: `${job.error}` }),
      ...(why === undefined ? {} : { stopped: why }),
    };
  });
}

function stoppedOf(jobs: readonly QmpObject[]): Map<string, string> {
  return new Map(jobs.flatMap(({ device, "io-status": status }): [string, string][] => {
    const why = STOPPED[`${status}`];
    return why === undefined ? [] : [[`${device}`, why]];
  }));
}

/** What that means for those who wait for the job. */
export function stateOf({ status }: Pick<DaemonJob, "status">): Extract<JobState, "running" | "ready"> | "over" {
  if (status === "concluded" || status === "null") return "over";
  return status === "ready" || status === "standby" ? "ready" : "running";
}
