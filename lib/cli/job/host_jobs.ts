/**
 * The jobs of all serving processes of this host, by their control sockets.
 */

import { ControlClient } from "../../control/client.ts";
import { ASK_MS, askEach, hostControlDirectory } from "../../control/serving.ts";
import { XenblkError } from "../../errors.ts";
import { isActive, type JobReport } from "../../jobs/job.ts";
import { formatVdev } from "../../xenbus/vdev.ts";
import { Silent } from "../silent.ts";

/** A job, and the process that watches it. */
export interface HostJob {
  readonly job: JobReport;
  readonly pid: number;
  /** Its socket. */
  readonly path: string;
  /** Of the disk, for people: `web xvda`. */
  readonly disk: string;
}

/** All of them; a process that does not answer is told of. */
export async function hostJobs(silent: Silent): Promise<HostJob[]> {
  const found = await askEach(hostControlDirectory(), async (client, { path, hello: { pid } }) => {
    // An earlier version of xenblk has no jobs.
    const { jobs } = await client.call("jobs", {}, { timeoutMs: ASK_MS }).catch(() => ({ jobs: [] }));
    if (jobs.length === 0) return [];
    const { devices } = await client.call("status", {}, { timeoutMs: ASK_MS });
    const names = new Map(devices.map(({ label, guest, domain, vdev }) => [
      label,
      `${guest ?? domain} ${formatVdev(vdev)}`,
    ]));
    return jobs.map((job): HostJob => ({ job, pid, path, disk: names.get(job.device) ?? job.device }));
  }, silent.note);
  return found.flat();
}

/** A connection to the process that watches that job. Rejects with {@linkcode XenblkError} (`not-found`). */
export async function clientOfJob(id: string, verb: string): Promise<ControlClient> {
  const silent = new Silent();
  const found = (await hostJobs(silent)).filter(({ job }) => job.id === id);
  const [first] = found;
  const client = first === undefined ? undefined : await ControlClient.connect(first.path);
  if (client !== undefined) return client;
  if (!silent.isEmpty) throw silent.error(`Cannot ${verb} job ${id}`);
  throw new XenblkError(`Cannot ${verb} job ${id}: no process of xenblk has one of that name`, {
    kind: "not-found",
    remedy: "see `xenblk job list`",
  });
}

/** The names of those that are not over. */
export async function jobNames(): Promise<string[]> {
  return (await hostJobs(new Silent())).filter(({ job }) => isActive(job)).map(({ job }) => job.id);
}
