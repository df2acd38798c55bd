/**
 * What an engine may do with the memory that a queue's operations name, by the grant mode: the one place that says so.
 * It must not know which engines there are.
 */

import type { MemoryRule } from "../storage/disk.ts";
import type { GrantMode } from "./types.ts";

/**
 * Copies end in memory of our own, where everything is allowed. A guest's pages may be given to the device itself only
 * if the toolstack vouches for it (node `direct-io-safe`). Pages that are mapped for one request are unmapped as soon as
 * it is done, and a kernel that still refers to them then (asynchronous buffered I/O, seen with Linux 6.1) unmaps them
 * late: the guest finds its page still granted and gives up the disk. Persistent pages stay mapped, which it expects.
 */
export function memoryRule(mode: GrantMode, directIoSafe: boolean): MemoryRule {
  switch (mode) {
    case "copy":
      return { direct: true, asynchronous: true };
    case "persistent":
      return { direct: directIoSafe, asynchronous: true };
    case "map":
    case "map-each":
      return { direct: directIoSafe, asynchronous: false };
  }
}
