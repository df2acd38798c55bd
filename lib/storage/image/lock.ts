/**
 * Who may use an image beside whom: the interface of locks, those that hold within this process, and waiting for one
 * that another process is about to give up. A user that writes and does not share excludes everybody else. How other
 * processes are locked out is not known here.
 */

import type { Clock } from "../../clock.ts";
import { errorText, XenblkError } from "../../errors.ts";
import type { ImageFile } from "./file.ts";

/** How an image is about to be used. */
export interface ImageUse {
  /** It will be written to. */
  readonly writes: boolean;
  /** Others may write to it at the same time: the toolstack says so (mode `w!`, for a cluster file system). */
  readonly shared: boolean;
  /** Who uses it, for the message that another one gets: `vbd3/5/51712`. */
  readonly by: string;
}

/** Locks on images. One thread's. */
export interface ImageLocks {
  /**
   * Takes the lock, to be disposed, or says who excludes this use: the end of a sentence such as `process 12 (qemu) has
   * it`. Throws Error with the reason if the image cannot be locked at all.
   */
  tryLock(image: ImageFile, use: ImageUse): Disposable | string;
}

/** Says nothing if a use could begin now. Throws {@linkcode ImageBusyError}. */
export function checkFree(locks: ImageLocks, image: ImageFile, use: ImageUse): void {
  const lock = new ProcessImageLocks(locks, () => {}).tryLock(image, use);
  if (typeof lock === "string") throw busy(image, use, lock);
  lock[Symbol.dispose]();
}

/** Whether two uses exclude each other. */
export function excludes(one: Omit<ImageUse, "by">, other: Omit<ImageUse, "by">): boolean {
  return (one.writes && !other.shared) || (other.writes && !one.shared);
}

/** Locks among the disks of this process, by what the image is and not how it is called; and beyond, if it can be. */
export class ProcessImageLocks implements ImageLocks {
  readonly #held = new Map<string, Set<ImageUse>>();
  readonly #beyond: ImageLocks | undefined;
  readonly #warn: (message: string) => void;

  /** `beyond` locks out other processes; `warn` hears of images that it cannot lock and that are used nevertheless. */
  constructor(beyond: ImageLocks | undefined, warn: (message: string) => void) {
    this.#beyond = beyond;
    this.#warn = warn;
  }

  tryLock(image: ImageFile, use: ImageUse): Disposable | string {
    const { device, inode } = image.identity;
    const key = `${device}:${inode}`;
    const held = this.#held.get(key) ?? new Set();
    for (const other of held) if (excludes(use, other)) return `this process serves it to ${other.by}`;
    const outer = this.#lockBeyond(image, use);
    if (typeof outer === "string") return outer;
    const mine = { ...use };
    this.#held.set(key, held.add(mine));
    return {
      [Symbol.dispose]: (): void => {
        if (!held.delete(mine)) return;
        if (held.size === 0) this.#held.delete(key);
        outer?.[Symbol.dispose]();
      },
    };
  }

  #lockBeyond(image: ImageFile, use: ImageUse): Disposable | string | undefined {
    try {
      return this.#beyond?.tryLock(image, use);
    } catch (error) {
      this.#warn(`image ${image.path}: other processes are not kept from it: ${errorText(error)}`);
      return undefined;
    }
  }
}

/** How long a lock is waited for: a process that was killed can hold it until its last I/O is over. */
const PATIENCE_MS = 3_000;
const RETRY_MS = 100;

/** Somebody else uses the image. */
export class ImageBusyError extends XenblkError {}

/**
 * Waits for a lock, for a little. Rejects with {@linkcode ImageBusyError} naming the image and who has it, or with the
 * signal's reason.
 */
export async function lockImage(
  locks: ImageLocks,
  image: ImageFile,
  use: ImageUse,
  clock: Clock,
  signal?: AbortSignal,
): Promise<Disposable> {
  for (const start = clock.now();;) {
    const lock = locks.tryLock(image, use);
    if (typeof lock !== "string") return lock;
    if (clock.now() - start >= PATIENCE_MS) throw busy(image, use, lock);
    await clock.sleep(RETRY_MS, signal);
    signal?.throwIfAborted();
  }
}

/** The error that a person sees. */
function busy(image: ImageFile, use: ImageUse, who: string): ImageBusyError {
  return new ImageBusyError(`Cannot ${use.writes ? "write to" : "read"} image ${image.path}: ${who}`, {
    remedy: "end that use first: two at a time would damage what is on the image",
  });
}
