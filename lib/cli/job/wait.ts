/**
 * `xenblk job wait JOB`: shows how far a job of a live disk is until it is over.
 */

import { flag } from "../options.ts";
import { defineVerb } from "../verb.ts";
import { followJob } from "./follow.ts";
import { clientOfJob } from "./host_jobs.ts";

/** The verb. */
export const waitForJob = defineVerb({
  name: "job wait",
  summary: "Show how far a job of a live disk is until it is over",
  description: "INT ends the wait, not the job. The exit status is 1 if the job failed or was cancelled.",
  operands: [{ name: "JOB", help: "the job, as `xenblk job list` names it", required: true }],
  options: { "json": flag("Print the job's end as JSON", "J") },
  permissions: "--allow-env --allow-read --allow-write --allow-net, read and write limited to /run/xenblk.",
  examples: ["xenblk job wait vbd3-5-51712-backup"],
  async run(context, options, operands): Promise<number> {
    const id = operands["job"]!;
    using client = await clientOfJob(id, "wait for");
    const { jobs } = await client.call("jobs", { id });
    return await followJob(context, client, jobs[0]!, { json: options.json, cancels: false });
  },
});
