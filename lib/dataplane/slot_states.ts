/**
 * Where each of a queue's slots stands: free, or in one phase of a request's way from the ring to its response. Shared
 * by the parts of a queue, which alone decide when a slot goes on. Nothing is allocated after construction.
 */

/** What a slot waits for. A free slot has no phase: it is on the free list. */
export const PHASE_TAKEN = 1; // for room, for transfer() to fetch its data, then to be started
export const PHASE_FLUSH_BEFORE = 2; // for the flush that precedes its data
export const PHASE_DATA = 3; // for its read, write or discard
export const PHASE_FLUSH_AFTER = 4; // for the flush that follows a barrier's data
export const PHASE_FINISHED = 5; // for its response

/** In place of a slot's number: there is none. */
export const NO_SLOT = -1;

/** See the file's first lines. */
export class SlotStates {
  /** By slot, while it is taken: one of the phases. */
  readonly phase: Uint8Array;
  /** A barrier that waits for earlier requests, or is carried out. Nothing is taken behind it. */
  barrier: number = NO_SLOT;
  readonly #free: Uint16Array;
  #freeCount = 0;

  /** All are free but those in `taken`. */
  constructor(count: number, taken: readonly number[]) {
    this.phase = new Uint8Array(count);
    this.#free = new Uint16Array(count);
    for (let slot = count - 1; slot >= 0; slot--) {
      if (!taken.includes(slot)) this.#free[this.#freeCount++] = slot;
    }
  }

  /** Slots that are not free. */
  get inUse(): number {
    return this.phase.length - this.#freeCount;
  }

  get anyFree(): boolean {
    return this.#freeCount > 0;
  }

  /** A free slot, which then is none; only while there is {@linkcode anyFree}. */
  take(): number {
    return this.#free[--this.#freeCount]!;
  }

  /** A slot whose request is answered. */
  giveBack(slot: number): void {
    if (slot === this.barrier) this.barrier = NO_SLOT;
    this.#free[this.#freeCount++] = slot;
  }
}
