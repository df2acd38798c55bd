/**
 * An executor from outside the project, on its public face alone: keeps bytes in shared memory in reverse, and notes
 * each discard.
 */

import {
  type Executor,
  type ExecutorDescriptor,
  type IoVectors,
  type MemoryViews,
  OPERATION,
  type Operation,
} from "../../mod.ts";

/** Names a disk that is kept in reverse. */
export interface ReversedDescriptor extends ExecutorDescriptor {
  readonly data: SharedArrayBuffer;
  /** Numbers: offset, length and secure (0 or 1) of the last discard. */
  readonly lastDiscard: SharedArrayBuffer;
}

/** Names the disk with these bytes. */
export function reversed(data: SharedArrayBuffer, lastDiscard: SharedArrayBuffer): ReversedDescriptor {
  return { module: import.meta.url, data, lastDiscard };
}

/** See ExecutorModule. */
export function openExecutor({ data, lastDiscard }: ReversedDescriptor): Executor {
  return new ReversedExecutor(new Uint8Array(data), new Float64Array(lastDiscard));
}

class ReversedExecutor implements Executor {
  constructor(readonly data: Uint8Array, readonly lastDiscard: Float64Array) {}

  execute(
    operation: Operation,
    offsetBytes: number,
    vectors: IoVectors,
    first: number,
    count: number,
    views: MemoryViews,
  ): number {
    if (operation === OPERATION.flush) return 0;
    if (offsetBytes >= this.data.length) throw new Error("a defect of its own");
    let at = this.data.length - 1 - offsetBytes;
    for (let i = first; i < first + count; i++) {
      const bytes = views.view(vectors.addresses[i]!, vectors.lengths[i]!);
      for (let j = 0; j < bytes.length; j++, at--) {
        if (operation === OPERATION.read) bytes[j] = this.data[at]!;
        else this.data[at] = bytes[j]!;
      }
    }
    return 0;
  }

  discard(offsetBytes: number, lengthBytes: number, secure: boolean): number {
    this.lastDiscard.set([offsetBytes, lengthBytes, secure ? 1 : 0]);
    return 0;
  }

  [Symbol.dispose](): void {}
}
