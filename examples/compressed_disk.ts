/**
 * A disk in memory that keeps its content compressed. It begins empty, and ends with its process.
 *
 *     xenblk dry-run --write plugin:examples/compressed_disk.ts?64M
 */

import { deflateRawSync, inflateRawSync } from "node:zlib";
import { defineDisk, type DiskMethods, parseSize } from "xenblk";

const CHUNK_BYTES = 64 * 1024;

/** Chunks by number; one that is missing is zeroes. */
class Chunks {
  readonly #compressed = new Map<number, Uint8Array>();

  /** Calls `visit` with each chunk that the range touches, and which part of it. */
  each(offset: number, length: number, visit: (chunk: number, from: number, to: number, done: number) => void): void {
    for (let done = 0; done < length;) {
      const from = (offset + done) % CHUNK_BYTES;
      const to = Math.min(CHUNK_BYTES, from + length - done);
      visit(Math.floor((offset + done) / CHUNK_BYTES), from, to, done);
      done += to - from;
    }
  }

  read(chunk: number): Uint8Array {
    const compressed = this.#compressed.get(chunk);
    return compressed === undefined ? new Uint8Array(CHUNK_BYTES) : inflateRawSync(compressed);
  }

  write(chunk: number, data: Uint8Array): void {
    this.#compressed.set(chunk, deflateRawSync(data, { level: 1 }));
  }

  remove(chunk: number): void {
    this.#compressed.delete(chunk);
  }
}

export default defineDisk({
  open(size): DiskMethods {
    const chunks = new Chunks();
    // These methods finish before they return. Asynchronous ones could read a chunk that another one is changing.
    return {
      sizeBytes: parseSize(size || "64M"),
      discardGranularityBytes: CHUNK_BYTES,
      read: (offset, into) =>
        chunks.each(
          offset,
          into.length,
          (chunk, from, to, done) => into.set(chunks.read(chunk).subarray(from, to), done),
        ),
      write: (offset, data) =>
        chunks.each(offset, data.length, (chunk, from, to, done) => {
          const whole = chunks.read(chunk);
          whole.set(data.subarray(done, done + to - from), from);
          chunks.write(chunk, whole);
        }),
      discard: (offset, length) =>
        chunks.each(offset, length, (chunk, from, to) => to - from === CHUNK_BYTES && chunks.remove(chunk)),
    };
  },
});
