/**
 * `xenblk job cancel JOB`: ends a job of a live disk.
 */

import { flag } from "../options.ts";
import { showWait } from "../progress.ts";
import { defineVerb } from "../verb.ts";
import { clientOfJob } from "./host_jobs.ts";
import { jobText } from "./text.ts";

/** A job may take so long to end. */
const CANCEL_MS = 40_000;

/** The verb. */
export const cancelJob = defineVerb({
  name: "job cancel",
  summary: "End a job of a live disk",
  description:
    "The process that serves the disk has its storage daemon end the job, and removes what the job has made so far. The " +
    "guest's requests are not affected.",
  operands: [{ name: "JOB", help: "the job, as `xenblk job list` names it", required: true }],
  options: { "json": flag("Print the job's end as JSON", "J") },
  permissions: "--allow-env --allow-read --allow-write --allow-net, read and write limited to /run/xenblk.",
  examples: ["xenblk job cancel vbd3-5-51712-backup"],
  async run({ output, quiet, signals, inform }, options, operands): Promise<number> {
    const id = operands["job"]!;
    using client = await clientOfJob(id, "cancel");
    const what = `waiting for job ${id} to end`;
    const wait = { output, quiet: quiet || options.json, what, timeoutMs: CANCEL_MS };
    const cancelling = client.call("jobCancel", { id }, { timeoutMs: CANCEL_MS, signal: signals.signal });
    const { job } = await showWait(wait, cancelling);
    if (options.json) output.json(job);
    else inform(jobText(job));
    return 0;
  },
});
