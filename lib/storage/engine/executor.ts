/**
 * Carries out one operation synchronously and whole: what an I/O Worker, and a channel that serves in its caller's
 * thread, have in common. It must not know tags, queues or threads.
 */

import { EIO } from "../../errno.ts";
import { type CacheMode, type IoVectors } from "../disk.ts";
import { errnoOf, isTransient } from "../errno.ts";
import type { MemoryViews } from "./views.ts";

/** Kinds of operations, as they stand in a job. */
export const OPERATION = { read: 0, write: 1, flush: 2, discard: 3 } as const;
/** One of {@linkcode OPERATION}. */
export type Operation = (typeof OPERATION)[keyof typeof OPERATION];

/** A call that is interrupted again and again fails after so many times, so that nothing spins for ever. */
export const MOST_RETRIES = 1000;

/** Carries out operations on one disk, in one thread. Disposing closes what it holds. */
export interface Executor extends Disposable {
  /**
   * Transfers `vectors[first..first+count)` from `offsetBytes` on, or flushes (offset and vectors then do not count).
   * Returns 0 or a negative errno; never throws.
   */
  execute(
    operation: Operation,
    offsetBytes: number,
    vectors: IoVectors,
    first: number,
    count: number,
    views: MemoryViews,
  ): number;
  /** Gives bytes back; absent where that is not possible. As {@linkcode execute}, it returns and never throws. */
  discard?(offsetBytes: number, lengthBytes: number, secure: boolean): number;
}

/** What an executor needs of a file: a `Deno.FsFile`, or a test's stand-in that fails as told. */
export type BlockFile = Pick<Deno.FsFile, "seekSync" | "readSync" | "writeSync" | "syncDataSync" | "close">;

/** Serves from a file or block device through Deno's file calls. It owns the file. */
export class FileExecutor implements Executor {
  readonly #file: BlockFile;
  readonly #cache: CacheMode;
  /** What the first flush that failed came to; 0: none has. */
  #flushFailure = 0;

  /** `cache` is not `none`, which the file would have to be opened for as Deno cannot. */
  constructor(file: BlockFile, cache: CacheMode = "writeback") {
    this.#file = file;
    this.#cache = cache;
  }

  execute(
    operation: Operation,
    offsetBytes: number,
    vectors: IoVectors,
    first: number,
    count: number,
    views: MemoryViews,
  ): number {
    try {
      if (operation === OPERATION.flush) return this.#flush();
      const status = this.#transfer(operation === OPERATION.read, offsetBytes, vectors, first, count, views);
      if (this.#cache === "writethrough" && operation === OPERATION.write && status === 0) this.#file.syncDataSync();
      return status;
    } catch (error) {
      return errnoOf(error);
    }
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }

  /**
   * The kernel tells a descriptor of a failed write-back once, and whoever shares this one may be the next to ask. Other
   * threads have descriptors of their own, which are told of it too, so that flushes may go on in several at a time.
   */
  #flush(): number {
    if (this.#flushFailure !== 0 || this.#cache === "unsafe") return this.#flushFailure;
    for (let retries = 0;; retries++) {
      try {
        this.#file.syncDataSync();
        return 0;
      } catch (error) {
        const errno = errnoOf(error);
        if (!isTransient(errno) || retries === MOST_RETRIES) return this.#flushFailure = errno;
      }
    }
  }

  #transfer(
    reading: boolean,
    offsetBytes: number,
    vectors: IoVectors,
    first: number,
    count: number,
    views: MemoryViews,
  ): number {
    const { addresses, lengths } = vectors;
    const end = first + count;
    this.#file.seekSync(offsetBytes, Deno.SeekMode.Start);
    for (let i = first; i < end;) {
      const address = addresses[i]!;
      let lengthBytes = lengths[i++]!;
      // What follows in memory goes into the same call.
      while (i < end && addresses[i] === address + lengthBytes) lengthBytes += lengths[i++]!;
      const view = views.view(address, lengthBytes);
      const status = this.#transferWhole(reading, view);
      if (status !== 0) return status;
    }
    return 0;
  }

  /** From or to the file's position, continuing short transfers. Throws what the file throws. */
  #transferWhole(reading: boolean, view: Uint8Array): number {
    let doneBytes = 0;
    let retries = 0;
    while (doneBytes < view.byteLength) {
      const rest = doneBytes === 0 ? view : view.subarray(doneBytes);
      try {
        const transferred = reading ? this.#file.readSync(rest) : this.#file.writeSync(rest);
        // The end of a truncated image, or a write that makes no progress: never zeroes, never an endless loop.
        if (transferred === null || transferred === 0) return -EIO;
        doneBytes += transferred;
      } catch (error) {
        if (!isTransient(errnoOf(error)) || ++retries > MOST_RETRIES) throw error;
      }
    }
    return 0;
  }
}
