/**
 * A disk that carries nothing out until a shared word says so, as a disk that hangs; then all ends well.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel, Platform } from "../../../mod.ts";

/** Names a held disk; the first word of `held` is 1 as long as it hangs. */
export interface HeldAttachment extends DiskAttachment {
  readonly held: SharedArrayBuffer;
}

/** How often it looks at the word. */
const LOOK_MS = 5;

/** Names the disk that hangs as long as the word is 1. */
export function heldAttachment(held: SharedArrayBuffer): HeldAttachment {
  return { module: import.meta.url, held };
}

/** See DiskModule. */
export function openChannel(
  { held }: HeldAttachment,
  options: ChannelOptions,
  { platform }: ChannelContext,
): IoChannel {
  return new HeldChannel(new Int32Array(held), options, platform);
}

class HeldChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  dueMs = Infinity;
  inFlight = 0;
  readonly #held: Int32Array;
  readonly #platform: Platform;

  constructor(held: Int32Array, { depth }: ChannelOptions, platform: Platform) {
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#held = held;
    this.#platform = platform;
  }

  read(tag: number): void {
    this.tags[this.inFlight++] = tag;
  }

  write(tag: number): void {
    this.read(tag);
  }

  flush(tag: number): void {
    this.read(tag);
  }

  discard(tag: number): void {
    this.read(tag);
  }

  submit(): void {}

  reap(): number {
    const held = Atomics.load(this.#held, 0) === 1;
    const count = held ? 0 : this.inFlight;
    this.inFlight -= count;
    this.dueMs = this.inFlight > 0 ? this.#platform.now() + LOOK_MS : Infinity;
    return count;
  }

  [Symbol.dispose](): void {}
}
