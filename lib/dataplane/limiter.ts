/**
 * Puts the filter `throttle` before the channel of a ring while its disk has limits, and takes it away again: without
 * limits no request passes through it. The limits are in shared memory, so a change needs no message: a reactor looks at
 * one word before each visit to the ring.
 */

import type { Platform } from "../hypervisor.ts";
import type { ChannelOptions, IoChannel } from "../storage/disk.ts";
import { LiveValues } from "../storage/filter/live.ts";
import { isLimited, ThrottledChannel, type ThrottleMemory } from "../storage/filter/throttled_channel.ts";

/** For a ring whose disk has no limits, ever. */
const UNCHANGED = new Int32Array(1);

/** The way of one ring to its disk. It owns the channel. */
export class Limiter implements Disposable {
  readonly #inner: IoChannel;
  readonly #options: ChannelOptions;
  readonly #memory: ThrottleMemory | undefined;
  readonly #platform: Platform;
  readonly #live: LiveValues | undefined;
  /** The first one changes with the limits. */
  readonly #words: Int32Array;
  #seen = 0;
  #throttled: ThrottledChannel | undefined;
  #hurries = false;

  /** `options` are those that the channel was opened with. Without `memory` nothing is ever limited. */
  constructor(inner: IoChannel, options: ChannelOptions, memory: ThrottleMemory | undefined, platform: Platform) {
    this.#inner = inner;
    this.#options = options;
    this.#memory = memory;
    this.#platform = platform;
    this.#live = memory && new LiveValues(memory.live);
    this.#words = memory === undefined ? UNCHANGED : new Int32Array(memory.live);
    this.adapt();
  }

  /** Where the ring's operations go at present. */
  get channel(): IoChannel {
    return this.#throttled ?? this.#inner;
  }

  /** The limits have changed since the last call of {@linkcode adapt}. */
  get isStale(): boolean {
    return this.#words[0] !== this.#seen;
  }

  /** Takes over changed limits. To be called between two passes; {@linkcode channel} may be another one then. */
  adapt(): void {
    if (this.#live === undefined || this.#memory === undefined) return;
    const generation = Atomics.load(this.#words, 0);
    if (!this.#live.refresh() && this.#live.generation !== generation) return; // they are being written
    if (!isLimited(this.#live.numbers)) {
      if (!this.#takeAway()) return;
    } else {
      this.#throttled ??= new ThrottledChannel(this.#inner, this.#options, this.#memory, this.#platform);
      this.#throttled.hurries = this.#hurries;
    }
    this.#seen = this.#live.generation;
  }

  /**
   * True: what waits is started at the next pass, because the ring must be given up soon; the disk's later requests wait
   * so much longer.
   */
  set hurries(hurries: boolean) {
    this.#hurries = hurries;
    if (this.#throttled !== undefined) this.#throttled.hurries = hurries;
  }

  [Symbol.dispose](): void {
    this.channel[Symbol.dispose]();
  }

  /** What waits is started first. What is in flight completes with the same tags. */
  #takeAway(): boolean {
    this.#throttled?.submit();
    if (this.#throttled?.isEmpty === false) return false;
    this.#throttled = undefined;
    return true;
  }
}
