/**
 * The methods of the control socket about jobs: what storage daemons do on live disks beside their guests' requests. A
 * method that starts a job answers once it has begun; `jobs` and the events tell of the rest.
 */

import { XenblkError } from "../errors.ts";
import type { LazyJobs } from "../jobs/door.ts";
import type { Disk } from "../storage/disk.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { deviceCheck } from "./device_check.ts";
import { addressOf, type ControlledProcess, type Handlers } from "./methods.ts";
import { FLAG, readParams, TEXT, whole, word } from "./params.ts";
import { inDaemon } from "./visiting.ts";

const BACKUP = {
  device: TEXT,
  target: TEXT,
  format: word(["qcow2", "raw"]),
  incremental: FLAG,
  bytesPerSecond: whole(0, Number.MAX_SAFE_INTEGER),
  scratch: TEXT,
} as const;

/** The methods by name. */
export function jobMethods(process: ControlledProcess): Handlers {
  const { jobs } = process;
  return {
    jobs: (params) => {
      const { device, id } = readParams("jobs", { device: TEXT, id: TEXT }, params);
      const all = jobs?.reports() ?? [];
      const isMeant = (value: string, wanted: string | undefined): boolean => wanted === undefined || value === wanted;
      return { jobs: all.filter((job) => isMeant(job.device, device) && isMeant(job.id, id)) };
    },
    backup: async (params) => {
      const { device, ...wanted } = readParams("backup", BACKUP, params, ["device", "target"]);
      addressOf(process.service, device);
      const { startBackup } = await import("../backup/start.ts");
      const { checkFree, findTarget } = await import("../backup/target.ts");
      await checkFree(await findTarget(wanted.target, wanted.format)); // before a raw disk enters its daemon
      const checkDevice = deviceCheck(process.platform, `the backup of ${device}`);
      return await inDaemon(process, device, `back up ${device}`, async () => {
        const { disk, jobs } = diskOf(process, device);
        return { job: await startBackup(await jobs.load(), { device, disk, ...wanted, checkDevice }) };
      });
    },
    jobCancel: async (params) => {
      const { id } = readParams("jobCancel", { id: TEXT }, params, ["id"]);
      const job = jobs?.reports().find((each) => each.id === id);
      if (job === undefined) {
        throw new XenblkError(`Cannot find job ${id}`, { kind: "not-found", remedy: "see `xenblk job list`" });
      }
      return { job: await (await jobs!.load()).cancel(id) };
    },
  };
}

/** The disk whose image is open, and the jobs. Throws {@linkcode XenblkError}. */
function diskOf(
  { service, jobs }: ControlledProcess,
  device: string,
): { readonly disk: Disk; readonly jobs: LazyJobs } {
  const address = addressOf(service, device);
  const disk = service.devices.heldBy(address)?.image?.disk;
  if (disk !== undefined && jobs !== undefined) return { disk, jobs };
  throw new XenblkError(`Cannot back up ${formatVdev(address.vdev)}: its image is not open at present`, {
    remedy: "see what it waits for with `xenblk show`",
  });
}
