/**
 * The methods of the control socket about snapshots of disks that a storage daemon serves. What takes and merges them is
 * loaded with the first call.
 */

import { errorText, XenblkError } from "../errors.ts";
import { createLogger } from "../log.ts";
import type { Service } from "../service.ts";
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
    snapshotCreate: async (params) => await create(service, params),
    snapshots: async (params) => {
      const { device } = readParams("snapshots", { device: TEXT }, params, ["device"]);
      const { daemon: { image } } = diskOf(service, device);
      const { describeChain } = await import("../storage/qemu/overlay_chain.ts");
      return await describeChain(image);
    },
    snapshotCommit: async (params) => await commit(process, params),
  };
}

async function create(service: Service, params: Params): Promise<Methods["snapshotCreate"]["result"]> {
  const table = { devices: list(TEXT), snapshot: TEXT };
  const { devices, snapshot } = readParams("snapshotCreate", table, params, ["devices", "snapshot"]);
  if (devices.length === 0 || new Set(devices).size < devices.length) {
    throw new XenblkError("Cannot take a snapshot: `devices` names no disk, or one twice", { kind: "usage" });
  }
  const disks = devices.map((device) => diskOf(service, device));
  const { takeSnapshot } = await import("../storage/qemu/overlay_create.ts");
  const taken = await takeSnapshot(disks, { snapshot });
  return { ...taken, disks: taken.disks.map((disk, at) => ({ device: devices[at]!, ...disk })) };
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
  const logger = createLogger("jobs");
  const job = await (await jobs.load()).start({
    kind: "commit",
    device,
    daemon: disk.daemon,
    target: merge.base,
    details: { base: merge.base, overlay: merge.newest },
    begin: async (monitor) => await merge.begin(monitor),
    follow: async () => {
      await merge.follow().then(
        ({ image, pauseMs }) =>
          logger.info(`${device}: its image is ${image}; requests waited ${Math.ceil(pauseMs)} ms`),
        (error) => logger.warning(errorText(error)),
      );
    },
  });
  return { job };
}

/** Throws {@linkcode XenblkError} if no storage daemon serves it, or it cannot be written to. */
function diskOf(service: Service, device: string): SnapshotDisk {
  const address = addressOf(service, device);
  const name = `${formatVdev(address.vdev)} of domain ${address.frontendDomain}`;
  const refusal = (why: string, remedy: string): XenblkError =>
    new XenblkError(`Cannot use snapshots of ${name}: ${why}`, { remedy });
  const disk = service.devices.heldBy(address)?.image?.disk;
  if (disk === undefined) throw refusal("its image is not open", "see `xenblk show`");
  const { daemon, properties, imageReadOnly } = disk;
  if (daemon === undefined) {
    throw refusal(
      `no storage daemon serves ${disk.description}`,
      'attach it with --engine qemu (or engine = "qemu" in the configuration file), or use a qcow2 image',
    );
  }
  if (properties.readOnly || imageReadOnly === true) {
    throw refusal("its guest's writes do not reach the image", "copy the image itself: nothing changes it");
  }
  return { daemon, name };
}
