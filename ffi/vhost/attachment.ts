/**
 * What a reactor needs to use one virtqueue of a vhost-user-blk disk. Structured-cloneable.
 */

import type { DiskAttachment } from "../../lib/storage/disk.ts";

/** How requests must be cut; from the export's config space. */
export interface RequestLimits {
  /** Most pieces of memory per request, and most bytes of one. */
  readonly mostSegments: number;
  readonly mostSegmentBytes: number;
  /** Requests begin and end at multiples of it. */
  readonly blockBytes: number;
  /** Most bytes of one discard; 0: there are none. */
  readonly mostDiscardBytes: number;
  /** False: a completed write is durable, and there are no flushes. */
  readonly flushes: boolean;
  /** Writes and discards are refused. */
  readonly readOnly: boolean;
}

/** Names a virtqueue, for the module channel.ts. */
export interface VhostAttachment extends DiskAttachment {
  /** For messages: `image qcow2:/path`. */
  readonly name: string;
  /** See DeviceControl. */
  readonly control: SharedArrayBuffer;
  readonly queue: number;
  readonly lease: number;
  /** Where the disk's shared memory is mapped in this process. */
  readonly address: number;
  /** Eventfds: the channel notifies the daemon by the first, and is notified by the second. */
  readonly kickFd: number;
  readonly callFd: number;
  readonly limits: RequestLimits;
  /** See VhostOptions. */
  readonly errorsLose: boolean;
}
