/**
 * What the limits of a disk leave, as one thread sees it: the live options of the filter `throttle`, and the buckets that
 * all rings share. A limit counts reads and writes together or only one of both; so there are two buckets of requests and
 * two of bytes: of reads, or of all operations, and of writes.
 */

import type { Platform } from "../../hypervisor.ts";
import { LiveValues } from "./live.ts";
import { bucketSize, createBucket, createReservation, RESERVATION, TokenBucket } from "./token_bucket.ts";

/** Where the live options are: in the order of their definition. */
const IOPS = 0;
const IOPS_BURST = 1;
const BYTES = 2;
const BYTES_BURST = 3;
/** Those of writes follow. */
const READ_IOPS = 4;
const READ_BYTES = 6;

/** Of an operation: which limits hold for it where reads and writes are limited apart. A discard is a write. */
export const SIDE = { read: 0, write: 1 } as const;
/** The first bucket of bytes; before it those of requests. That of reads, or of all, comes first. */
const OF_BYTES = 2;
const BUCKETS = 4;
const NO_TIME = -1;
/** All rings of a disk together have so much of the size of a bucket in advance: its size holds nearly for them. */
const IN_ADVANCE = 1 / 32;

/** The buckets that all rings of a disk share. */
export interface ThrottleState {
  /** Of requests per second: of reads, or of all operations; and of writes. */
  readonly requests: readonly [SharedArrayBuffer, SharedArrayBuffer];
  /** Of bytes per second, likewise. */
  readonly bytes: readonly [SharedArrayBuffer, SharedArrayBuffer];
}

/** What the rings of a disk share: the live options and the buckets. */
export interface ThrottleMemory {
  /** The options: see live.ts. */
  readonly live: SharedArrayBuffer;
  /** The buckets. */
  readonly state: ThrottleState;
}

/** Full buckets. */
export function createThrottleState(): ThrottleState {
  return { requests: [createBucket(), createBucket()], bytes: [createBucket(), createBucket()] };
}

/** Whether live options limit anything. */
export function isLimited(numbers: Float64Array): boolean {
  return numbers[IOPS]! > 0 || numbers[BYTES]! > 0 || isApart(numbers, READ_IOPS) || isApart(numbers, READ_BYTES);
}

function isApart(numbers: Float64Array, reads: number): boolean {
  return numbers[reads]! > 0 || numbers[reads + 1]! > 0;
}

/** A sum of operations, by index: requests that read, requests that write, bytes read, bytes written. */
export class Tally {
  readonly amounts: Float64Array = new Float64Array(BUCKETS);

  /** Counts `requests` operations of one side with so many bytes together. */
  add(side: number, requests: number, lengthBytes: number): void {
    this.amounts[side]! += requests;
    this.amounts[OF_BYTES + side]! += lengthBytes;
  }

  /** Nothing is counted. */
  clear(): void {
    this.amounts.fill(0);
  }
}

/** Tokens that were taken for one operation, and when it may start. */
export class Reserved {
  /** By bucket. */
  readonly amounts: Float64Array = new Float64Array(BUCKETS);
  /** One number: the time; negative: nothing is reserved. A property would be allocated anew with each change. */
  readonly startMs: Float64Array = new Float64Array([NO_TIME]);

  /** The tokens are used up. */
  clear(): void {
    this.amounts.fill(0);
    this.startMs[0] = NO_TIME;
  }
}

/** The limits and the buckets of a disk. */
export class Budget {
  readonly #live: LiveValues;
  readonly #buckets: readonly TokenBucket[];
  /** By bucket; 0: no limit. */
  readonly #perSecond: Float64Array = new Float64Array(BUCKETS);
  readonly #reservation: Float64Array = createReservation();
  readonly #readClock: (into: Float64Array, index: number) => void;
  /** What the operation at hand takes, by bucket. */
  readonly #amounts: Float64Array = new Float64Array(BUCKETS);
  /** Tokens that were taken in advance, by bucket: Infinity where there is no limit. */
  readonly #credit: Float64Array = new Float64Array(BUCKETS).fill(Infinity);
  readonly #rings: number;
  #requestsApart = false;
  #bytesApart = false;

  /** Without limits until the first {@linkcode refresh}. `rings`: of the disk. */
  constructor(
    { live, state: { requests, bytes } }: ThrottleMemory,
    platform: Pick<Platform, "now" | "readClock">,
    rings: number,
  ) {
    this.#live = new LiveValues(live);
    this.#buckets = [...requests, ...bytes].map((bucket) => new TokenBucket(bucket));
    this.#readClock = platform.readClock?.bind(platform) ?? ((into, index) => void (into[index] = platform.now()));
    this.#rings = rings;
  }

