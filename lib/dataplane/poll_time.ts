/**
 * Decides how long a reactor polls for work before it sleeps. It polls only if its last sleeps were short because work
 * came, less often while polls find nothing, and never after a long sleep. So an idle disk is not polled. Pure: it reads
 * no clock.
 */

/** At least one in 2 to this power of sleeps begins with a poll, however many polls found nothing. */
const MOST_MISSES = 6;

/** The state of one reactor's polling. */
export class PollTime {
  #nowMs = 0;
  /** Polls without work since the last one that found some, and sleeps that will still skip polling. */
  #misses = 0;
  #toSkip = 0;

  /** `mostMs` 0: never polls. */
  constructor(readonly mostMs: number) {}

  /** How long to poll this time; 0: not at all. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** A poll found work. */
  found(): void {
    this.#misses = 0;
  }

  /** The reactor slept; `idleMs` passed between running out of work and waking. */
  idled(idleMs: number): void {
    if (this.#nowMs > 0) {
      this.#nowMs = 0;
      this.#misses = Math.min(this.#misses + 1, MOST_MISSES);
      this.#toSkip = 2 ** this.#misses - 2;
    } else if (this.#toSkip > 0) this.#toSkip--;
    else if (idleMs <= this.mostMs) this.#nowMs = this.mostMs;
  }
}
