/**
 * Which channel has which part of a write log. The control plane gives a part away, with memory for it; the channel takes
 * it in its own thread, and lets go of it when it is closed.
 */

import { XenblkError } from "../../errors.ts";

/** In place of a lease: nobody has the part. Leases that were given are even, and one more once they are taken. */
const FREE = 0;
const LEASE_STEP = 2;

/** A part that was given to a channel. Structured-cloneable. */
export interface PartLease {
  readonly words: SharedArrayBuffer;
  readonly part: number;
  readonly lease: number;
}

/** The parts of one log. */
export class LogParts {
  readonly #words: Int32Array<SharedArrayBuffer>;
  #last = FREE;

  constructor(count: number) {
    this.#words = new Int32Array(new SharedArrayBuffer(count * Int32Array.BYTES_PER_ELEMENT));
  }

  /** Gives a free part away, the first one; if there is none, the one that has waited longest for its channel. */
  give(): PartLease | undefined {
    const words = this.#words;
    const lease = this.#last += LEASE_STEP;
    const states = [...words.keys()].map((part) => ({ part, state: Atomics.load(words, part) }));
    const untaken = states.filter(({ state }) => state % LEASE_STEP === 0).sort((a, b) => a.state - b.state);
    const given = untaken.find(({ part, state }) => Atomics.compareExchange(words, part, state, lease) === state);
    return given && { words: words.buffer, part: given.part, lease };
  }
}

/** Takes a part that was given to the calling channel. Throws {@linkcode XenblkError} if it has gone to another one. */
export function takePart({ words, part, lease }: PartLease): Disposable {
  const states = new Int32Array(words);
  if (Atomics.compareExchange(states, part, lease, lease + 1) !== lease) {
    throw new XenblkError("Cannot open I/O channel: its part of the disk's write log has gone to another one");
  }
  return { [Symbol.dispose]: () => void Atomics.store(states, part, FREE) };
}
