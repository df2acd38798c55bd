/**
 * What a queue is made of, as whoever opens the ring gives it. Each part of the queue takes from it what it needs.
 */

import type { AbiLayout } from "../blkif/abi.ts";
import type { BackRing } from "../blkif/back_ring.ts";
import type { RequestSlots } from "../blkif/request.ts";
import type { DiskLimits } from "../blkif/validate.ts";
import type { IoChannel } from "../storage/disk.ts";
import type { GrantStrategy } from "./grants.ts";
import type { IndirectPages } from "./indirect_pages.ts";
import type { Journal } from "./journal.ts";
import type { Latch } from "./latch.ts";

/** See the file's first lines. The queue owns grants, indirect and channel and disposes them. */
export interface QueueParts {
  /** For messages: `vbd3/5/51712 queue 0`. */
  readonly label: string;
  /** The image's path, for messages; absent where there is none. */
  readonly image?: string;
  readonly ring: BackRing;
  readonly abi: AbiLayout;
  readonly slots: RequestSlots;
  readonly grants: GrantStrategy;
  /** Absent: the slots have no indirect segments. */
  readonly indirect?: IndirectPages;
  readonly channel: IoChannel;
  readonly limits: DiskLimits;
  /** Holds each request as it was on the ring until it is answered: nothing is ever decoded from the ring (XSA-155). */
  readonly journal: Journal;
  /** Slots with requests that a crashed process took and did not answer, oldest first. */
  readonly replay?: readonly number[];
  /** The counters' memory; see stats.ts. */
  readonly stats: SharedArrayBuffer;
  /** The device's, for all of its queues. */
  readonly latch: Latch;
  /** Tells the frontend to look at the ring. */
  readonly notify: () => void;
  /** Says what went wrong with a guest's request or its I/O; rate-limited by whoever gave it. */
  readonly complain: (line: string) => void;
}
