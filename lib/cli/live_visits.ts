/**
 * The visits of a serving process's raw disks in storage daemons: how they enter and leave, and when that is looked at.
 */

import type { BackendKind } from "../backend/kind.ts";
import { isVisit } from "../backend/in_daemon.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { DomId } from "../hypervisor.ts";
import type { LazyJobs } from "../jobs/door.ts";
import { isActive } from "../jobs/job.ts";
import { type Pause, type VisitDisks, type VisitedDisk, Visits } from "../jobs/visits.ts";
import { createLogger } from "../log.ts";
import { absolutePath } from "../path_lookup.ts";
import type { Service } from "../service.ts";
import { type Disk, type DiskFile, filesOf } from "../storage/disk.ts";
import { type DeviceAddress, parseBackendPath } from "../xenbus/paths.ts";

/** How long a guest's requests may wait until another one serves the disk: less than it takes a guest to complain. */
const MOVE_MS = 20_000;

/** What is known of a process. */
export interface VisitsPlace {
  readonly service: Service;
  /** The process ends. */
  readonly ending: AbortSignal;
}

/** Starts to watch which disks can leave, once the jobs of earlier processes are known. */
export function startVisits({ service, ending }: VisitsPlace, jobs: LazyJobs): Visits {
  const { devices } = service;
  const logger = createLogger("jobs");
  const visits = new Visits({ disks: disksOf(service, jobs), logger, ending });
  const watch = async (): Promise<void> => {
    await devices.discovered;
    await jobs.begin();
    jobs.onChange((job) => {
      if (!isActive(job)) visits.check(job.device);
    });
    devices.onChange((path) => checkAt(devices, path, visits));
    for (const { backendPath } of devices.reports()) checkAt(devices, backendPath, visits);
  };
  void watch().catch((error) => logger.warning(errorText(error)));
  return visits;
}

/** Called for each look at each device. */
function checkAt(devices: BackendKind, path: string, visits: Visits): void {
  const held = devices.heldBy(addressAt(path));
  if (held?.image?.description.inDaemon === undefined) return;
  const label = devices.reportOf(path)?.label;
  if (label !== undefined) visits.check(label);
}

function addressAt(path: string): DeviceAddress {
  return parseBackendPath(path, 0 as DomId);
}

function disksOf(service: Service, jobs: LazyJobs): VisitDisks {
  const { devices } = service;
  const reportOf = (device: string) => devices.reports().find(({ label }) => label === device);
  return {
    look: (device): VisitedDisk | undefined => {
      const report = reportOf(device);
      const held = report && devices.heldBy(addressAt(report.backendPath));
      const image = held?.image;
      if (report === undefined || image === undefined) return undefined;
      const { connected, backendState, frontendState } = report;
      return {
        inDaemon: image.disk.daemon !== undefined,
        visits: isVisit(image.description, image.disk, held!.engine),
        used: connected && backendState === "Connected" && frontendState === "Connected",
      };
    },
    hasJob: (device) => jobs.active(device).length > 0,
    move: async (device, toDaemon) => {
      const report = reportOf(device);
      if (report === undefined) throw isGone(device);
      return await move(service, report.backendPath, device, toDaemon);
    },
  };
}

/** The daemon is started, and reaches the file, before the guest has to wait; it ends afterwards. */
async function move(service: Service, path: string, device: string, toDaemon: boolean): Promise<Pause> {
  const { devices, prepareDaemon } = service;
  const address = addressAt(path);
  const { disk, description: { guestUuid: uuid } = {} } = devices.heldBy(address)?.image ?? {};
  const owner = { guest: address.frontendDomain, device, ...(uuid === undefined ? {} : { uuid }) };
  if (toDaemon && prepareDaemon === undefined) {
    throw new XenblkError("Cannot start a storage daemon: this process has none", {
      remedy: "serve the disk by a process that runs on Xen",
    });
  }
  const files = toDaemon && disk !== undefined ? await realFiles(disk) : [];
  const preparing = prepareDaemon?.(owner, files);
  await using _running = toDaemon ? await preparing : await preparing?.catch(() => undefined);
  const present = devices.find(address);
  if (present === undefined) throw isGone(device);
  const { pausedMs = 0 } = await present.exchange({ daemon: toDaemon, timeoutMs: MOVE_MS });
  return { pausedMs };
}

/** As a daemon opens them. One that is not there any more is found out by those who open it. */
async function realFiles(disk: Disk): Promise<DiskFile[]> {
  const real = (path: string): Promise<string> => absolutePath(path).catch(() => path);
  return await Promise.all(filesOf(disk).map(async (file) => ({ ...file, path: await real(file.path) })));
}

function isGone(device: string): XenblkError {
  return new XenblkError(`Cannot find ${device}: it is gone`, { kind: "not-found" });
}
