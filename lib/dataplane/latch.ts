/**
 * A device's latch: once a flush failed, the kernel will not tell of it again, so every later write of the device must
 * fail, whichever of its queues it comes by, and whichever process serves it. It is given its memory, which outlives
 * the queues' connections and, where the control plane keeps it, the process too.
 *
 * As u32 words: 0 magic, 1 version, 2 tripped, 3 unused, 4..7 the nonce of the attachment that it is for.
 */

import { holdsNonce, type Nonce, NONCE_WORDS, storeNonce } from "../nonce.ts";

const MAGIC = 0x6c6b6278; // "xbkl"
const VERSION = 1;

const MAGIC_WORD = 0;
const VERSION_WORD = 1;
const TRIPPED_WORD = 2;
const NONCE_WORD = 4;

/** Bytes of a latch. */
export const LATCH_BYTES = 4 * (NONCE_WORD + NONCE_WORDS);

/** See the file's first lines. Any thread may look and trip; only {@linkcode Latch.begin} resets it. */
export class Latch {
  readonly #words: Int32Array;

  /** Over memory of {@linkcode LATCH_BYTES} bytes; zeroes are a latch that is not tripped and belongs to nobody. */
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

  /** Starts anew, not tripped, for an attachment whose writes nobody has lost yet. */
  begin(nonce: Nonce): void {
    Atomics.store(this.#words, MAGIC_WORD, 0); // not valid until all is written
    this.#words[VERSION_WORD] = VERSION;
    storeNonce(this.#words, NONCE_WORD, nonce);
    Atomics.store(this.#words, TRIPPED_WORD, 0);
    Atomics.store(this.#words, MAGIC_WORD, MAGIC);
  }

  /** Whether it was begun for that attachment. */
  belongsTo(nonce: Nonce): boolean {
    if (Atomics.load(this.#words, MAGIC_WORD) !== MAGIC || this.#words[VERSION_WORD] !== VERSION) return false;
    return holdsNonce(this.#words, NONCE_WORD, nonce);
  }
}
