/**
 * The jobs of a process that serves: of the disks that it has open in storage daemons, with what each kind of job does at
 * its end.
 */

import { SYSTEM_CLOCK } from "../clock.ts";
import type { BackendKind } from "../backend/kind.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { DomId } from "../hypervisor.ts";
import { LazyJobs } from "../jobs/door.ts";
import type { JobKind, JobKinds } from "../jobs/job.ts";
import type { MirrorDisks } from "../jobs/mirror.ts";
import { jobsDirectory } from "../jobs/records.ts";
import { journalDirectory } from "../journal_directory.ts";
import { createLogger } from "../log.ts";
import type { Service } from "../service.ts";
import { type DeviceAddress, parseBackendPath } from "../xenbus/paths.ts";

/** How long a disk that an earlier process has served may take to open, and between two looks. */
const OPEN_MS = 30_000;
const OPEN_LOOK_MS = 100;

/** By the names that their records have. */
function kindsOf(devices: BackendKind): JobKinds {
  const addressOf = (label: string) => addressIn(devices, label);
  const disks: MirrorDisks = {
    exchange: async (label, switchover) => {
      const address = addressOf(label);
      const device = address && devices.find(address);
      if (device === undefined) throw new XenblkError(`Cannot give ${label} its new image: it is gone`);
      return await device.exchange(switchover);
    },
    paramsOf: async (label) => {
      for (let lookMs = 0; lookMs < OPEN_MS; lookMs += OPEN_LOOK_MS) {
        const address = addressOf(label);
        const image = address && devices.heldBy(address)?.image;
        if (address === undefined || image !== undefined) return image?.description.params;
        await SYSTEM_CLOCK.sleep(OPEN_LOOK_MS);
      }
      return undefined;
    },
  };
  let mirror: JobKind | undefined;
  return {
    commit: async () => (await import("../jobs/commit.ts")).commitKind,
    backup: async () => (await import("../backup/kind.ts")).backupKind,
    mirror: async () => mirror ??= (await import("../jobs/mirror.ts")).mirrorKind(disks),
  };
}

function addressIn(devices: BackendKind, label: string): DeviceAddress | undefined {
  const report = devices.reports().find((report) => report.label === label);
  return report === undefined ? undefined : parseBackendPath(report.backendPath, 0 as DomId);
}

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
  const addressOf = (label: string) => addressIn(devices, label);
  const imageOf = (label: string) => {
    const address = addressOf(label);
    return address && devices.heldBy(address)?.image;
  };
  const jobs = new LazyJobs({
    directory: jobsDirectory(journalDirectory((name) => Deno.env.get(name))),
    logger,
    kinds: kindsOf(devices),
    disks: {
      daemonOf: (label) => imageOf(label)?.disk.daemon,
      isWithoutDaemon: (label) => {
        const image = imageOf(label);
        return reportOf(label) === undefined || image !== undefined && image.disk.daemon === undefined;
      },
      isExchanging: (label) => {
        const address = addressOf(label);
        return address !== undefined && devices.find(address)?.isExchanging === true;
      },
      isForeign: (label) =>
        reportOf(label)?.owned === false || !servesAll && reportOf(label) === undefined ||
        !label.startsWith(`${kind}/`),
    },
  });
  void devices.discovered.then(() => jobs.begin()).catch((error) => logger.warning(errorText(error)));
  return jobs;
}
