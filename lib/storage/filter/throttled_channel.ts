/**
 * The channel of the filter `throttle`: one ring's operations start when the limits allow it. It needs no description of
 * the options, since a reactor loads it for disks that may get limits.
 */

import type { Platform } from "../../hypervisor.ts";
import type { ChannelOptions, IoChannel } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";
import { TagLine } from "../tag_line.ts";
import { HoldingChannel, RECHECK_MS } from "./holding.ts";
import { LiveValues } from "./live.ts";
import { createReservation, RESERVATION, TokenBucket } from "./token_bucket.ts";

/** Where the live options are: in the order of their definition. */
const [IOPS, IOPS_BURST, BYTES, BYTES_BURST] = [0, 1, 2, 3] as const;

const NOT_RESERVED = -1;
/** Where the times of a channel are. */
const [START_MS, RECHECK_AT_MS] = [0, 1] as const;
/** How long it takes at most until another thread has let go of a bucket. */
const BUSY_MS = 1;

/** The buckets that all rings of a disk share. */
export interface ThrottleState {
  /** Of requests per second. */
  readonly requests: SharedArrayBuffer;
  /** Of bytes per second. */
  readonly bytes: SharedArrayBuffer;
}

/** What the rings of a disk share: the live options and the buckets. */
export interface ThrottleMemory {
  /** The options: see live.ts. */
  readonly live: SharedArrayBuffer;
  /** The buckets. */
  readonly state: ThrottleState;
}

/** Whether live options limit anything. */
export function isLimited(numbers: Float64Array): boolean {
  return numbers[IOPS]! > 0 || numbers[BYTES]! > 0;
}

/** One ring's operations, as far as the limits allow. */
export class ThrottledChannel extends HoldingChannel {
  protected override passes = true;
  /** Operations start at once, but take their tokens nevertheless: those that come later wait longer for that. */
  hurries = false;
  readonly #platform: Platform;
  readonly #live: LiveValues;
  readonly #requests: TokenBucket;
  readonly #bytes: TokenBucket;
  readonly #line: TagLine;
  /** What is reserved for the first in line. */
  #reservedRequests = 0;
  #reservedBytes = 0;
  /** Bytes of all that waits, if {@linkcode #isCounted}: if they were limited when it came. */
  #heldBytes = 0;
  #isCounted = true;
  /** When that may start, and when to look again. Not in properties, which would be allocated anew with each change. */
  readonly #times = new Float64Array([NOT_RESERVED, 0]);
  readonly #reservation = createReservation();

  constructor(inner: IoChannel, options: ChannelOptions, { live, state }: ThrottleMemory, platform: Platform) {
    super(inner, options);
    const { requests, bytes } = state;
    this.#platform = platform;
    this.#live = new LiveValues(live);
    this.#requests = new TokenBucket(requests);
    this.#bytes = new TokenBucket(bytes);
    this.#line = new TagLine(options.depth);
    this.refresh();
  }

  /** Nothing waits here: what is in flight is the disk's. */
  get isEmpty(): boolean {
    return this.held === 0;
  }

  override [Symbol.dispose](): void {
    this.#unreserve();
    super[Symbol.dispose]();
  }

  protected override take(tag: number): void {
    if (this.operation[tag] === OPERATION.flush) return this.start(tag);
    this.#line.add(tag);
    this.held++;
    if (this.#live.numbers[BYTES]! > 0) this.#heldBytes += this.#limitedBytes(tag);
  }

  protected override refresh(): void {
    if (!this.#live.refresh()) return;
    this.#unreserve(); // the first in line waits for what the new limits say
    this.#isCounted = this.held === 0;
    this.#adapt();
  }

  protected override release(): void {
    const nowMs = this.#platform.now();
    const times = this.#times;
    this.#reservation[RESERVATION.nowMs] = nowMs;
    times[RECHECK_AT_MS] = nowMs + RECHECK_MS;
    const allAtOnce = times[START_MS]! < 0 && this.#isCounted && this.#takeAll();
    for (let tag = this.#line.first; tag >= 0; tag = this.#line.first) {
      if (!allAtOnce) {
        if (times[START_MS]! < 0 && !this.#reserve(tag) && !this.hurries) {
          times[RECHECK_AT_MS] = nowMs + BUSY_MS;
          break;
        }
        if (times[START_MS]! > nowMs && !this.hurries) break;
        this.#heldBytes -= this.#reservedBytes;
        this.#forget();
      }
      this.#line.shift();
      this.held--;
      this.start(tag);
    }
    if (this.held > 0) return;
    this.#heldBytes = 0;
    this.#isCounted = true;
    this.#adapt();
  }

  protected override nextMs(): number {
    const [startMs, recheckMs] = [this.#times[START_MS]!, this.#times[RECHECK_AT_MS]!];
    return startMs < 0 ? recheckMs : Math.min(startMs, recheckMs);
  }

  /** Operations that come later must not overtake those in line. */
  #adapt(): void {
    const { numbers } = this.#live;
    this.passes = !isLimited(numbers) && this.held === 0;
  }

  #limitedBytes(tag: number): number {
    return this.operation[tag] === OPERATION.discard ? 0 : this.lengthOf(tag);
  }

  /** Takes the tokens of all that waits, if there are so many: then the buckets are looked at once, not for each. */
  #takeAll(): boolean {
    const { numbers } = this.#live;
    const reservation = this.#reservation;
    if (numbers[IOPS]! > 0) {
      reservation[RESERVATION.perSecond] = numbers[IOPS]!;
      reservation[RESERVATION.burst] = numbers[IOPS_BURST]!;
      if (!this.#requests.takeThere(reservation, this.held)) return false;
    }
    if (numbers[BYTES]! === 0 || this.#heldBytes === 0) return true;
    reservation[RESERVATION.perSecond] = numbers[BYTES]!;
    reservation[RESERVATION.burst] = numbers[BYTES_BURST]!;
    if (this.#bytes.takeThere(reservation, this.#heldBytes)) return true;
    if (numbers[IOPS]! > 0) this.#requests.giveBack(this.held);
    return false;
  }

  /** Reserves what the operation needs, for all limits. False: another thread has a bucket. */
  #reserve(tag: number): boolean {
    const { numbers } = this.#live;
    const times = this.#times;
    const reservation = this.#reservation;
    let startMs = reservation[RESERVATION.nowMs]!;
    if (numbers[IOPS]! > 0) {
      reservation[RESERVATION.perSecond] = numbers[IOPS]!;
      reservation[RESERVATION.burst] = numbers[IOPS_BURST]!;
      if (!this.#requests.reserve(reservation, 1)) return false;
      this.#reservedRequests = 1;
      startMs = Math.max(startMs, reservation[RESERVATION.atMs]!);
    }
    const bytes = numbers[BYTES]! > 0 ? this.#limitedBytes(tag) : 0;
    if (bytes > 0) {
      reservation[RESERVATION.perSecond] = numbers[BYTES]!;
      reservation[RESERVATION.burst] = numbers[BYTES_BURST]!;
      if (!this.#bytes.reserve(reservation, bytes)) {
        this.#unreserve();
        return false;
      }
      this.#reservedBytes = bytes;
      startMs = Math.max(startMs, reservation[RESERVATION.atMs]!);
    }
    times[START_MS] = startMs;
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
    this.#times[START_MS] = NOT_RESERVED;
  }
}