  /** Something is limited. */
  get isLimited(): boolean {
    return isLimited(this.#live.numbers);
  }

  /** Reads and writes are not limited together: those of one side need not wait for the other's. */
  get isApart(): boolean {
    return this.#requestsApart || this.#bytesApart;
  }

  /** The number of bytes matters. */
  get countsBytes(): boolean {
    return this.#perSecond[OF_BYTES]! > 0 || this.#perSecond[OF_BYTES + 1]! > 0;
  }

  /** Reads the clock for what is taken next: its time is then the number `nowMs` of {@linkcode RESERVATION} here. */
  lookAtClock(): Float64Array {
    this.#readClock(this.#reservation, RESERVATION.nowMs);
    return this.#reservation;
  }

  /** Takes over changed limits. False: there are none. */
  refresh(): boolean {
    if (!this.#live.refresh()) return false;
    const { numbers } = this.#live;
    this.#requestsApart = isApart(numbers, READ_IOPS);
    this.#bytesApart = isApart(numbers, READ_BYTES);
    for (let side = 0; side < 2; side++) {
      const together = side === 0;
      this.#perSecond[side] = this.#requestsApart ? numbers[READ_IOPS + side]! : together ? numbers[IOPS]! : 0;
      this.#perSecond[OF_BYTES + side] = this.#bytesApart
        ? numbers[READ_BYTES + side]!
        : together
        ? numbers[BYTES]!
        : 0;
    }
    // What was taken under other limits is lost.
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      this.#credit[bucket] = this.#perSecond[bucket] === 0 ? Infinity : 0;
    }
    return true;
  }

  /**
   * Takes the tokens of operations out of what was taken in advance, without a look at the buckets or the clock. False:
   * that is not enough, and none was taken.
   */
  spend(reads: number, writes: number, readBytes: number, writtenBytes: number): boolean {
    const credit = this.#credit;
    const requests = this.#requestsApart ? reads : reads + writes;
    const bytes = this.#bytesApart ? readBytes : readBytes + writtenBytes;
    if (requests > credit[0]! || writes > credit[1]! || bytes > credit[2]! || writtenBytes > credit[3]!) return false;
    credit[0]! -= requests;
    credit[1]! -= writes;
    credit[2]! -= bytes;
    credit[3]! -= writtenBytes;
    return true;
  }

  /** Gets what these operations need, and some in advance. False: there is not enough in a bucket. */
  earn(tally: Tally): boolean {
    this.#amountsOf(tally.amounts);
    for (let bucket = 0; bucket < BUCKETS; bucket++) if (!this.#earnFrom(bucket)) return false;
    return true; // of several limits, what was taken for one serves later operations if another one leaves too little
  }

  #earnFrom(bucket: number): boolean {
    const credit = this.#credit;
    const reservation = this.#reservation;
    if (!(this.#amounts[bucket]! > credit[bucket]!)) return true;
    this.#ask(bucket);
    const tokens = this.#buckets[bucket]!;
    const missing = reservation[RESERVATION.amount]! -= credit[bucket]!;
    reservation[RESERVATION.amount]! += Math.floor(bucketSize(reservation) * IN_ADVANCE / this.#rings);
    let isThere = tokens.takeThere(reservation);
    if (!isThere) {
      reservation[RESERVATION.amount] = missing;
      isThere = tokens.takeThere(reservation);
    }
    if (isThere) credit[bucket]! += reservation[RESERVATION.amount]!;
    return isThere;
  }

  /** Takes the tokens of all operations, if there are so many; else, or if another thread has a bucket, none. */
  takeThere(tally: Tally): boolean {
    const amounts = this.#amountsOf(tally.amounts);
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      if (amounts[bucket] === 0) continue;
      this.#ask(bucket);
      if (this.#buckets[bucket]!.takeThere(this.#reservation)) continue;
      this.#giveBack(amounts, bucket);
      return false;
    }
    return true;
  }

  /** Reserves what the operations need, for all limits. False: another thread has a bucket, and nothing is reserved. */
  reserve(tally: Tally, into: Reserved): boolean {
    const amounts = this.#amountsOf(tally.amounts);
    const reservation = this.#reservation;
    let startMs = reservation[RESERVATION.nowMs]!;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      if (amounts[bucket] === 0) continue;
      this.#ask(bucket);
      if (!this.#buckets[bucket]!.reserve(reservation)) {
        this.#giveBack(amounts, bucket);
        return false;
      }
      startMs = Math.max(startMs, reservation[RESERVATION.atMs]!);
    }
    into.amounts.set(amounts);
    into.startMs[0] = startMs;
    return true;
  }

  /** Returns what was reserved. */
  unreserve(reserved: Reserved): void {
    this.#giveBack(reserved.amounts, BUCKETS);
    reserved.clear();
  }

  #amountsOf(sums: Float64Array): Float64Array {
    const amounts = this.#amounts;
    const perSecond = this.#perSecond;
    for (let first = 0; first < BUCKETS; first += 2) {
      const isApart = first === OF_BYTES ? this.#bytesApart : this.#requestsApart;
      const ofReads = sums[first]!;
      const ofWrites = sums[first + 1]!;
      amounts[first] = perSecond[first] === 0 ? 0 : isApart ? ofReads : ofReads + ofWrites;
      amounts[first + 1] = perSecond[first + 1] === 0 ? 0 : ofWrites;
    }
    return amounts;
  }

  /** For the amount of the operation at hand. */
  #ask(bucket: number): void {
    const { numbers } = this.#live;
    this.#reservation[RESERVATION.amount] = this.#amounts[bucket]!;
    this.#reservation[RESERVATION.perSecond] = this.#perSecond[bucket]!;
    this.#reservation[RESERVATION.burst] = numbers[bucket < OF_BYTES ? IOPS_BURST : BYTES_BURST]!;
  }

  /** Those of the buckets below `end`. */
  #giveBack(amounts: Float64Array, end: number): void {
    for (let bucket = 0; bucket < end; bucket++) {
      if (amounts[bucket]! > 0) this.#buckets[bucket]!.giveBack(amounts[bucket]!);
    }
  }
}
