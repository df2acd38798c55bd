/**
 * Opening the image of a device that is in InitWait already, and what the frontend and the toolstack are told then. A
 * toolstack waits for `hotplug-status`: it is written once the image is open, or once it is clear why it cannot be.
 */

import { STAYS_EMPTY } from "../xenbus/disc.ts";
import { isAbort } from "../abort.ts";
import { errorText, XenblkError } from "../errors.ts";
import { XenstoreError } from "../hypervisor.ts";
import { filesOf } from "../storage/disk.ts";
import { StorageSilentError } from "../storage/image/file_threads.ts";
import { ImageBusyError } from "../storage/image/lock.ts";
import { QmpAbsentError } from "../storage/qemu/silence.ts";
import { featureNodes, imageModeNodes } from "../xenbus/features.ts";
import { XenbusState } from "../xenbus/states.ts";
import type { Image, Outcome } from "../xenbus/transitions.ts";
import { type DeviceParts, isOthers, refuse, waitsForImage } from "./connect.ts";
import type { DeviceDescription } from "./description.ts";
import type { DeviceNodes, Observation } from "./device_nodes.ts";
import type { OpenImage } from "./resource_types.ts";
import { offerOf } from "./settings.ts";
import { OverdueError } from "./waits.ts";

/**
 * Opens the image that the nodes name, closing another one, and announces it. Called again, it goes on where it was. Ends
 * with an abort when the device has something else to look at meanwhile.
 */
export async function openImage(device: DeviceParts, nodes: DeviceNodes, seen: Observation): Promise<Outcome> {
  const { resources, settings } = device;
  try {
    if (isOthers(device)) return "done";
    const description = nodes.describe(settings.image);
    if (description === undefined) return "done";
    const isChange = !isOffered(seen) && device.announced !== undefined && description.cdrom;
    const image = isChange ? await changeDisc(device, nodes, description) : await resources.openImage(description);
    if (isOffered(seen)) {
      if (await isLocked(device, nodes)) return "busy";
      if (!announce(device, nodes, seen, image)) return "done";
    }
    device.announced = { disk: image.disk, params: seen.params };
    return "done";
  } catch (reason) {
    return await refuse(device, nodes, reason, true);
  }
}

/** Opens the disc for a guest that uses the drive. If it cannot be, the drive is empty: its requests must be answered. */
async function changeDisc(
  { resources, error, log }: DeviceParts,
  nodes: DeviceNodes,
  description: DeviceDescription,
): Promise<OpenImage> {
  try {
    const image = await resources.openImage(description).catch((reason) => {
      if (!(reason instanceof QmpAbsentError)) throw reason;
      return resources.openImage(description); // its storage daemon died meanwhile; another one takes its place
    });
    error.retract(nodes, "disc");
    log.info(`the drive has ${image.disk.description}`);
    return image;
  } catch (reason) {
    const isTemporary = reason instanceof OverdueError || reason instanceof StorageSilentError || isAbort(reason);
    if (isTemporary || reason instanceof XenstoreError) throw reason;
    error.report(nodes, "disc", `${errorText(reason)}; ${STAYS_EMPTY}`);
    return resources.openEmptyDrive(description);
  }
}

/** The image, and whether the nodes name the same. */
export function imageSeen({ resources, announced, settings }: DeviceParts, { params }: Observation): Image {
  const disk = resources.image?.disk;
  if (disk === undefined) return "none";
  return announced?.disk === disk && (settings.image !== undefined || announced.params === params) ? "open" : "changed";
}

/** The frontend has not been served yet. One that was relies on what it has read. */
function isOffered({ backendState }: Observation): boolean {
  return backendState === XenbusState.InitWait || backendState === XenbusState.Initialised;
}

/**
 * Whether another process holds the image's lock; then that is reported, and nothing is
 * announced yet. Rejects if another guest of this
 * host has the image, which is no use waiting for, whether its backend takes locks or not. A later lock is found when
 * the frontend connects.
 */
async function isLocked(device: DeviceParts, nodes: DeviceNodes): Promise<boolean> {
  const { resources, error } = device;
  await refuseOtherGuest(device, resources.image!);
  try {
    await resources.checkImage();
    return false;
  } catch (reason) {
    if (!(reason instanceof ImageBusyError)) throw reason;
    error.report(nodes, "attempt", waitsForImage(reason));
    return true;
  }
}

/** Rejects with {@linkcode XenblkError} if another guest excludes the use. The image stays open. */
export async function refuseOtherGuest({ findOtherGuest }: DeviceParts, image: OpenImage): Promise<void> {
  const { disk, description: { shared } } = image;
  const other = await findOtherGuest({ files: filesOf(disk), shared });
  if (other === undefined) return;
  const { file: { path, writable }, text } = other;
  throw new XenblkError(`Cannot ${writable ? "write to" : "read"} image ${path}: ${text}`, {
    remedy: writable
      ? "detach it there first, or attach it with mode w! on both sides if its file system may be shared"
      : "detach it there first, or attach it read-only there too",
  });
}

/** False if the state has changed. */
function announce(
  { settings, error, log }: DeviceParts,
  nodes: DeviceNodes,
  seen: Observation,
  { disk, description }: OpenImage,
): boolean {
  const features = [
    ...featureNodes(offerOf(settings, disk.properties, description.discardEnable)),
    ...imageModeNodes(disk.imageReadOnly === true && !description.readOnly),
  ];
  if (!nodes.opened(seen.backendState, features, error.clear("attempt"))) return false;
  const kind = description.cdrom ? ", cdrom" : "";
  log.info(`offering ${disk.description} as ${description.name}${kind}`);
  return true;
}
