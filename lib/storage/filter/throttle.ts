/**
 * The filter `throttle`: limits the requests and the bytes per second of a disk, over all its rings. Flushes pass. A ring
 * starts its requests in order; rings take turns.
 */

import type { Platform } from "../../hypervisor.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";
import { TagLine } from "../tag_line.ts";
import type { FilterAttachment, FilterDefinition } from "./filter.ts";
import { HoldingChannel, RECHECK_MS } from "./holding.ts";
import { LiveValues } from "./live.ts";
import { live, size, whole } from "./options.ts";
import { BUCKET_BUSY, createBucket, TokenBucket } from "./token_bucket.ts";

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

/** Where the live options are. */
const [IOPS, IOPS_BURST, BYTES, BYTES_BURST] = [0, 1, 2, 3] as const;

const NOT_RESERVED = -1;
/** How long it takes at most until another thread has let go of a bucket. */
const BUSY_MS = 1;

/** The buckets that all rings of a disk share. */
interface ThrottleState {
  readonly requests: SharedArrayBuffer;
  readonly bytes: SharedArrayBuffer;
}

/** See DiskModule. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const filtered = attachment as FilterAttachment;
  const inner = context.openChannel(filtered.inner, options);
  return new ThrottledChannel(inner, options, filtered, context.platform);
}

class ThrottledChannel extends HoldingChannel {
  protected override passes = true;
  readonly #platform: Platform;
  readonly #live: LiveValues;
  readonly #requests: TokenBucket;
  readonly #bytes: TokenBucket;
  readonly #line: TagLine;
  /** What is reserved for the first in line, and when it may start. */
  #reservedRequests = 0;
  #reservedBytes = 0;
  #startMs = NOT_RESERVED;
  #recheckMs = 0;

  constructor(inner: IoChannel, options: ChannelOptions, attachment: FilterAttachment, platform: Platform) {
    super(inner, options);
    const { requests, bytes } = attachment.state as ThrottleState;
    this.#platform = platform;
    this.#live = new LiveValues(attachment.live);
    this.#requests = new TokenBucket(requests);
    this.#bytes = new TokenBucket(bytes);
    this.#line = new TagLine(options.depth);
    this.refresh();
  }

  override [Symbol.dispose](): void {
    this.#unreserve();
    super[Symbol.dispose]();
  }

  protected override take(tag: number): void {
    if (this.operation[tag] === OPERATION.flush) return this.start(tag);
    this.#line.add(tag);
    this.held++;
  }

  protected override refresh(): void {
    if (!this.#live.refresh()) return;
    this.#unreserve(); // the first in line waits for what the new limits say
    this.#adapt();
  }

  protected override release(): void {
    const nowMs = this.#platform.now();
    this.#recheckMs = nowMs + RECHECK_MS;
    for (let tag = this.#line.first; tag >= 0; tag = this.#line.first) {
      if (this.#startMs < 0 && !this.#reserve(tag, nowMs)) {
        this.#recheckMs = nowMs + BUSY_MS;
        break;
      }
      if (this.#startMs > nowMs) break;
      this.#line.shift();
      this.held--;
      this.#forget();
      this.start(tag);
    }
    if (this.held === 0) this.#adapt();
  }

  protected override nextMs(): number {
    return this.#startMs < 0 ? this.#recheckMs : Math.min(this.#startMs, this.#recheckMs);
  }

  /** Operations that come later must not overtake those in line. */
  #adapt(): void {
    const { numbers } = this.#live;
    this.passes = numbers[IOPS] === 0 && numbers[BYTES] === 0 && this.held === 0;
  }

  /** Reserves what the operation needs, for all limits. False: another thread has a bucket. */
  #reserve(tag: number, nowMs: number): boolean {
    const { numbers } = this.#live;
    const iops = numbers[IOPS]!;
    const bytesPerSecond = numbers[BYTES]!;
    let startMs = nowMs;
    if (iops > 0) {
      const atMs = this.#requests.reserve(nowMs, 1, iops, numbers[IOPS_BURST]!);
      if (atMs === BUCKET_BUSY) return false;
      this.#reservedRequests = 1;
      startMs = Math.max(startMs, atMs);
    }
    const bytes = this.operation[tag] === OPERATION.discard ? 0 : this.lengthOf(tag);
    if (bytesPerSecond > 0 && bytes > 0) {
      const atMs = this.#bytes.reserve(nowMs, bytes, bytesPerSecond, numbers[BYTES_BURST]!);
      if (atMs === BUCKET_BUSY) {
        this.#unreserve();
        return false;
      }
      this.#reservedBytes = bytes;
      startMs = Math.max(startMs, atMs);
    }
    this.#startMs = startMs;
    return true;
  }

  #unreserve(): void {
    if (this.#reservedRequests > 0) this.#requests.giveBack(this.#reservedRequests);
    if (this.#reservedBytes > 0) this.#bytes.giveBack(this.#reservedBytes);
    this.#forget();
  }

  #forget(): void {
    this.#reservedRequests = 0;
    this.#reservedBytes = 0;
    this.#startMs = NOT_RESERVED;
  }
}
