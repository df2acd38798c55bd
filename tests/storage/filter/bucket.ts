/**
 * A token bucket as tests use it: with plain numbers.
 */

import { createReservation, RESERVATION, TokenBucket } from "../../../lib/storage/filter/token_bucket.ts";

/** What {@linkcode Bucket.reserve} returns if another thread has the bucket. */
export const BUCKET_BUSY = -1;

/** One thread's access to a bucket. */
export class Bucket {
  readonly #tokens: TokenBucket;
  readonly #reservation = createReservation();

  constructor(bucket: SharedArrayBuffer) {
    this.#tokens = new TokenBucket(bucket);
  }

  /** Returns when the tokens may be used. */
  reserve(nowMs: number, amount: number, perSecond: number, burst: number): number {
    this.#ask(nowMs, amount, perSecond, burst);
    return this.#tokens.reserve(this.#reservation) ? this.#reservation[RESERVATION.atMs]! : BUCKET_BUSY;
  }

  /** Takes tokens that are there. */
  takeThere(nowMs: number, amount: number, perSecond: number, burst: number): boolean {
    this.#ask(nowMs, amount, perSecond, burst);
    return this.#tokens.takeThere(this.#reservation);
  }

  #ask(nowMs: number, amount: number, perSecond: number, burst: number): void {
    this.#reservation[RESERVATION.nowMs] = nowMs;
    this.#reservation[RESERVATION.amount] = amount;
    this.#reservation[RESERVATION.perSecond] = perSecond;
    this.#reservation[RESERVATION.burst] = burst;
  }

  giveBack(amount: number): void {
    this.#tokens.giveBack(amount);
  }

  empty(): void {
    this.#tokens.empty();
  }
}
