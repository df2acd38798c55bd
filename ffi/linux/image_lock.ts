/**
 * Locks that keep other processes from an image, as QEMU takes them. They are taken in file threads, on the very
 * descriptors that do the I/O: the lock then lasts until the kernel has finished the writes of a killed process. (I/O
 * Workers have descriptors of their own, without locks: they make calls that return when the I/O is over, and a process
 * keeps all its descriptors until its last thread has returned.)
 */

import type { LockableImage } from "../../lib/hypervisor.ts";
import { type FileThreads, fileThreads } from "../../lib/storage/image/file_threads.ts";
import type { ImageLocks, ImageUse } from "../../lib/storage/image/lock.ts";
import type { LockAnswer, LockCall } from "./lock_calls.ts";

const MODULE = new URL("./lock_calls.ts", import.meta.url).href;

/** The locks of one process. */
export class NativeImageLocks implements ImageLocks {
  readonly #threads: FileThreads;

  /** `threads`: for tests. */
  constructor(threads: FileThreads = fileThreads) {
    this.#threads = threads;
  }

  async tryLock(image: LockableImage, use: ImageUse): Promise<AsyncDisposable | string> {
    const call: LockCall = { module: MODULE, kind: "lock", image, use };
    // An earlier attempt may still return, and release what this one takes.
    this.#threads.mustAnswer(image.path, "lock");
    const answer = await this.#threads.run<LockAnswer>(call, {
      path: image.path,
      verb: "lock",
      late: (answer) => {
        if ("opened" in answer) this.#unlock(image, answer.opened).catch(() => {});
      },
    });
    if ("usedBy" in answer) return answer.usedBy;
    return { [Symbol.asyncDispose]: () => this.#unlock(image, answer.opened) };
  }

  #unlock(image: LockableImage, opened: number | undefined): Promise<void> {
    const call: LockCall = { module: MODULE, kind: "unlock", image, opened };
    return this.#threads.run<void>(call, { path: image.path, verb: "unlock", releases: true });
  }
}
