/**
 * The attachment of a disk that I/O Workers serve: the shared memory for the jobs that a reactor submits to them. pool.ts
 * makes it, channel.ts uses it.
 */

import type { DiskAttachment } from "../disk.ts";

/** What a reactor needs to submit jobs for one disk; see disk.ts. */
export interface PoolAttachment extends DiskAttachment {
  /** The disk's, for messages. */
  readonly name: string;
  /** Distinguishes queues; the same in every thread. */
  readonly id: string;
  /** The jobs; see job_queue.ts. */
  readonly queue: SharedArrayBuffer;
  /** What I/O Workers sleep on; see doorbell.ts. */
  readonly doorbell: SharedArrayBuffer;
  /** How busy the I/O Workers are with the disk; see disk_load.ts. */
  readonly load: SharedArrayBuffer;
  /** The disk's open channels; see open_channels.ts. */
  readonly channels: SharedArrayBuffer;
}
