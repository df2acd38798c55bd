/**
 * Whether a simulated process lives, in memory that all its threads share: the switch that kills it, the number of
 * threads that have not ended yet, and the pages that it holds, which the kernel takes back.
 */

import { PAGE_BYTES } from "../units.ts";

/** It lives. */
const ALIVE = 0;
/** It dies when it next notifies a guest, before that. */
const DIES_AT_NOTIFY = 1;
/** It was killed: none of its threads has an effect any more. */
const DEAD = 2;

const STATE_WORD = 0;
const THREADS_WORD = 1;
/** Where the list of pages begins: pairs of the first frame and the number of frames, which is 0 for a free entry. */
const BLOCKS_WORD = 16;
/** Most pieces of memory that a process can have: some for each ring. */
const MOST_BLOCKS = 16_384;

/** A call of a process that was killed. Nothing catches it in order to go on. */
export class ProcessKilledError extends Error {
  constructor() {
    super("the process was killed");
  }
}

/** One thread's view of a process's life. */
export class Life {
  readonly #words: Int32Array;

  constructor(readonly buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Of a process that begins. */
  static begin(): Life {
    return new Life(new SharedArrayBuffer(4 * (BLOCKS_WORD + 2 * MOST_BLOCKS)));
  }

  get dead(): boolean {
    return Atomics.load(this.#words, STATE_WORD) === DEAD;
  }

  /** Throws {@linkcode ProcessKilledError} once the process is dead. */
  assert(): void {
    if (this.dead) throw new ProcessKilledError();
  }

  /** The same before a guest is notified, where the process may have to die. */
  assertAtNotify(): void {
    if (Atomics.compareExchange(this.#words, STATE_WORD, DIES_AT_NOTIFY, DEAD) === DIES_AT_NOTIFY) {
      Atomics.notify(this.#words, STATE_WORD);
    }
    this.assert();
  }

  /** Kills it. */
  end(): void {
    Atomics.store(this.#words, STATE_WORD, DEAD);
    Atomics.notify(this.#words, STATE_WORD);
  }

  /** Lets it die at its next notification; resolves when it has. */
  async endAtNotify(): Promise<void> {
    Atomics.compareExchange(this.#words, STATE_WORD, ALIVE, DIES_AT_NOTIFY);
    while (!this.dead) await Atomics.waitAsync(this.#words, STATE_WORD, DIES_AT_NOTIFY).value;
  }

  /** A thread that sleeps in a Parker has begun. */
  threadBegan(): void {
    Atomics.add(this.#words, THREADS_WORD, 1);
  }

  /** Such a thread has ended, or does nothing any more. */
  threadEnded(): void {
    Atomics.sub(this.#words, THREADS_WORD, 1);
    Atomics.notify(this.#words, THREADS_WORD);
  }

  /** Resolves when no such thread is left. */
  async threadsEnded(): Promise<void> {
    for (let left = this.#threads; left > 0; left = this.#threads) {
      await Atomics.waitAsync(this.#words, THREADS_WORD, left).value;
    }
  }

  get #threads(): number {
    return Atomics.load(this.#words, THREADS_WORD);
  }

  /** Notes pages; returns the entry for {@linkcode Life.freed}. */
  allocated(address: number, lengthBytes: number): number {
    const pages = Math.ceil(lengthBytes / PAGE_BYTES);
    for (let entry = BLOCKS_WORD; entry < this.#words.length; entry += 2) {
      if (Atomics.compareExchange(this.#words, entry + 1, 0, pages) !== 0) continue;
      Atomics.store(this.#words, entry, address / PAGE_BYTES);
      return entry;
    }
    throw new RangeError(`the simulated process has ${MOST_BLOCKS} pieces of memory already`);
  }

  /** Takes the pages off the list. False: the kernel has taken them. */
  freed(entry: number): boolean {
    return !this.dead && Atomics.exchange(this.#words, entry + 1, 0) !== 0;
  }

  /** All pages that are left, as `[first frame, frames]`, which are off the list then. Once no thread is left. */
  takeAll(): [number, number][] {
    const left: [number, number][] = [];
    for (let entry = BLOCKS_WORD; entry < this.#words.length; entry += 2) {
      const pages = Atomics.exchange(this.#words, entry + 1, 0);
      if (pages > 0) left.push([this.#words[entry]!, pages]);
    }
    return left;
  }
}
