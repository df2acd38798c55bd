/**
 * A device's latch: once a flush failed, the kernel will not tell of it again, so every later write of the device must
 * fail, whichever of its queues it comes by. One word of shared memory, which outlives the queues' connections.
 */

/** See the file's first lines. Any thread may look and trip; nothing in here resets it. */
export class Latch {
  readonly #word: Int32Array;

  constructor(memory: SharedArrayBuffer) {
    this.#word = new Int32Array(memory);
  }

  /** A flush of the device failed. */
  get tripped(): boolean {
    return Atomics.load(this.#word, 0) !== 0;
  }

  trip(): void {
    Atomics.store(this.#word, 0, 1);
  }
}

/** The memory of a latch that is not tripped. */
export function createLatch(): SharedArrayBuffer {
  return new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
}
