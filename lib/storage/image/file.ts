/**
 * The file behind a disk, as threads share it: each opens a handle of its own, which must reach the very file that the
 * control plane opened, even if the path has been given to another file meanwhile.
 */

import type { FileIdentity, LockableImage } from "../../hypervisor.ts";
import type { CacheMode } from "../disk.ts";
import { ImageDescriptors } from "./descriptors.ts";

/** A file that was looked at. Structured-cloneable. */
export interface ImageFile extends LockableImage {
  /** Opened without the right to write. */
  readonly readOnly: boolean;
  /** What stands between a completed write and the medium. */
  readonly cache: CacheMode;
}

/** The identity of a file, or of the block device that a device node names. */
export function identityOf(info: Deno.FileInfo): FileIdentity {
  // Two nodes of one device are two files; the device is the same.
  return info.isBlockDevice ? { device: info.rdev ?? 0, inode: 0 } : { device: info.dev, inode: info.ino ?? 0 };
}

/** Whether both name the same file or block device. */
export function sameFile(one: FileIdentity, other: FileIdentity): boolean {
  return one.device === other.device && one.inode === other.inode;
}

/**
 * Opens the file for this thread, which may block: also if it was removed or replaced at its path, provided that its
 * descriptors are known. Throws Deno's errors, or Error if another file is at the path now.
 */
export function openSameFile(image: ImageFile): Deno.FsFile {
  const options = { read: true, write: !image.readOnly };
  const look = image.descriptors === undefined ? -1 : new ImageDescriptors(image).look;
  if (look >= 0) {
    try {
      return Deno.openSync(`/proc/self/fd/${look}`, options);
    } catch (error) {
      // Deno opens files in /proc only with every permission.
      if (!(error instanceof Deno.errors.NotCapable)) throw error;
    }
  }
  const file = Deno.openSync(image.path, options);
  if (sameFile(identityOf(file.statSync()), image.identity)) return file;
  file.close();
  throw new Error("another file took its place at this path");
}
