/**
 * Waits for a job's end for a person: with a line of progress, and with what INT means.
 */

import { ConnectionLostError, type ControlClient } from "../../control/client.ts";
import { SYSTEM_CLOCK } from "../../clock.ts";
import { XenblkError } from "../../errors.ts";
import { isActive, type JobReport } from "../../jobs/job.ts";
import { Progress, timeLeft } from "../progress.ts";
import type { Context } from "../verb.ts";
import { enteredText, leftText, visitOf } from "../visit.ts";
import { jobText, progressText } from "./text.ts";

/** Between two questions. */
const LOOK_MS = 300;
/** A job may take so long to be cancelled. */
const CANCEL_MS = 40_000;

/** What is shown, and whether INT cancels the job; else it only ends the wait. */
export interface Following {
  readonly json: boolean;
  readonly cancels: boolean;
  /** Its disk has entered its storage daemon for it. */
  readonly entered?: { readonly pausedMs: number };
  /** Its disk may leave its daemon afterwards, whenever it has entered that. */
  readonly leaves?: boolean;
}

/** Shows the job until it is over, and prints its end. Resolves with the exit status of the verb. */
export async function followJob(
  { output, quiet, signals, inform }: Context,
  client: ControlClient,
  begun: JobReport,
  { json, cancels, entered, leaves = entered !== undefined }: Following,
): Promise<number> {
  const { signal } = signals;
  if (entered !== undefined && !json) inform(enteredText(begun.device, entered));
  using progress = new Progress(output, quiet || json);
  const beganMs = performance.now();
  let job = begun;
  while (isActive(job) && !signal.aborted) {
    const share = job.totalBytes === 0 ? 0 : job.doneBytes / job.totalBytes;
    progress.update(`${job.kind}: ${progressText(job) || job.state}${timeLeft(share, performance.now() - beganMs)}`);
    await SYSTEM_CLOCK.sleep(LOOK_MS, signal);
    job = await ask(client, job);
  }
  progress[Symbol.dispose]();
  if (isActive(job) && cancels) job = (await client.call("jobCancel", { id: job.id }, { timeoutMs: CANCEL_MS })).job;
  const visit = leaves && !isActive(job) ? await visitOf(client, job.device) : { visits: false };
  const told = json ? undefined : leftText(job.device, visit);
  if (told !== undefined) inform(told);
  if (json) {
    output.json({ ...job, ...(entered === undefined ? {} : { entered }), ...(visit.left && { left: visit.left }) });
  } else if (job.state === "failed") throw new XenblkError(failureOf(job));
  else inform(jobText(job));
  return job.state === "failed" || job.state === "cancelled" ? 1 : 0;
}

async function ask(client: ControlClient, before: JobReport): Promise<JobReport> {
  try {
    const { jobs } = await client.call("jobs", { id: before.id });
    return jobs[0] ?? before;
  } catch (error) {
    if (!(error instanceof ConnectionLostError)) throw error;
    throw new XenblkError(`Cannot wait for job ${before.id}: the process that watches it has ended`, {
      remedy: "if it was killed, the storage daemon goes on: start `xenblk serve`, and see `xenblk job list`",
    });
  }
}

function failureOf({ kind, target, error = "no reason is known" }: JobReport): string {
  return `Cannot complete the ${kind}${target === undefined ? "" : ` to ${target}`}: ${error}`;
}
