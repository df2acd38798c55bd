/**
 * The jobs of a process that serves: of the disks that it has open in storage daemons, with what each kind of job does at
 * its end.
 */

import { errorText } from "../errors.ts";
import type { DomId } from "../hypervisor.ts";
import { LazyJobs } from "../jobs/door.ts";
import type { JobKinds } from "../jobs/job.ts";
import { jobsDirectory } from "../jobs/records.ts";
import { journalDirectory } from "../journal_directory.ts";
import { createLogger } from "../log.ts";
import type { Service } from "../service.ts";
import { parseBackendPath } from "../xenbus/paths.ts";

/** By the names that their records have. */
const KINDS: JobKinds = {
  // What it has done is done before it is over.
  commit: () => Promise.resolve({ end: () => Promise.resolve(undefined) }),
};

/** What is known of a process. */
export interface JobsPlace {
  readonly service: Service;
  /** The backend kind, such as `vbd3`. */
  readonly kind: string;
  /** All devices of the kind are served here. */
  readonly servesAll: boolean;
}

/** Starts to watch what earlier processes have left, once the devices are known. */
export function startJobs({ service: { devices }, kind, servesAll }: JobsPlace): LazyJobs {
  const logger = createLogger("jobs");
  const reportOf = (label: string) => devices.reports().find((report) => report.label === label);
  const jobs = new LazyJobs({
    directory: jobsDirectory(journalDirectory((name) => Deno.env.get(name))),
    logger,
    kinds: KINDS,
    disks: {
      daemonOf: (label) => {
        const report = reportOf(label);
        if (report === undefined) return undefined;
        return devices.heldBy(parseBackendPath(report.backendPath, 0 as DomId))?.image?.disk.daemon;
      },
      isForeign: (label) =>
        reportOf(label)?.owned === false || !servesAll && reportOf(label) === undefined ||
        !label.startsWith(`${kind}/`),
    },
  });
  void devices.discovered.then(() => jobs.begin()).catch((error) => logger.warning(errorText(error)));
  return jobs;
}
