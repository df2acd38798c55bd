/**
 * The filter `throttle`: limits the requests and the bytes per second of a disk, over all its rings. Flushes pass. A ring
 * starts its requests in order; rings take turns.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import type { FilterAttachment, FilterDefinition } from "./filter.ts";
import { live, size, whole } from "./options.ts";
import { ThrottledChannel, type ThrottleState } from "./throttled_channel.ts";
import { createBucket } from "./token_bucket.ts";

/** Options of the filter `throttle`; 0 is no limit. All can be changed while the disk is served. */
export interface ThrottleOptions {
  /** Most reads, writes and discards per second. */
  readonly iops?: number;
  /** Most of them at once, after a pause. 0: what `iops` allows in 0.1 s. */
  readonly iopsBurst?: number;
  /** Most bytes per second that are read and written: a number, or a text such as `10M`. */
  readonly bytesPerSecond?: number | string;
  /** Most of them at once, after a pause. 0: what `bytesPerSecond` allows in 0.1 s. */
  readonly bytesBurst?: number | string;
}

const MOST_IOPS = 1e9;
const MOST_BYTES = 2 ** 50;

/** See FilterModule. */
export const filter: FilterDefinition = {
  summary: "Limits requests and bytes per second, over all rings of the disk",
  options: {
    iops: live(whole("Reads, writes and discards per second; 0: no limit", 0, MOST_IOPS, 0)),
    iopsBurst: live(whole("Most of them at once, after a pause; 0: what iops allows in 0.1 s", 0, MOST_IOPS, 0)),
    bytesPerSecond: live(size("Bytes per second; 0: no limit", 0, MOST_BYTES, 0)),
    bytesBurst: live(
      size("Most of them at once, after a pause; 0: what bytes-per-second allows in 0.1 s", 0, MOST_BYTES, 0),
    ),
  },
  atEnd: { iops: 0, bytesPerSecond: 0 },
  createState: (): ThrottleState => ({ requests: createBucket(), bytes: createBucket() }),
};

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, live, state } = attachment as FilterAttachment;
  const memory = { live, state: state as ThrottleState };
  return new ThrottledChannel(context.openChannel(inner, options), options, memory, context.platform);
}
