/**
 * How busy the I/O Workers are with one disk, in memory that they share with the reactors: how many Workers carry out its
 * jobs, how many have it open, and whether its jobs take long. If they take long, several Workers should wait for this disk at once.
 */

const BUSY_WORKERS = 0;
const SLOW_VISITS = 1;
const OPENED = 2;
const BYTES = 3 * Int32Array.BYTES_PER_ELEMENT;

/** A job that takes longer makes its disk count as slow. */
const SLOW_JOB_MS = 0.02;
/** Visits that a disk counts as slow after a slow job. */
const SLOW_FOR_VISITS = 64;

/** One thread's view of a disk's load. */
export class DiskLoad {
  readonly #words: Int32Array;

  /** Memory for the load of a disk. */
  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(BYTES);
  }

  constructor(buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Whether an I/O Worker carries out jobs of the disk. */
  get busy(): boolean {
    return Atomics.load(this.#words, BUSY_WORKERS) > 0;
  }

  /** Whether jobs of the disk took long lately. */
  get slow(): boolean {
    return Atomics.load(this.#words, SLOW_VISITS) > 0;
  }

  /**
   * Counts this Worker among those busy with the disk, unless there are enough. Never counts too many even for a moment:
   * a Worker that is refused may rely on a busy one to look for jobs again.
   */
  enter(most: number): boolean {
    while (true) {
      const busy = Atomics.load(this.#words, BUSY_WORKERS);
      if (busy >= most) return false;
      if (Atomics.compareExchange(this.#words, BUSY_WORKERS, busy, busy + 1) === busy) return true;
    }
  }

  /** Undoes {@linkcode enter}. */
  leave(): void {
    Atomics.sub(this.#words, BUSY_WORKERS, 1);
  }

  /** Workers that have the disk open. */
  get opened(): number {
    return Atomics.load(this.#words, OPENED);
  }

  /** This Worker opened the disk (1), or closed it (-1). */
  countOpened(change: 1 | -1): void {
    Atomics.add(this.#words, OPENED, change);
  }

  /** A visit took so long per job. Other Workers judge at the same time; losing one judgement does no harm. */
  judge(jobMs: number): void {
    const slowVisits = Atomics.load(this.#words, SLOW_VISITS);
    if (jobMs > SLOW_JOB_MS) Atomics.store(this.#words, SLOW_VISITS, SLOW_FOR_VISITS);
    else if (slowVisits > 0) Atomics.store(this.#words, SLOW_VISITS, slowVisits - 1);
  }
}
