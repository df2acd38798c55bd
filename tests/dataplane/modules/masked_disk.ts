/**
 * A disk engine from outside the project, on its public face alone: keeps every byte in memory with its bits flipped, so
 * that a test can tell who stored it.
 */

import {
  type ChannelOptions,
  type Disk,
  type DiskAttachment,
  ERRNO,
  type Executor,
  immediateChannel,
  type IoChannel,
  type IoVectors,
  type MemoryViews,
  OPERATION,
  type Operation,
} from "../../../mod.ts";

/** Names a masked disk. */
export interface MaskedAttachment extends DiskAttachment {
  readonly data: SharedArrayBuffer;
}

export const MASK = 0xff;

/** Names the disk with these bytes. */
export function maskedAttachment(data: SharedArrayBuffer): MaskedAttachment {
  return { module: import.meta.url, data };
}

/** A disk of zeroes. */
export function maskedDisk(sizeBytes: number): Disk {
  const data = new SharedArrayBuffer(sizeBytes);
  new Uint8Array(data).fill(MASK);
  let isClosed = false;
  return {
    properties: {
      sectors: sizeBytes / 512,
      logicalSectorBytes: 512,
      physicalSectorBytes: 512,
      readOnly: false,
      discard: { granularityBytes: 512, alignmentBytes: 0, secure: false },
    },
    description: "masked bytes",
    attachment: () => isClosed ? Promise.reject(new Error("it is closed")) : Promise.resolve(maskedAttachment(data)),
    [Symbol.asyncDispose]: () => {
      isClosed = true;
      return Promise.resolve();
    },
  };
}

/** See DiskModule. */
export function openChannel({ data }: MaskedAttachment, options: ChannelOptions): IoChannel {
  return immediateChannel(new MaskedExecutor(new Uint8Array(data)), options);
}

class MaskedExecutor implements Executor {
  readonly #data: Uint8Array;

  constructor(data: Uint8Array) {
    this.#data = data;
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
    let at = offsetBytes;
    for (let i = first; i < first + count; i++) {
      const bytes = views.view(vectors.addresses[i]!, vectors.lengths[i]!);
      if (at + bytes.length > this.#data.length) return -ERRNO.EIO;
      const ours = this.#data.subarray(at, at += bytes.length);
      const [from, to] = operation === OPERATION.read ? [ours, bytes] : [bytes, ours];
      for (let j = 0; j < from.length; j++) to[j] = from[j]! ^ MASK;
    }
    return 0;
  }

  discard(offsetBytes: number, lengthBytes: number, secure: boolean): number {
    if (secure) return -ERRNO.EOPNOTSUPP;
    this.#data.fill(MASK, offsetBytes, offsetBytes + lengthBytes);
    return 0;
  }

  [Symbol.dispose](): void {}
}
