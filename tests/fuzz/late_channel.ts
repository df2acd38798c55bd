/**
 * A channel whose completions come late and out of order: each is held back for some reaps after the disk is done. Nothing
 * wakes a thread for them, so it is for callers that step.
 */

import type { IoChannel } from "../../lib/storage/disk.ts";

/** Passes everything on, and owns the channel behind it. */
export class LateChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #inner: IoChannel;
  readonly #heldReaps: () => number;
  #held: { readonly tag: number; readonly result: number; reapsLeft: number }[] = [];

  /** `heldReaps` says how many reaps the next completion is held back. */
  constructor(inner: IoChannel, heldReaps: () => number) {
    this.#inner = inner;
    this.#heldReaps = heldReaps;
    this.tags = new Uint32Array(inner.tags.length);
    this.results = new Int32Array(inner.results.length);
  }

  get inFlight(): number {
    return this.#inner.inFlight + this.#held.length;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#inner.read(tag, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#inner.write(tag, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.#inner.flush(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#inner.discard(tag, offsetBytes, lengthBytes, secure);
  }

  submit(): void {
    this.#inner.submit();
  }

  reap(): number {
    const arrived = this.#inner.reap();
    for (let i = 0; i < arrived; i++) {
      this.#held.push({ tag: this.#inner.tags[i]!, result: this.#inner.results[i]!, reapsLeft: this.#heldReaps() });
    }
    let count = 0;
    this.#held = this.#held.filter((held) => {
      if (held.reapsLeft-- > 0) return true;
      this.tags[count] = held.tag;
      this.results[count++] = held.result;
      return false;
    });
    return count;
  }

  [Symbol.dispose](): void {
    this.#inner[Symbol.dispose]();
  }
}
