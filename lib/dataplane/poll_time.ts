/**
 * How long a reactor looks for work before it sleeps: longer while work keeps coming just after it fell asleep, not at
 * all once it slept long. So looking pays for itself, and a disk at rest costs nothing. Pure: it reads no clock.
 */

/** The first time, when work came soon after falling asleep. */
const FIRST_MS = 0.01;

/** See the file's first lines. */
export class PollTime {
  #nowMs = 0;

  /** `mostMs` 0: never looks. */
  constructor(readonly mostMs: number) {}

  /** How long to look this time; 0: not at all. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** The reactor slept, and so long lay between running out of work and waking. */
  idled(idleMs: number): void {
    this.#nowMs = idleMs > this.mostMs ? 0 : Math.min(this.mostMs, Math.max(FIRST_MS, 2 * this.#nowMs));
  }
}
