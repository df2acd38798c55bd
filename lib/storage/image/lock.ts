/**
 * Locks on images: their interface, the locks between disks of this process, and waiting for a lock that another
 * process is about to release. A user that writes and does not share excludes all others.
 */

import type { Clock } from "../../clock.ts";
import { errorText, XenblkError } from "../../errors.ts";
import type { LockableImage } from "../../hypervisor.ts";
import { sameFile } from "./file.ts";
import { StorageSilentError } from "./file_threads.ts";

/** How an image is about to be used. */
export interface ImageUse {
  /** It will be written to. */
  readonly writes: boolean;
  /** Others may write to it at the same time: the toolstack says so (mode `w!`, for a cluster file system). */
  readonly shared: boolean;
  /** The user's name for the error that other users get: `vbd3/5/51712`. */
  readonly by: string;
}

/** Locks on images. One thread's. */
export interface ImageLocks {
  /**
   * Takes the lock, to be disposed, or says who excludes this use: the end of a sentence such as `process 12 (qemu) has
   * it`. Rejects with Error and the reason if the image cannot be locked at all.
   */
  tryLock(image: LockableImage, use: ImageUse): Promise<AsyncDisposable | string>;
}

/** Resolves if the image could be locked now for this use. Rejects with {@linkcode ImageBusyError}. */
export async function checkFree(locks: ImageLocks, image: LockableImage, use: ImageUse): Promise<void> {
  const lock = await new ProcessImageLocks(locks, () => {}).tryLock(image, use);
  if (typeof lock === "string") throw new ImageBusyError(image, use, lock);
  await lock[Symbol.asyncDispose]();
}

/** Whether two uses exclude each other. */
export function excludes(one: Omit<ImageUse, "by">, other: Omit<ImageUse, "by">): boolean {
  return (one.writes && !other.shared) || (other.writes && !one.shared);
}

/** Whether both are on the same medium: the same file or device, or one of them lies on the other. */
function overlap(one: LockableImage, other: LockableImage): boolean {
  return sameFile(one.identity, other.identity) ||
    (other.below ?? []).some((medium) => sameFile(one.identity, medium)) ||
    (one.below ?? []).some((medium) => sameFile(other.identity, medium));
}

/** A use of an image by a disk of this process. */
interface HeldImage {
  readonly image: LockableImage;
  readonly use: ImageUse;
}

/**
 * Locks among the disks of this process, by the medium and not by the path; and against other processes. A partition and
 * its disk, or a loop device and the file behind it, are one medium.
 */
export class ProcessImageLocks implements ImageLocks {
  readonly #held = new Set<HeldImage>();
  readonly #beyond: ImageLocks | undefined;
  readonly #warn: (message: string) => void;

  /** `beyond` locks out other processes; `warn` reports each image that it cannot lock but that is used anyway. */
  constructor(beyond: ImageLocks | undefined, warn: (message: string) => void) {
    this.#beyond = beyond;
    this.#warn = warn;
  }

  async tryLock(image: LockableImage, use: ImageUse): Promise<AsyncDisposable | string> {
    for (const other of this.#held) {
      if (!excludes(use, other.use) || !overlap(image, other.image)) continue;
      const medium = sameFile(image.identity, other.image.identity) ? "it" : `${other.image.path}, the same medium,`;
      // Not "this process": a client of its control socket may be the one who reads this.
      return `xenblk serves ${medium} to ${other.use.by}`;
    }
    const mine = { image, use };
    // Before the wait for other processes' locks, so that two disks of this process do not both get through.
    this.#held.add(mine);
    using undo = new DisposableStack();
    undo.defer(() => void this.#held.delete(mine));
    const outer = await this.#lockBeyond(image, use);
    if (typeof outer === "string") return outer;
    undo.move();
    return {
      [Symbol.asyncDispose]: async (): Promise<void> => {
        if (!this.#held.delete(mine)) return; // released already
        try {
          await outer?.[Symbol.asyncDispose]();
        } catch (error) {
          this.#warn(errorText(error));
        }
      },
    };
  }

  /** An image without such locks is used anyway; one that does not answer is not. */
  async #lockBeyond(image: LockableImage, use: ImageUse): Promise<AsyncDisposable | string | undefined> {
    try {
      return await this.#beyond?.tryLock(image, use);
    } catch (error) {
      if (error instanceof StorageSilentError) throw error;
      this.#warn(`image ${image.path}: other processes are not kept from it: ${errorText(error)}`);
      return undefined;
    }
  }
}

/** How long one call waits for a lock: a killed process can hold it until its last I/O is over. */
const PATIENCE_MS = 500;
const RETRY_MS = 100;

/** Another user holds the image's lock. */
export class ImageBusyError extends XenblkError {
  /** `who` is as {@linkcode ImageLocks.tryLock} says it. */
  constructor(readonly image: LockableImage, readonly use: ImageUse, readonly who: string) {
    super(`Cannot ${use.writes ? "write to" : "read"} image ${image.path}: ${who}`, {
      remedy: "end that use first: two at a time would damage what is on the image",
    });
  }
}

/**
 * Waits for a lock, for half a second. Rejects with {@linkcode ImageBusyError} naming the image and who has it, or with
 * the signal's reason.
 */
export async function lockImage(
  locks: ImageLocks,
  image: LockableImage,
  use: ImageUse,
  clock: Clock,
  signal?: AbortSignal,
): Promise<AsyncDisposable> {
  for (const start = clock.now();;) {
    const lock = await locks.tryLock(image, use);
    if (typeof lock !== "string") return lock;
    if (clock.now() - start >= PATIENCE_MS) throw new ImageBusyError(image, use, lock);
    await clock.sleep(RETRY_MS, signal);
    signal?.throwIfAborted();
  }
}
