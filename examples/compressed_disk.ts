/**
 * A disk in memory that keeps its content compressed. It begins empty, and ends with its process.
 *
 *     xenblk dry-run --write plugin:examples/compressed_disk.ts?64M
 */

import { deflateRawSync, inflateRawSync } from "node:zlib";
import { defineDisk, type DiskMethods, parseSize } from "xenblk";

const CHUNK_BYTES = 64 * 1024;

/** The parts of a range: which bytes of which chunk, and where in the range they begin. */
function* partsOf(offset: number, length: number): Generator<{ chunk: number; from: number; to: number; at: number }> {
  for (let at = 0; at < length;) {
    const from = (offset + at) % CHUNK_BYTES;
    const to = Math.min(CHUNK_BYTES, from + length - at);
    yield { chunk: Math.floor((offset + at) / CHUNK_BYTES), from, to, at };
    at += to - from;
  }
}

export default defineDisk({
  // Another process would begin empty, and its guest must not take that for its disk.
  survivesCrash: false,
  open(size): DiskMethods {
    const compressed = new Map<number, Uint8Array>();
    const load = (chunk: number): Uint8Array => {
      const data = compressed.get(chunk);
      return data === undefined ? new Uint8Array(CHUNK_BYTES) : inflateRawSync(data);
    };
    // These methods finish before they return. Asynchronous ones could load a chunk that another one is changing.
    return {
      sizeBytes: parseSize(size || "64M"),
      discardGranularityBytes: CHUNK_BYTES,
      read(offset, into): void {
        for (const { chunk, from, to, at } of partsOf(offset, into.length)) {
          into.set(load(chunk).subarray(from, to), at);
        }
      },
      write(offset, data): void {
        for (const { chunk, from, to, at } of partsOf(offset, data.length)) {
          const whole = load(chunk);
          whole.set(data.subarray(at, at + to - from), from);
          compressed.set(chunk, deflateRawSync(whole, { level: 1 }));
        }
      },
      discard(offset, length): void {
        for (const { chunk, from, to } of partsOf(offset, length)) {
          if (to - from === CHUNK_BYTES) compressed.delete(chunk);
        }
      },
    };
  },
});
