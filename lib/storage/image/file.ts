/**
 * Opening the file behind a disk again: every thread has its own handle, and each must reach the very file that the
 * control plane looked at, even if the path was given to another file meanwhile. It also keeps the words that a file's
 * users share. It must not know formats or engines.
 */

import { XenblkError } from "../../errors.ts";
import type { CacheMode } from "../disk.ts";

/** What tells one file from another as long as somebody has it open. */
export interface FileIdentity {
  /** The device that holds it. */
  readonly device: number;
  /** Its number there. */
  readonly inode: number;
}

/** A file that was looked at. Structured-cloneable. */
export interface ImageFile {
  /** Where it was opened; absolute or relative to the process. */
  readonly path: string;
  /** Opened without the right to write. */
  readonly readOnly: boolean;
  /** What stands between a completed write and the medium. */
  readonly cache: CacheMode;
  /** What was opened there: a path can come to name another file. */
  readonly identity: FileIdentity;
  /** See {@linkcode allocateShared}. */
  readonly shared: SharedArrayBuffer;
}

/** Index in the shared words: I/O Workers that carry out jobs of this file. */
export const BUSY_WORKERS = 0;
/** Index in the shared words: visits until the file counts as fast (its calls return at once); see io_loop.ts. */
export const SLOW_VISITS = 1;
const OPEN_CHANNELS = 2;
const CLOSED = 3;
const LOCKED = 4;
const SHARED_BYTES = 20;

/** Milliseconds between two looks at the number of open channels; closing a disk is rare. */
const CHANNEL_POLL_MS = 2;

/** The words that a file's users share, for a new {@linkcode ImageFile}. */
export function allocateShared(): SharedArrayBuffer {
  return new SharedArrayBuffer(SHARED_BYTES);
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

/** Says that this process keeps others from the file: whoever opens it for I/O from now on locks his descriptor, too. */
export function setLocked(image: ImageFile, locked: boolean): void {
  Atomics.store(new Int32Array(image.shared), LOCKED, locked ? 1 : 0);
}

/** What {@linkcode setLocked} said last. */
export function isLocked(image: ImageFile): boolean {
  return Atomics.load(new Int32Array(image.shared), LOCKED) === 1;
}

/** Counts a channel to the file. Throws {@linkcode XenblkError} if the disk is closed. */
export function joinFile(image: ImageFile): void {
  const words = new Int32Array(image.shared);
  Atomics.add(words, OPEN_CHANNELS, 1);
  if (Atomics.load(words, CLOSED) === 0) return;
  Atomics.sub(words, OPEN_CHANNELS, 1);
  throw new XenblkError(`Cannot open an I/O channel to image ${image.path}: the disk is closed`);
}

/** A channel that {@linkcode joinFile} counted is closed. */
export function leaveFile(image: ImageFile): void {
  Atomics.sub(new Int32Array(image.shared), OPEN_CHANNELS, 1);
}

/** Lets no channel join any more; resolves when no thread has one to the file. */
export async function channelsClosed(image: ImageFile): Promise<void> {
  const words = new Int32Array(image.shared);
  Atomics.store(words, CLOSED, 1);
  while (Atomics.load(words, OPEN_CHANNELS) > 0) {
    await new Promise((resolve) => setTimeout(resolve, CHANNEL_POLL_MS));
  }
}
