/**
 * What this kernel's io_uring can do, tried out on a short-lived ring: discards of block devices.
 */

import { EINVAL } from "../../lib/errno.ts";
import { IORING_OP, IoUring } from "./ring.ts";
import { RingUnavailable } from "./setup.ts";

/** linux/blkdev.h: discards a range of a block device; Linux 6.12. Goes where an offset's low word would. */
export const BLOCK_URING_CMD_DISCARD = 0x1200;

const PROBE_TIMEOUT_MS = 1000;

/** Whether a block device takes discards through a ring, asked with a range that no device takes. */
export function probeDiscardCommand(fd: number): boolean {
  try {
    using ring = new IoUring({ entries: 1, completions: 2 });
    ring.prepare(IORING_OP.uringCommand, fd, BLOCK_URING_CMD_DISCARD, 1, 0, 0, 0, 0);
    ring.setThirdAddress(512);
    ring.enter(1, PROBE_TIMEOUT_MS);
    const head = ring.completionHead;
    return ring.completionTail !== head && ring.completionResult(head) === -EINVAL;
  } catch (error) {
    if (error instanceof RingUnavailable) return false;
    throw error;
  }
}
