/**
 * The `memory` engine: a disk whose sectors are a SharedArrayBuffer, gone with the process. For tests, the dry run and
 * measurements.
 */

import { EBADF, EIO, ENOSPC, EOPNOTSUPP } from "../../errno.ts";
import type { ChannelOptions, DiskAttachment, IoChannel, IoVectors } from "../disk.ts";
import { errnoOf } from "../errno.ts";
import { type Executor, OPERATION, type Operation } from "./executor.ts";
import { ImmediateChannel } from "./immediate.ts";
import type { MemoryViews } from "./views.ts";

/** Names a memory disk. */
export interface MemoryAttachment extends DiskAttachment {
  /** Its sectors. */
  readonly data: SharedArrayBuffer;
  readonly readOnly: boolean;
}

/** Names the disk with these sectors. */
export function memoryAttachment(data: SharedArrayBuffer, readOnly: boolean): MemoryAttachment {
  return { module: import.meta.url, data, readOnly };
}

/** See DiskModule. */
export function openChannel(attachment: MemoryAttachment, options: ChannelOptions): IoChannel {
  return new ImmediateChannel(openExecutor(attachment), options);
}

/** See ExecutorModule. */
export function openExecutor({ data, readOnly }: MemoryAttachment): Executor {
  return new MemoryExecutor(data, readOnly);
}

/** Copies between the disk's bytes and the operation's. Past the end, reads fail with -EIO and writes with -ENOSPC. */
export class MemoryExecutor implements Executor {
  readonly #data: Uint8Array;
  readonly #readOnly: boolean;

  constructor(data: SharedArrayBuffer, readOnly: boolean) {
    this.#data = new Uint8Array(data);
    this.#readOnly = readOnly;
  }

  execute(
    operation: Operation,
    offsetBytes: number,
    vectors: IoVectors,
    first: number,
    count: number,
    views: MemoryViews,
  ): number {
    if (operation === OPERATION.flush) return 0;
    if (operation === OPERATION.write && this.#readOnly) return -EBADF;
    try {
      let position = offsetBytes;
      for (let i = first; i < first + count; i++) {
        const lengthBytes = vectors.lengths[i]!;
        const end = position + lengthBytes;
        if (end > this.#data.byteLength) return operation === OPERATION.read ? -EIO : -ENOSPC;
        const ours = this.#data.subarray(position, end);
        const theirs = views.view(vectors.addresses[i]!, lengthBytes);
        if (operation === OPERATION.read) theirs.set(ours);
        else ours.set(theirs);
        position = end;
      }
      return 0;
    } catch (error) {
      return errnoOf(error);
    }
  }

  /** Discarded sectors read as zeroes. */
  discard(offsetBytes: number, lengthBytes: number, secure: boolean): number {
    if (this.#readOnly) return -EBADF;
    if (secure) return -EOPNOTSUPP;
    if (offsetBytes + lengthBytes > this.#data.byteLength) return -ENOSPC;
    this.#data.fill(0, offsetBytes, offsetBytes + lengthBytes);
    return 0;
  }

  [Symbol.dispose](): void {}
}
