/**
 * Opening the file behind a disk again: every thread has its own handle, and each must reach the very file that the
 * control plane looked at, even if the path was given to another file meanwhile.
 */

import type { FileIdentity, LockableImage } from "../../hypervisor.ts";
import type { CacheMode } from "../disk.ts";

/** A file that was looked at. Structured-cloneable. */
export interface ImageFile extends LockableImage {
  /** Opened without the right to write. */
  readonly readOnly: boolean;
  /** What stands between a completed write and the medium. */
  readonly cache: CacheMode;
}

/** The identity of an open file. */
export function identityOf(file: Deno.FsFile): FileIdentity {
  const { dev, ino } = file.statSync();
  return { device: dev, inode: ino ?? 0 };
}

/** Opens the file for this thread. Throws Deno's errors, or Error if another file is at the path now. */
export function openSameFile(image: ImageFile): Deno.FsFile {
  const file = Deno.openSync(image.path, { read: true, write: !image.readOnly });
  const { device, inode } = identityOf(file);
  if (device === image.identity.device && inode === image.identity.inode) return file;
  file.close();
  throw new Error("another file took its place at this path");
}
