/**
 * The daemon's job that merges a disk's overlays, by its name. It needs the process that began it: a later one ends it.
 */

import { XenblkError } from "../../errors.ts";
import type { Execute } from "./removal.ts";

/** How long it may take to end once it is cancelled. */
const END_MS = 5_000;
const LOOK_MS = 20;

/** A job of QEMU; see its qapi/job.json. */
export interface QemuJob {
  readonly id: string;
  readonly status: string;
  readonly "current-progress": number;
  readonly "total-progress": number;
  /** Why it has failed. */
  readonly error?: string;
}

/** The name of a disk's, as that of any job of a disk: `prefix` is that of its nodes, and its kind is `commit`. */
export function commitJob(prefix: string): string {
  return `${prefix}commit`;
}

/** The job with that name; undefined if there is none. */
export async function findJob(execute: Execute, id: string): Promise<QemuJob | undefined> {
  const jobs = await execute("query-jobs") as readonly QemuJob[];
  return jobs.find((job) => job.id === id);
}

/** Ends that of a disk with these nodes, whoever began it, if there is one: all overlays stay as they are. */
export async function endCommit(execute: Execute, [first = ""]: readonly string[]): Promise<void> {
  const id = commitJob(first.slice(0, first.indexOf("-") + 1));
  for (const deadline = performance.now() + END_MS;; await new Promise((done) => setTimeout(done, LOOK_MS))) {
    const job = await findJob(execute, id);
    if (job === undefined) return;
    // It may end by itself meanwhile, or be unable to take the request yet.
    await execute(job.status === "concluded" ? "job-dismiss" : "job-cancel", { id }).catch(() => {});
    if (performance.now() < deadline) continue;
    throw new XenblkError(`Cannot end the job ${id}: it has not ended for ${END_MS / 1000} s`, {
      remedy: "look at the storage of the images that it works on: it does not answer",
    });
  }
}
