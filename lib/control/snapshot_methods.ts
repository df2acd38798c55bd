/**
 * The methods of the control socket about snapshots of disks that a storage daemon serves. What takes and merges them is
 * loaded with the first call.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { JobReport } from "../jobs/job.ts";
import type { Pause } from "../jobs/visits.ts";
import { createLogger, type Logger } from "../log.ts";
import type { Service } from "../service.ts";
import type { DaemonImage, Disk } from "../storage/disk.ts";
import { imageName, parseParams } from "../storage/image/spec.ts";
import type { SnapshotDisk } from "../storage/qemu/overlay_create.ts";
import type { PlannedMerge } from "../storage/qemu/overlay_delete.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { addressOf, type ControlledProcess, type Handlers } from "./methods.ts";
import { list, readParams, TEXT, whole } from "./params.ts";
import type { Methods } from "./protocol.ts";

type Params = Readonly<Record<string, unknown>>;

const ANY = whole(1, Number.MAX_SAFE_INTEGER);
const MERGE = { device: TEXT, snapshot: TEXT, bytesPerSecond: ANY };

/** The methods by name. */
export function snapshotMethods(process: ControlledProcess): Handlers {
  const { service } = process;
  return {
    snapshotCreate: async (params) => await create(process, params),
    snapshots: async (params) => {
      const { device } = readParams("snapshots", { device: TEXT }, params, ["device"]);
      const image = await imageOf(openDiskOf(service, device));
      const { describeChain } = await import("../storage/qemu/overlay_chain.ts");
      return await describeChain(image);
    },
    snapshotCommit: async (params) => {
      const { device, ...wanted } = readParams("snapshotCommit", MERGE, params, ["device"]);
      const disk = diskOf(service, device);
      const { planMerge } = await import("../storage/qemu/overlay_commit.ts");
      return { job: (await begin(process, device, disk, await planMerge(disk, wanted))).job };
    },
    snapshotDelete: async (params) => {
      const { device, ...wanted } = readParams("snapshotDelete", MERGE, params, ["device", "snapshot"]);
      const disk = diskOf(service, device);
      const { planDeletion } = await import("../storage/qemu/overlay_delete.ts");
      return { job: (await begin(process, device, disk, await planDeletion(disk, wanted))).job };
    },
  };
}

async function create(process: ControlledProcess, params: Params): Promise<Methods["snapshotCreate"]["result"]> {
  const { service, visits } = process;
  const table = { devices: list(TEXT), snapshot: TEXT, keep: ANY, bytesPerSecond: ANY };
  const { devices, snapshot, keep, ...rate } = readParams("snapshotCreate", table, params, ["devices", "snapshot"]);
  if (devices.length === 0 || new Set(devices).size < devices.length) {
    throw new XenblkError("Cannot take a snapshot: `devices` names no disk, or one twice", { kind: "usage" });
  }
  for (const device of devices) {
    await visits?.settled(device);
    checkIdle(process, device);
  }
  const { checkSnapshot, takeSnapshot } = await import("../storage/qemu/overlay_create.ts");
  // Before a guest has to wait until its disk has entered.
  const open = devices.map((device) => openDiskOf(service, device));
  await checkSnapshot(snapshot, await Promise.all(open.map(async (disk) => ({ ...disk, image: await imageOf(disk) }))));
  using held = new DisposableStack();
  const entered: (Pause | undefined)[] = [];
  for (const device of devices) {
    entered.push(held.use(await visits?.enter(device, `take a snapshot of ${device}`))?.entered);
  }
  const taken = await takeSnapshot(devices.map((device) => diskOf(service, device)), { snapshot });
  const disks = taken.disks.map((disk, at) => {
    const pause = entered[at];
    return { device: devices[at]!, ...disk, ...(pause === undefined ? {} : { entered: pause }) };
  });
  const shortened = keep === undefined ? { jobs: [], warnings: [] } : await shorten(process, devices, keep, rate);
  return { ...taken, disks, ...shortened };
}

/** What QEMU refuses an overlay during, and in which words. */
const EXCLUDING: ReadonlyMap<string, string> = new Map([
  ["commit", "its snapshots are being merged"],
  ["mirror", "it is being mirrored"],
]);

function checkIdle({ service, jobs }: ControlledProcess, device: string): void {
  const { name } = openDiskOf(service, device);
  const job = jobs?.active(device).find(({ kind }) => EXCLUDING.has(kind));
  if (job === undefined) return;
  throw new XenblkError(`Cannot take a snapshot of ${name}: ${EXCLUDING.get(job.kind)}`, {
    remedy: `wait for that (\`xenblk job wait ${job.id}\`), or end it (\`xenblk job cancel ${job.id}\`)`,
  });
}

