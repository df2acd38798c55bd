/**
 * A disk in memory, as a plugin, that a test brings into trouble: the page that is written decides how. Its target is the
 * path of a folder: there each trouble happens once, if the process may write. `flush` in front of it: it has a flush.
 */

import { defineDisk, type DiskMethods } from "../../../../lib/storage/plugin/disk_methods.ts";

const PAGE_BYTES = 4096;

/** What happens, by page. The others are stored. */
const TROUBLES: readonly ((() => void | Promise<void>) | undefined)[] = [
  undefined,
  () => Deno.exit(7),
  () => {
    for (;;);
  },
  () => new Promise(() => {}),
  () => {
    const kept: object[] = [];
    for (;;) kept.push(Array.from({ length: 1e5 }, Math.random));
  },
  () => {
    const kept: Uint8Array[] = [];
    for (let i = 0; i < 1000; i++) kept.push(new Uint8Array(8 << 20).fill(1));
  },
  () => {
    throw Object.assign(new Error("the store is full"), { code: "ENOSPC" });
  },
  () => new Promise((_, reject) => setTimeout(() => reject(new Error("later")), 1)),
  () => new Promise(() => void Promise.reject(new Error("nobody waits for this"))),
  () => Promise.reject(Object.create(null)),
  () => {
    throw new Proxy({}, {
      getPrototypeOf: () => {
        throw 1;
      },
    });
  },
];

export default defineDisk({
  open(target): DiskMethods {
    const [words, folder] = target.includes(":") ? target.split(":") : ["", target];
    const data = new Uint8Array(1 << 20);
    const isNew = (page: number): boolean => {
      if (folder === "") return true;
      try {
        Deno.mkdirSync(`${folder}/${page}`);
        return true;
      } catch {
        return false;
      }
    };
    return {
      sizeBytes: data.length,
      read: (offset, into) => into.set(data.subarray(offset, offset + into.length)),
      write: (offset, from) => {
        const trouble = TROUBLES[offset / PAGE_BYTES];
        if (trouble !== undefined && isNew(offset / PAGE_BYTES)) return trouble();
        data.set(from, offset);
      },
      ...(words === "flush" ? { flush: () => {} } : {}),
    };
  },
});
