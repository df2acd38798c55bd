/**
 * How long a reactor looks for work before it sleeps: only where work has been coming just after it fell asleep, more
 * and more seldom while looking finds none, and not at all once it slept long. So looking pays for itself, and a disk at
 * rest costs nothing. Pure: it reads no clock.
 */

/** After so many looks in vain at most, one in 2 to this power of sleeps begins with a look. */
const MOST_MISSES = 6;

/** See the file's first lines. */
export class PollTime {
  #nowMs = 0;
  /** Looks in vain since the last that found something, and sleeps that still come without one. */
  #misses = 0;
  #toSkip = 0;

  /** `mostMs` 0: never looks. */
  constructor(readonly mostMs: number) {}

  /** How long to look this time; 0: not at all. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** A look found work. */
  found(): void {
    this.#misses = 0;
  }

  /** The reactor slept, and so long lay between running out of work and waking. */
  idled(idleMs: number): void {
    if (this.#nowMs > 0) {
      this.#nowMs = 0;
      this.#misses = Math.min(this.#misses + 1, MOST_MISSES);
      this.#toSkip = 2 ** this.#misses - 2;
    } else if (this.#toSkip > 0) this.#toSkip--;
    else if (idleMs <= this.mostMs) this.#nowMs = this.mostMs;
  }
}
