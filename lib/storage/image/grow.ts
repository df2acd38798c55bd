/**
 * Which sizes a disk may be given while a guest uses it: larger ones. What lies beyond a smaller one would be lost, and
 * the guest would not know.
 */

import { XenblkError } from "../../errors.ts";
import { formatSize } from "../../sizes.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { type Disk, writesImage } from "../disk.ts";

/** Throws {@linkcode XenblkError} if the disk cannot be made so large. */
export function checkNewSize(
  disk: Pick<Disk, "description" | "imageReadOnly" | "properties">,
  bytes: number,
): void {
  const { description, properties: { readOnly, sectors } } = disk;
  if (!readOnly && !writesImage(disk)) {
    throw new XenblkError(`Cannot resize ${description}: a filter keeps all writes from its image`, {
      remedy: "make the image larger by other means, then resize the disk without a size",
    });
  }
  if (readOnly) {
    throw new XenblkError(`Cannot resize ${description}: it is read-only`, {
      remedy: "attach it so that it can be written to",
    });
  }
  if (bytes % SECTOR_BYTES !== 0) {
    throw new XenblkError(`Cannot resize ${description} to ${bytes} bytes`, {
      remedy: `name a multiple of ${SECTOR_BYTES} bytes`,
    });
  }
  if (bytes < sectors * SECTOR_BYTES) throw cannotShrink(description, sectors * SECTOR_BYTES, bytes);
}

/** The error about an image that has, or is to have, fewer bytes than the guest or the image has now. */
export function cannotShrink(name: string, fromBytes: number, toBytes: number): XenblkError {
  const sizes = `from ${formatSize(fromBytes)} to ${formatSize(toBytes)}`;
  return new XenblkError(`Cannot shrink ${name} ${sizes} under its guest`, {
    remedy: "name a larger size, or detach the disk before",
  });
}
