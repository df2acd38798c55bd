/**
 * Executors carry out one operation at a time, synchronously and completely. An I/O Worker uses one, and so does a
 * channel that works in its caller's thread (immediate.ts). FileExecutor serves a file through Deno's file calls.
 */

import { EIO } from "../../errno.ts";
import { type CacheMode, type IoVectors } from "../disk.ts";
import { errnoOf, isTransient } from "../errno.ts";
import type { MemoryViews } from "./views.ts";

/** The codes of operations, in tables and jobs. */
export const OPERATION = { read: 0, write: 1, flush: 2, discard: 3 } as const;
/** One of {@linkcode OPERATION}. */
export type Operation = (typeof OPERATION)[keyof typeof OPERATION];

/** After so many interrupted calls an operation fails, so that no thread retries without end. */
export const MOST_RETRIES = 1000;

/** Carries out operations on one disk, in one thread. Disposing closes the disk's file, if there is one. */
export interface Executor extends Disposable {
  /**
   * Transfers `vectors[first..first+count)` from `offsetBytes` on, or flushes, which ignores offset and vectors.
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
  /** Discards bytes; absent if the disk cannot. Returns 0 or a negative errno; never throws. */
  discard?(offsetBytes: number, lengthBytes: number, secure: boolean): number;
}

/** What an executor needs of a file: a `Deno.FsFile`, or a stand-in of a test. */
export type BlockFile = Pick<Deno.FsFile, "seekSync" | "readSync" | "writeSync" | "syncDataSync" | "close">;

/** Serves a file or block device through Deno's file calls, and owns the file. */
export class FileExecutor implements Executor {
  readonly #file: BlockFile;
  readonly #cache: CacheMode;
  /** The errno of the first flush that failed; 0: none has. */
  #flushFailure = 0;

  /** `cache` cannot be `none`: Deno cannot open files with O_DIRECT. */
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
   * The kernel reports a failed write-back once per descriptor, so the failure is remembered for everyone who flushes
   * this descriptor later. Other threads have descriptors of their own, which get their own report; so threads may
   * flush at the same time.
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
      // Vectors that are adjacent in memory go into one call.
      while (i < end && addresses[i] === address + lengthBytes) lengthBytes += lengths[i++]!;
      const view = views.view(address, lengthBytes);
      const status = this.#transferWhole(reading, view);
      if (status !== 0) return status;
    }
    return 0;
  }

  /** Transfers at the file's position, and continues short transfers. Throws what the file throws. */
  #transferWhole(reading: boolean, view: Uint8Array): number {
    let doneBytes = 0;
    let retries = 0;
    while (doneBytes < view.byteLength) {
      const rest = doneBytes === 0 ? view : view.subarray(doneBytes);
      try {
        const transferred = reading ? this.#file.readSync(rest) : this.#file.writeSync(rest);
        // The end of a truncated image, or a write without progress: an error, and neither zeroes nor an endless loop.
        if (transferred === null || transferred === 0) return -EIO;
        doneBytes += transferred;
      } catch (error) {
        if (!isTransient(errnoOf(error)) || ++retries > MOST_RETRIES) throw error;
      }
    }
    return 0;
  }
}
