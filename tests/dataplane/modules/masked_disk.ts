/**
 * A disk engine from outside the project, on its public face alone: keeps every byte in memory with its bits flipped, so
 * that a test can tell who stored it.
 */

import type { ChannelOptions, DiskAttachment, IoChannel, IoVectors, MemorySpace } from "../../../mod.ts";

/** Names a masked disk. */
export interface MaskedAttachment extends DiskAttachment {
  readonly data: SharedArrayBuffer;
}

export const MASK = 0xff;

/** Names the disk with these bytes. */
export function maskedAttachment(data: SharedArrayBuffer): MaskedAttachment {
  return { module: import.meta.url, data };
}

/** See DiskModule. */
export function openChannel({ data }: MaskedAttachment, options: ChannelOptions): IoChannel {
  return new MaskedChannel(new Uint8Array(data), options);
}

/** Carries everything out at once. */
class MaskedChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  inFlight = 0;
  readonly #data: Uint8Array;
  readonly #vectors: IoVectors;
  readonly #memory: MemorySpace;

  constructor(data: Uint8Array, { depth, vectors, memory }: ChannelOptions) {
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#data = data;
    this.#vectors = vectors;
    this.#memory = memory;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#forEach(first, count, offsetBytes, (bytes, at) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = this.#data[at + i]! ^ MASK;
    });
    this.#done(tag);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#forEach(first, count, offsetBytes, (bytes, at) => {
      for (let i = 0; i < bytes.length; i++) this.#data[at + i] = bytes[i]! ^ MASK;
    });
    this.#done(tag);
  }

  flush(tag: number): void {
    this.#done(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number): void {
    this.#data.fill(MASK, offsetBytes, offsetBytes + lengthBytes);
    this.#done(tag);
  }

  submit(): void {}

  reap(): number {
    const count = this.inFlight;
    this.inFlight = 0;
    return count;
  }

  [Symbol.dispose](): void {}

  #forEach(first: number, count: number, offsetBytes: number, carryOut: (bytes: Uint8Array, at: number) => void): void {
    let at = offsetBytes;
    for (let i = first; i < first + count; i++) {
      const lengthBytes = this.#vectors.lengths[i]!;
      carryOut(this.#memory.view(this.#vectors.addresses[i]!, lengthBytes), at);
      at += lengthBytes;
    }
  }

  #done(tag: number): void {
    this.tags[this.inFlight] = tag;
    this.results[this.inFlight++] = 0;
  }
}
