/**
 * A budget per second that any number of threads share: tokens flow into a bucket, and who needs some reserves them in
 * advance. A reservation that the bucket cannot cover yet says when it will, so reservations are served in their order,
 * whichever thread made them, and large ones are not starved by small ones.
 *
 * The bucket is in shared memory. A word that is taken by compare-and-swap guards it for some nanoseconds; nobody waits
 * for it without a limit.
 */

const BYTES = 24;
/** Int32 of the lock; Float64 of the tokens in the bucket and of the time when they were counted. */
const LOCK = 0;
const LEVEL = 1;
const COUNTED_MS = 2;

/** Tries to take the lock; its owner may have lost its processor. */
const MOST_TRIES = 200;
/** A clock that is so far behind was set: the tokens since then are not known. Less is the difference between threads. */
const MOST_SKEW_MS = 1000;
/** The size of a bucket that is not given: what flows in during so many seconds. */
const DEFAULT_BURST_S = 0.1;

/** In place of the time when tokens were counted: there are none yet, and they are counted from the first look on. */
const NOT_COUNTED_MS = -1;

/**
 * What a reservation is made with, and its outcome, by index into an array of numbers, because a number that is handed to
 * a function may be allocated for that.
 */
export const RESERVATION = { nowMs: 0, perSecond: 1, burst: 2, amount: 3, atMs: 4 } as const;

/** An array for reservations. */
export function createReservation(): Float64Array {
  return new Float64Array(5);
}

/** A new bucket. It is full, whatever its size will be. */
export function createBucket(): SharedArrayBuffer {
  return new SharedArrayBuffer(BYTES);
}

/** One thread's access to a bucket. The rate and the size may differ from call to call: they are the caller's. */
export class TokenBucket {
  readonly #lock: Int32Array;
  readonly #numbers: Float64Array;

  constructor(bucket: SharedArrayBuffer) {
    this.#lock = new Int32Array(bucket);
    this.#numbers = new Float64Array(bucket);
  }

  /**
   * Takes tokens out of the bucket, even if it then holds less than none. Sets `atMs`, when they may be used, on the clock
   * of `nowMs`: at once if there were enough. More tokens than the bucket can hold may be used once it is full. `burst`:
   * the size of the bucket; 0: what flows in during 0.1 s, and at least one. False: another thread has the bucket, try
   * again.
   */
  reserve(reservation: Float64Array): boolean {
    if (!this.#take()) return false;
    const amount = reservation[RESERVATION.amount]!;
    const nowMs = reservation[RESERVATION.nowMs]!;
    const perSecond = reservation[RESERVATION.perSecond]!;
    const size = bucketSize(reservation);
    this.#fill(reservation, size);
    const level = this.#numbers[LEVEL]! -= amount;
    this.#release();
    const missing = Math.min(0, size - amount) - level;
    reservation[RESERVATION.atMs] = missing > 0 ? nowMs + missing * 1000 / perSecond : nowMs;
    return true;
  }

  /** Takes tokens that are there and may be used at once; if there are fewer, or another thread has the bucket, none. */
  takeThere(reservation: Float64Array): boolean {
    if (!this.#take()) return false;
    const amount = reservation[RESERVATION.amount]!;
    this.#fill(reservation, bucketSize(reservation));
    const isThere = this.#numbers[LEVEL]! >= amount;
    if (isThere) this.#numbers[LEVEL]! -= amount;
    this.#release();
    return isThere;
  }

  /** Whoever reserves next finds no tokens: nothing is saved up of the time before. */
  empty(): void {
    if (!this.#take()) return; // whoever has it begins with a full one
    this.#numbers[LEVEL] = 0;
    this.#numbers[COUNTED_MS] = NOT_COUNTED_MS;
    this.#release();
  }

  /** Returns tokens that were reserved and not used. */
  giveBack(amount: number): void {
    if (!this.#take()) return; // the rate is a little lower then, for a moment
    this.#numbers[LEVEL]! += amount;
    this.#release();
  }

  /** Counts what has flowed in since the last look. */
  #fill(reservation: Float64Array, size: number): void {
    const numbers = this.#numbers;
    const nowMs = reservation[RESERVATION.nowMs]!;
    const countedMs = numbers[COUNTED_MS]!;
    const isNew = countedMs === NOT_COUNTED_MS;
    const elapsedMs = isNew ? 0 : nowMs - countedMs;
    const flowed = elapsedMs > 0 ? elapsedMs * reservation[RESERVATION.perSecond]! / 1000 : 0;
    numbers[LEVEL] = Math.min(size, Math.min(numbers[LEVEL]!, size) + flowed);
    if (elapsedMs > 0 || elapsedMs < -MOST_SKEW_MS || isNew) numbers[COUNTED_MS] = nowMs;
  }

  #take(): boolean {
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      if (Atomics.compareExchange(this.#lock, LOCK, 0, 1) === 0) return true;
    }
    return false;
  }

  #release(): void {
    Atomics.store(this.#lock, LOCK, 0);
  }
}

/** Most tokens in a bucket. */
export function bucketSize(reservation: Float64Array): number {
  const burst = reservation[RESERVATION.burst]!;
  return burst > 0 ? burst : Math.max(1, reservation[RESERVATION.perSecond]! * DEFAULT_BURST_S);
}
