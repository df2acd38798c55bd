/**
 * A disk in memory, as a plugin, for tests. Its target is a list of words: `async` (methods that settle later), `flush`,
 * `survives`, `readonly`.
 */

import { defineDisk, type DiskMethods } from "../../../../lib/storage/plugin/disk_methods.ts";

const SIZE_BYTES = 4 << 20;

export default defineDisk({
  open(target): DiskMethods {
    const words = target.split(",");
    const data = new Uint8Array(SIZE_BYTES);
    const later = (body: () => void): void | Promise<void> => {
      if (!words.includes("async")) return body();
      return new Promise((resolve) => setTimeout(() => resolve(body()), Math.random() * 3));
    };
    const read = (offset: number, into: Uint8Array): void | Promise<void> =>
      later(() => into.set(data.subarray(offset, offset + into.length)));
    if (words.includes("readonly")) return { sizeBytes: SIZE_BYTES, read };
    return {
      sizeBytes: SIZE_BYTES,
      read,
      write: (offset, from) => later(() => data.set(from, offset)),
      discard: (offset, length) => later(() => void data.fill(0, offset, offset + length)),
      discardGranularityBytes: 512,
      ...(words.includes("flush") ? { flush: () => later(() => {}) } : {}),
    };
  },
});
