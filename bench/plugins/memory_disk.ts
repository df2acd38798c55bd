/**
 * A disk in memory, as a plugin.
 */

import { defineDisk, type DiskMethods, parseSize } from "../../mod.ts";

export default defineDisk({
  open(size): DiskMethods {
    const data = new Uint8Array(parseSize(size));
    return {
      sizeBytes: data.length,
      read: (offset, into) => into.set(data.subarray(offset, offset + into.length)),
      write: (offset, from) => data.set(from, offset),
    };
  },
});
