/**
 * When a disk can get another image under its guest, and which image: what the guest was told of the disk must still hold.
 * Each refusal says what to do.
 */

import { XenblkError } from "../errors.ts";
import { formatSize } from "../sizes.ts";
import type { DiskProperties, EngineName } from "../storage/disk.ts";
import { findImage, imageContext } from "../storage/daemon_disk.ts";
import { filesOf } from "../storage/disk.ts";
import { isFile, needsDaemon } from "../storage/image/formats.ts";
import { activeImage } from "../storage/image/overlay_note.ts";
import { imageLabel, type ImageName, imageName, parseParams } from "../storage/image/spec.ts";
import type { ImageInfo, ImageInspector } from "../storage/qemu/image_info.ts";
import { mediumAt, overlap, PATH_LOOKUPS } from "../toolstack/medium.ts";
import { SECTOR_BYTES } from "../units.ts";
import type { Offer } from "../xenbus/features.ts";
import { XenbusState } from "../xenbus/states.ts";
import type { DeviceParts } from "./connect.ts";
import type { DeviceDescription } from "./description.ts";
import type { Observation } from "./device_nodes.ts";
import type { OpenImage } from "./resource_types.ts";

const TOO_SMALL = "make it at least as large as the disk: a disk cannot shrink under its guest";

/** Throws {@linkcode XenblkError} unless the guest uses the disk, and its image, or who serves it, can be replaced. */
export function checkExchangeable(
  { resources, settings, announced }: DeviceParts,
  seen: Observation,
  { params }: { readonly params?: string },
): void {
  const { image, ring, latch, failure, filters, lock } = resources;
  const isUsed = seen.backendState === XenbusState.Connected && seen.frontendState === XenbusState.Connected;
  if (!isUsed || ring !== "served" || image === undefined || lock.owner !== "us" || resources.changing) {
    throw refusal("the guest is not connected to the disk, or something of it is changing", "try it again once it is");
  }
  if (settings.image !== undefined && params !== undefined) {
    throw refusal("its image was named by --image, and a restart would serve that one", "restart serve with another");
  }
  if (announced?.params !== seen.params) {
    throw refusal("its node params names another image than the one that is served", "write that node back first");
  }
  if (latch.tripped || failure !== undefined) {
    throw refusal("a flush of it has failed, so its image may lack answered writes", "detach it and attach it anew");
  }
  const { tied } = filters;
  if (tied !== undefined) throw refusal(`its filter ${tied} belongs to the image`, "attach it without that filter");
}

/** Throws {@linkcode XenblkError} unless the image can take the place of the one that the guest uses. */
export function checkFits(old: OpenImage, next: OpenImage, offer: Offer, queues: number): void {
  const { properties: was } = old.disk;
  const { properties: is } = next.disk;
  if (is.sectors < was.sectors) {
    const sizes = `it has ${size(is)}, and the disk has ${size(was)}`;
    throw unfit(next, sizes, TOO_SMALL);
  }
  if (was.logicalSectorBytes % is.logicalSectorBytes !== 0) {
    const sectors = `its sectors have ${is.logicalSectorBytes} bytes, and the guest was told ${was.logicalSectorBytes}`;
    throw unfit(next, sectors, "use an image with such sectors, or detach the disk and attach it with this image");
  }
  if (is.readOnly && !was.readOnly) {
    throw unfit(next, "it is read-only, and the guest writes to the disk", "use an image that can be written to");
  }
  if (!offer.flushCache && !is.readOnly && is.cache !== "writethrough") {
    const why = "the guest was told that it need not flush, and writes to this image are not durable without";
    throw unfit(next, why, "attach the disk anew with this image");
  }
  if (queues > (is.mostChannels ?? Infinity)) {
    throw unfit(next, `it takes ${is.mostChannels} rings, and the guest has ${queues}`, "attach it with fewer queues");
  }
  if (old.disk.volatile !== undefined || next.disk.volatile !== undefined) {
    throw unfit(next, "what is written to it, or to the present image, ends with this process", "use images in files");
  }
}

/** Throws {@linkcode XenblkError} if a storage daemon finds another size: what has entered it could not leave it again. */
export function checkSameSize(old: OpenImage, next: OpenImage): void {
  const [was, is] = [old, next].map(({ disk }) => disk.properties.sectors);
  if (was === is) return;
  throw unfit(next, `it has ${is} sectors there, and the disk has ${was}`, "make both alike, with `xenblk resize`");
}

/**
 * Throws {@linkcode XenblkError} unless an image that a daemon is to open later can take the place of this one, as far as its
 * header says, which is read without a lock.
 */
export async function checkHeader(
  old: OpenImage,
  { params, readOnly, shared }: DeviceDescription,
  { allowImages, engine }: DeviceParts["settings"],
): Promise<void> {
  const name = imageName(await parseParams(params));
  const { inspector, ...context } = imageContext();
  let first: ImageInfo | undefined;
  const inspect: ImageInspector["inspect"] = async (tree, label) => {
    const info = await inspector.inspect(tree, label);
    first ??= info;
    return info;
  };
  await findImage({ ...name, readOnly, shared, allowImages, engine }, { ...context, inspector: { inspect } });
  const need = old.disk.properties.sectors * SECTOR_BYTES;
  const have = first?.sizeBytes ?? need;
  if (have >= need) return;
  throw new XenblkError(
    `Cannot swap to image ${imageLabel(name)}: it has ${formatSize(have)}, and the disk has ${formatSize(need)}`,
    {
      remedy: TOO_SMALL,
    },
  );
}

/** What the guest relies on and the image lacks, though requests are still answered as the protocol has it. */
export function lacks(next: OpenImage, offer: Offer): string | undefined {
  return offer.discard === undefined || next.disk.properties.discard !== undefined
    ? undefined
    : "it takes no discards: the guest is told so when it sends one";
}

/**
 * Whether both images can be open at a time: not two in the daemon of one device, and not one file or device twice, which
 * its lock forbids.
 */
export async function canBothBeOpen(
  old: OpenImage,
  { params, readOnly }: DeviceDescription,
  engine: EngineName,
): Promise<boolean> {
  const next = await activeImage(imageName(await parseParams(params)), !readOnly);
  const present = imageName(await parseParams(old.description.params));
  const isByDaemon = (image: ImageName): boolean => engine === "qemu" || needsDaemon(image);
  if ((old.disk.daemon !== undefined || isByDaemon(present)) && isByDaemon(next)) return false;
  if (next.format === "json" || present.format === "json") return false; // it may name any file
  if (!isFile(next)) return true;
  const medium = await mediumAt(next.target, PATH_LOOKUPS);
  if (medium === undefined) return true; // opening it says why
  const media = await Promise.all(filesOf(old.disk).map(({ path }) => mediumAt(path, PATH_LOOKUPS)));
  return !media.some((other) => other !== undefined && overlap(medium, other));
}

/** The text of the node `physical-device`, if the image is a block device. */
export async function physicalDevice(params: string): Promise<{ numbers: string; path: string } | undefined> {
  const image = imageName(await parseParams(params));
  if (!isFile(image)) return undefined;
  const numbers = /^device (.+)$/.exec((await mediumAt(image.target, PATH_LOOKUPS))?.key ?? "");
  return numbers === null ? undefined : { numbers: numbers[1]!, path: image.target };
}

function size({ sectors }: DiskProperties): string {
  return formatSize(sectors * SECTOR_BYTES);
}

function unfit({ disk }: OpenImage, why: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot swap to ${disk.description}: ${why}`, { remedy });
}

function refusal(why: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot swap the image of this disk: ${why}`, { remedy });
}
