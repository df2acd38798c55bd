/**
 * What storage is asked for when the image of a device is opened: the image that the toolstack or the operator has named, and
 * what each of them may name.
 */

import { XenblkError } from "../errors.ts";
import { ENOENT } from "../errno.ts";
import type { Disk, DiskOwner, DiskRequest } from "../storage/disk.ts";
import { errnoOf } from "../storage/errno.ts";
import { enginesFor, isFile } from "../storage/image/formats.ts";
import { imageName, imageText, parseParams } from "../storage/image/spec.ts";
import { literalPattern } from "../storage/qemu/allow.ts";
import type { DeviceFilters } from "./device_filters.ts";
import type { DeviceDescription } from "./description.ts";
import type { DeviceSettings } from "./settings.ts";

/**
 * Opens the image that a device's nodes, or the settings in their place, name, behind its filters. Rejects with the
 * reason.
 */
export async function openDescribed(
  description: DeviceDescription,
  settings: DeviceSettings,
  owner: DiskOwner,
  filters: DeviceFilters,
  openDisk: (request: DiskRequest) => Promise<Disk>,
): Promise<Disk> {
  const readOnly = description.readOnly || settings.readOnly;
  return await filters.open(
    description.params,
    readOnly,
    (readOnly) => openImage(description, { ...settings, readOnly }, owner, openDisk),
  );
}

async function openImage(
  description: DeviceDescription,
  settings: DeviceSettings,
  owner: DiskOwner,
  openDisk: (request: DiskRequest) => Promise<Disk>,
): Promise<Disk> {
  const { shared, directIoSafe, guestUuid, inDaemon } = description;
  const { cache, image: chosen } = settings;
  const image = imageName(await parseParams(description.params));
  const engine = inDaemon !== undefined && enginesFor(image).includes("qemu") ? "qemu" : settings.engine;
  // The operator vouches for an image that the command line names.
  const allowImages = [...settings.allowImages, ...(chosen === undefined ? [] : [literalPattern(imageText(image))])];
  const opening = openDisk({
    ...image,
    allowImages,
    owner: { ...owner, ...(guestUuid === undefined ? {} : { uuid: guestUuid }) },
    readOnly: settings.readOnly,
    shared,
    engine,
    directIoSafe,
    ...(cache === undefined ? {} : { cache }),
  });
  const isRelative = chosen === undefined && isFile(image) && !image.target.startsWith("/");
  return isRelative ? await opening.catch(relativePath) : await opening;
}

/** A toolstack does not know in which directory this process runs. */
function relativePath(error: unknown): never {
  if (!(error instanceof XenblkError) || errnoOf(error.cause) !== -ENOENT) throw error;
  throw new XenblkError(error.message, { cause: error.cause, remedy: "attach it with its absolute path" });
}
