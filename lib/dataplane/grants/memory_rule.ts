/**
 * What an engine may do with the memory of a queue's operations, by grant mode. No other place decides this.
 */

import type { MemoryRule } from "../../storage/disk.ts";
import type { GrantMode } from "../types.ts";

/**
 * The rule of a grant mode.
 *
 * - Direct I/O: private pages of `copy` allow it. On a guest's pages it is allowed only if the toolstack vouches for it
 *   (node `direct-io-safe`).
 * - Asynchronous I/O: pages that are mapped per request are unmapped as soon as it is done. If the kernel still refers
 *   to them then (seen with asynchronous buffered I/O on Linux 6.1), they are unmapped late; the guest finds its page
 *   still granted, and stops using the disk. Persistent pages stay mapped, as the guest expects.
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
