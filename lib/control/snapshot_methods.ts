/**
 * The methods of the control socket about snapshots of disks that a storage daemon serves. What takes and merges them is
 * loaded with the first call.
 */

import { errorText, XenblkError } from "../errors.ts";
import { createLogger } from "../log.ts";
import type { Pause } from "../jobs/visits.ts";
import type { Service } from "../service.ts";
import type { Disk } from "../storage/disk.ts";
import type { SnapshotDisk } from "../storage/qemu/overlay_create.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { addressOf, type ControlledProcess, type Handlers } from "./methods.ts";
import { list, readParams, TEXT, whole } from "./params.ts";
import type { Methods } from "./protocol.ts";

type Params = Readonly<Record<string, unknown>>;

/** The methods by name. */
export function snapshotMethods(process: ControlledProcess): Handlers {
  const { service } = process;
  return {
    snapshotCreate: async (params) => await create(process, params),
    snapshots: async (params) => {
      const { device } = readParams("snapshots", { device: TEXT }, params, ["device"]);
      const { daemon: { image } } = diskOf(service, device);
      const { describeChain } = await import("../storage/qemu/overlay_chain.ts");
      return await describeChain(image);
    },
    snapshotCommit: async (params) => await commit(process, params),
  };
}

async function create(process: ControlledProcess, params: Params): Promise<Methods["snapshotCreate"]["result"]> {
  const { service, visits } = process;
  const table = { devices: list(TEXT), snapshot: TEXT };
  const { devices, snapshot } = readParams("snapshotCreate", table, params, ["devices", "snapshot"]);
  if (devices.length === 0 || new Set(devices).size < devices.length) {
    throw new XenblkError("Cannot take a snapshot: `devices` names no disk, or one twice", { kind: "usage" });
  }
  for (const device of devices) {
    await visits?.settled(device);
    openDiskOf(service, device);
  }
  const { takeSnapshot } = await import("../storage/qemu/overlay_create.ts");
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
  return { ...taken, disks };
}

/** The job goes on when the client has gone. */
async function commit(
  { service, jobs }: ControlledProcess,
  params: Params,
): Promise<Methods["snapshotCommit"]["result"]> {
  const table = { device: TEXT, snapshot: TEXT, bytesPerSecond: whole(1, Number.MAX_SAFE_INTEGER) };
  const { device, ...wanted } = readParams("snapshotCommit", table, params, ["device"]);
  const disk = diskOf(service, device);
  if (jobs === undefined) throw new XenblkError("Cannot merge snapshots: this process has no jobs");
  const { planMerge } = await import("../storage/qemu/overlay_commit.ts");
  const merge = await planMerge(disk, wanted);
  const job = await (await jobs.load()).start({
    kind: "commit",
    device,
    daemon: disk.daemon,
    target: merge.base,
    details: {},
    begin: async (monitor) => await merge.begin(monitor),
  });
  const logger = createLogger("jobs");
  void merge.follow().then(
    ({ image, pauseMs }) => logger.info(`${device}: its image is ${image}; requests waited ${Math.ceil(pauseMs)} ms`),
    (error) => logger.warning(errorText(error)),
  );
  return { job };
}

/** An open disk that can be written to, and its name. */
interface OpenDisk {
  readonly disk: Disk;
  readonly name: string;
}

/** Throws {@linkcode XenblkError} if it is not open, or cannot be written to. */
function openDiskOf(service: Service, device: string): OpenDisk {
  const address = addressOf(service, device);
  const name = `${formatVdev(address.vdev)} of domain ${address.frontendDomain}`;
  const disk = service.devices.heldBy(address)?.image?.disk;
  if (disk === undefined) throw refusal(name, "its image is not open", "see `xenblk show`");
  if (disk.properties.readOnly || disk.imageReadOnly === true) {
    throw refusal(name, "its guest's writes do not reach the image", "copy the image itself: nothing changes it");
  }
  return { disk, name };
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
