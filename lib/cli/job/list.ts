/**
 * `xenblk job list`: shows what storage daemons do on live disks beside their guests' requests, and how the last job of
 * each kind ended.
 */

import { flag } from "../options.ts";
import { Silent } from "../silent.ts";
import { defineVerb } from "../verb.ts";
import type { Context } from "../verb.ts";
import { hostJobs } from "./host_jobs.ts";
import { renderJobs } from "./text.ts";

/** The verb. */
export const listJobs = defineVerb({
  name: "job list",
  summary: "Show the jobs of live disks: backups and the like, and how far they are",
  description:
    "Asks all processes of xenblk that serve disks. The last job of each kind that a disk has had stays in the list for " +
    "a week, with how it ended.",
  operands: [],
  options: {
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions: "--allow-env --allow-read --allow-write --allow-net, read and write limited to /run/xenblk.",
  examples: ["xenblk job list", "xenblk job list --json"],
  async run(context, options): Promise<number> {
    return await showJobs(context, options.json, !options["no-headings"]);
  },
});

/** Shows them. Resolves with the exit status of the verb. */
export async function showJobs({ output, inform }: Context, json: boolean, headings: boolean): Promise<number> {
  const silent = new Silent();
  const jobs = await hostJobs(silent);
  if (!silent.isEmpty) inform(`${silent.line}; its jobs are not shown`);
  if (json) output.json(jobs.map(({ job, pid }) => ({ ...job, pid })));
  else {
    const names = new Map(jobs.map(({ job, disk }) => [job.device, disk]));
    const nameOf = (device: string): string => names.get(device) ?? device;
    output.data(renderJobs(jobs.map(({ job }) => job), nameOf, headings, output.columns));
  }
  return 0;
}