/** Begins to give up the oldest snapshots of each disk that has more. What cannot begin does not undo the new snapshot. */
async function shorten(
  process: ControlledProcess,
  devices: readonly string[],
  keep: number,
  rate: { readonly bytesPerSecond?: number },
): Promise<Pick<Methods["snapshotCreate"]["result"], "jobs" | "warnings">> {
  const jobs: JobReport[] = [];
  const warnings: string[] = [];
  for (const device of devices) {
    const next = async (): Promise<BegunMerge | undefined> => await beginOldest(process, device, keep, rate);
    try {
      const first = await next();
      if (first === undefined) continue;
      jobs.push(first.job);
      void goOn(first, next).catch((error) => logger().warning(errorText(error)));
    } catch (error) {
      warnings.push(errorText(error));
    }
  }
  return { jobs, warnings };
}

/** One after the other, as long as each succeeds. */
async function goOn(first: BegunMerge, next: () => Promise<BegunMerge | undefined>): Promise<void> {
  for (let merge: BegunMerge | undefined = first; merge !== undefined && await merge.succeeded;) merge = await next();
}

async function beginOldest(
  process: ControlledProcess,
  device: string,
  keep: number,
  rate: { readonly bytesPerSecond?: number },
): Promise<BegunMerge | undefined> {
  const disk = diskOf(process.service, device);
  const { describeChain } = await import("../storage/qemu/overlay_chain.ts");
  const { snapshots } = await describeChain(disk.daemon.image);
  if (snapshots.length <= keep) return undefined;
  const { planDeletion } = await import("../storage/qemu/overlay_delete.ts");
  return await begin(process, device, disk, await planDeletion(disk, rate));
}

/** A merge that is a job. */
interface BegunMerge {
  readonly job: JobReport;
  /** Resolves, never rejects, once the job is over. */
  readonly succeeded: Promise<boolean>;
}

/** The job goes on when the client has gone. */
async function begin(
  { jobs }: ControlledProcess,
  device: string,
  { daemon }: SnapshotDisk,
  merge: PlannedMerge,
): Promise<BegunMerge> {
  if (jobs === undefined) throw new XenblkError("Cannot merge snapshots: this process has no jobs");
  const loaded = await jobs.load();
  let merged = false;
  const job = await loaded.start({
    kind: "commit",
    device,
    daemon,
    target: merge.base,
    details: { base: merge.base, overlay: merge.overlay },
    begin: async (monitor) => await merge.begin(monitor),
    follow: async () => {
      const { image, pauseMs } = await merge.follow();
      merged = true;
      logger().info(`${device}: its image is ${image}; requests waited ${Math.ceil(pauseMs)} ms`);
    },
  });
  const ended = loaded.ended(job.id).then(({ state }) => state === "completed", () => true); // it is over already
  const succeeded = async (): Promise<boolean> => {
    const completed = await ended;
    await merge.tidy();
    return completed && merged;
  };
  return { job, succeeded: succeeded() };
}

function logger(): Logger {
  return createLogger("jobs");
}

/** An open disk that can be written to, and its name. */
interface OpenDisk {
  readonly disk: Disk;
  readonly name: string;
  /** As its node names the image. */
  readonly params: string;
}

/** Throws {@linkcode XenblkError} if it is not open, or cannot be written to. */
function openDiskOf(service: Service, device: string): OpenDisk {
  const address = addressOf(service, device);
  const name = `${formatVdev(address.vdev)} of domain ${address.frontendDomain}`;
  const { disk, description } = service.devices.heldBy(address)?.image ?? {};
  if (disk === undefined) throw refusal(name, "its image is not open", "see `xenblk show`");
  if (disk.properties.readOnly || disk.imageReadOnly === true) {
    throw refusal(name, "its guest's writes do not reach the image", "copy the image itself: nothing changes it");
  }
  return { disk, name, params: description!.params };
}

/** The image, whoever serves it. */
async function imageOf({ disk: { daemon }, params }: OpenDisk): Promise<DaemonImage | undefined> {
  return daemon === undefined ? imageName(await parseParams(params)) : daemon.image;
}

/** The same; throws also if no storage daemon serves it. */
function diskOf(service: Service, device: string): SnapshotDisk {
  const { disk: { daemon, description }, name } = openDiskOf(service, device);
  if (daemon !== undefined) return { daemon, name };
  throw refusal(name, `no storage daemon serves ${description}`, "take one first: `xenblk snapshot create`");
}

function refusal(name: string, why: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot use snapshots of ${name}: ${why}`, { remedy });
}
