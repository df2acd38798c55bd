/**
 * A device's latch. The kernel reports a failed flush only once, so after one every later write of the device must
 * fail, on all of its queues and in whichever process serves it. The latch's memory outlives the connections of the
 * queues and, if the control plane keeps it in a file, the process.
 *
 * In u32 words: 0 magic; 1 version; 2 tripped; 3 held: a process has answered writes that end with it; 4 to 7 nonce of
 * the attachment that it belongs to.
 */

import { holdsNonce, type Nonce, NONCE_WORDS, storeNonce } from "../nonce.ts";

const MAGIC = 0x6c6b6278; // "xbkl"
const VERSION = 1;

const MAGIC_WORD = 0;
const VERSION_WORD = 1;
const TRIPPED_WORD = 2;
const HELD_WORD = 3;
const NONCE_WORD = 4;

/** Bytes of a latch. */
export const LATCH_BYTES = 4 * (NONCE_WORD + NONCE_WORDS);

/** A latch in shared memory. Any thread may read and trip it; only {@linkcode Latch.begin} resets it. */
export class Latch {
  readonly #words: Int32Array;

  /** In memory of {@linkcode LATCH_BYTES} bytes. All zeroes: not tripped, and it belongs to no attachment. */
  constructor(memory: Uint8Array) {
    this.#words = new Int32Array(memory.buffer, memory.byteOffset, LATCH_BYTES / 4);
  }

  /** A flush of the device failed. */
  get tripped(): boolean {
    return Atomics.load(this.#words, TRIPPED_WORD) !== 0;
  }

  trip(): void {
    Atomics.store(this.#words, TRIPPED_WORD, 1);
  }

  /** From now on answered writes may end with this process. True: an earlier one has ended so. */
  hold(): boolean {
    return Atomics.exchange(this.#words, HELD_WORD, 1) !== 0;
  }

  /** They are flushed. */
  letGo(): void {
    Atomics.store(this.#words, HELD_WORD, 0);
  }

  /** Resets the latch for a new attachment of the disk; `tripped` if its earlier state is not known. */
  begin(nonce: Nonce, tripped = false): void {
    Atomics.store(this.#words, MAGIC_WORD, 0); // invalid until everything is written
    this.#words[VERSION_WORD] = VERSION;
    Atomics.store(this.#words, HELD_WORD, 0);
    storeNonce(this.#words, NONCE_WORD, nonce);
    Atomics.store(this.#words, TRIPPED_WORD, tripped ? 1 : 0);
    Atomics.store(this.#words, MAGIC_WORD, MAGIC);
  }

  /** Whether it was last reset for that attachment. */
  belongsTo(nonce: Nonce): boolean {
    if (Atomics.load(this.#words, MAGIC_WORD) !== MAGIC || this.#words[VERSION_WORD] !== VERSION) return false;
    return holdsNonce(this.#words, NONCE_WORD, nonce);
  }
}
