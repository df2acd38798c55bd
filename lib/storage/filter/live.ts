/**
 * Options that change while a disk is served: numbers in shared memory, so that no message is needed. One thread writes
 * them; channels in any thread notice at their next pass, and see either all numbers of a change or none.
 */

const GENERATION = 0;
/** The numbers begin here: two words each, so that every access is atomic. */
const FIRST_WORD = 2;

/** The two words of a number. */
const SCRATCH = new Float64Array(1);
const SCRATCH_WORDS = new Int32Array(SCRATCH.buffer);

/** Memory with these numbers. */
export function createLive(values: readonly number[]): SharedArrayBuffer {
  const live = new SharedArrayBuffer((FIRST_WORD + 2 * values.length) * Int32Array.BYTES_PER_ELEMENT);
  writeLive(live, values);
  return live;
}

/** Replaces all numbers. Only one thread may do that. */
export function writeLive(live: SharedArrayBuffer, values: readonly number[]): void {
  const words = new Int32Array(live);
  Atomics.add(words, GENERATION, 1); // odd: a reader keeps what it has
  values.forEach((value, i) => {
    SCRATCH[0] = value;
    Atomics.store(words, FIRST_WORD + 2 * i, SCRATCH_WORDS[0]!);
    Atomics.store(words, FIRST_WORD + 2 * i + 1, SCRATCH_WORDS[1]!);
  });
  Atomics.add(words, GENERATION, 1);
}

/** One channel's view of the live options. */
export class LiveValues {
  /** As of the last {@linkcode refresh} that returned true: those of the live options, in the order of the definition. */
  readonly numbers: Float64Array;
  readonly #words: Int32Array;
  readonly #read: Float64Array;
  readonly #readWords: Int32Array;
  /** Changes with each change of the options; even. */
  generation = 0;

  /** Zeroes until the first refresh. */
  constructor(live: SharedArrayBuffer) {
    this.#words = new Int32Array(live);
    const length = (this.#words.length - FIRST_WORD) / 2;
    this.numbers = new Float64Array(length);
    this.#read = new Float64Array(length);
    this.#readWords = new Int32Array(this.#read.buffer);
  }

  /** The size of the disk behind the filter, in sectors of 512 bytes. */
  get sectors(): number {
    return this.numbers[this.numbers.length - 1]!;
  }

  /** Takes over a change, if there was one since the last call. */
  refresh(): boolean {
    const generation = Atomics.load(this.#words, GENERATION);
    if (generation === this.generation || (generation & 1) === 1) return false;
    for (let i = 0; i < this.#readWords.length; i++) {
      this.#readWords[i] = Atomics.load(this.#words, FIRST_WORD + i);
    }
    if (Atomics.load(this.#words, GENERATION) !== generation) return false; // the next pass has the change
    this.numbers.set(this.#read);
    this.generation = generation;
    return true;
  }
}
