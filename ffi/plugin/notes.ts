/**
 * What the channels of a plugin's disk tell the control plane, in shared words that the plugin's process cannot reach: what
 * it did against the rules, and whether answered writes wait for a flush.
 */

import { errnoName } from "../../lib/errno.ts";

/** What a plugin's process did that it must not, or did not do in time. */
export const BREACH = { index: 1, tag: 2, result: 3, age: 4 } as const;

const BREACH_WORD = 0;
const BREACH_VALUE = 1;
/** Counts of writes that were answered, and of those that the last flush covers. */
const WRITTEN = 2;
const FLUSHED = 3;
/** By channel: how often its rings began anew. */
const BEGINNINGS = 4;

/** One thread's view. */
export class PluginNotes {
  readonly #words: Int32Array;

  /** Memory for a disk with so many channels. */
  static allocate(channels: number): SharedArrayBuffer {
    return new SharedArrayBuffer((BEGINNINGS + channels) * Int32Array.BYTES_PER_ELEMENT);
  }

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /** A channel reports what the process did. The first report counts. */
  accuse(breach: number, value: number): void {
    if (Atomics.compareExchange(this.#words, BREACH_WORD, 0, -1) !== 0) return;
    Atomics.store(this.#words, BREACH_VALUE, value);
    Atomics.store(this.#words, BREACH_WORD, breach);
  }

  /** Whether a channel has reported something. */
  get isAccused(): boolean {
    return Atomics.load(this.#words, BREACH_WORD) > 0;
  }

  /** What a channel has reported, for people, and forgets it. */
  takeAccusation(): string | undefined {
    const value = Atomics.load(this.#words, BREACH_VALUE);
    switch (Atomics.exchange(this.#words, BREACH_WORD, 0)) {
      case BREACH.index:
        return `it broke the protocol: it reports ${value} completions at once, more than there are requests`;
      case BREACH.tag:
        return `it broke the protocol: it reports the completion of request ${value}, which is not in flight`;
      case BREACH.result:
        return `it broke the protocol: it reports the result ${value > 0 ? value : errnoName(-value)}`;
      case BREACH.age:
        return `it hangs: a request was not carried out within ${value / 1000} s`;
      default:
        return undefined;
    }
  }

  /** Counts a write that is about to be answered. */
  wrote(): void {
    Atomics.add(this.#words, WRITTEN, 1);
  }

  /** Writes that were answered; what a flush that begins now covers. */
  get written(): number {
    return Atomics.load(this.#words, WRITTEN);
  }

  /** A flush that covers so many writes is done. */
  flushed(written: number): void {
    for (;;) {
      const before = Atomics.load(this.#words, FLUSHED);
      if ((written - before | 0) <= 0) return;
      if (Atomics.compareExchange(this.#words, FLUSHED, before, written) === before) return;
    }
  }

  /** Whether answered writes wait for a flush. */
  get isUnflushed(): boolean {
    return Atomics.load(this.#words, WRITTEN) !== Atomics.load(this.#words, FLUSHED);
  }

  /** The count of a channel's new beginning, from 1 to 65535. */
  begin(channel: number): number {
    return (Atomics.add(this.#words, BEGINNINGS + channel, 1) & 0xFFFF) % 0xFFFF + 1;
  }
}
