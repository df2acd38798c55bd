/**
 * Puts the filter `throttle` before the channel of a ring while its disk has limits, and takes it away again: without
 * limits no request passes through it. With limits that leave enough for all that a pass starts, that is paid for at once,
 * and goes straight to the disk, too. The limits are in shared memory, so a change needs no message: a reactor looks at one
 * word before each visit to the ring.
 */

import { OP_DISCARD, OP_READ } from "../blkif/abi.ts";
import type { Platform } from "../hypervisor.ts";
import type { ChannelOptions, IoChannel } from "../storage/disk.ts";
import { isLimited, type ThrottleMemory } from "../storage/filter/budget.ts";
import { LiveValues } from "../storage/filter/live.ts";
import { ThrottledChannel } from "../storage/filter/throttled_channel.ts";
import { PHASE_TAKEN, type SlotTable } from "./slot_table.ts";

/** For a ring whose disk has no limits, ever. */
const UNCHANGED = new Int32Array(1);

/** In place of the bytes of requests: some of them are refused, or have no data. */
export const SOME_WITHOUT_DATA = -1;

/** The way of one ring to its disk while that has limits. */
export interface Gate {
  /** Where the ring's operations are submitted and reaped at present. */
  readonly channel: IoChannel;
  /**
   * Pays for the requests that are about to start, those of the taken slots from `begin` to `end`, if the limits leave so
   * much. `dataBytes`: of all of them, or {@linkcode SOME_WITHOUT_DATA}. Returns the channel that they go to.
   */
  open(slots: StartingSlots, begin: number, end: number, dataBytes: number): IoChannel;
}

/** What is known of slots that are about to start; see slot_table.ts. */
export type StartingSlots = Pick<SlotTable, "taken" | "phase" | "operation" | "lengthBytes">;

/** The way of one ring to its disk. It owns the channel. */
export class Limiter implements Disposable, Gate {
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
  readonly #rings: number;
  /**
   * Where the ring's operations are submitted and reaped at present. It is the disk's own if the last pass passed the limits
   * by, and so has all that is in flight.
   */
  channel: IoChannel;

  /** `options` are those that the channel was opened with. Without `memory` nothing is ever limited. `rings`: of the disk. */
  constructor(
    inner: IoChannel,
    options: ChannelOptions,
    memory: ThrottleMemory | undefined,
    platform: Platform,
    rings = 1,
  ) {
    this.#rings = rings;
    this.#inner = this.channel = inner;
    this.#options = options;
    this.#memory = memory;
    this.#platform = platform;
    this.#live = memory && new LiveValues(memory.live);
    this.#words = memory === undefined ? UNCHANGED : new Int32Array(memory.live);
    this.adapt();
  }

  /** The channel may have a due time. */
  get isTimed(): boolean {
    return this.#throttled !== undefined || this.#inner.dueMs !== undefined;
  }

  /** It has none, and will have none before the next operation. */
  get isResting(): boolean {
    return (this.#throttled ?? this.#inner).isResting === true;
  }

  /** For each pass; undefined: nothing is limited. */
  get gate(): Gate | undefined {
    return this.#throttled && this;
  }

  /** One call for all of a pass, so that a request costs little. */
  open(slots: StartingSlots, begin: number, end: number, dataBytes: number): IoChannel {
    const throttled = this.#throttled;
    if (throttled === undefined) return this.#inner;
    const isAdmitted = dataBytes === SOME_WITHOUT_DATA || throttled.isApart
      ? this.#admitEach(throttled, slots, begin, end)
      : throttled.admits(end - begin, 0, dataBytes, 0); // as reads and writes have the same limits
    const inner = this.#inner;
    const channel = isAdmitted && throttled.isUnused ? inner : throttled;
    if (channel !== this.channel) this.channel = channel;
    return isAdmitted ? inner : throttled;
  }

  #admitEach(
    throttled: ThrottledChannel,
    { taken, phase, operation, lengthBytes }: StartingSlots,
    begin: number,
    end: number,
  ): boolean {
    let requests = 0;
    let bytes = 0;
    let writes = 0;
    let writtenBytes = 0;
    for (let i = begin; i < end; i++) {
      const slot = taken[i]!;
      if (phase[slot] !== PHASE_TAKEN) continue; // it was refused
      const length = lengthBytes[slot]!;
      requests++;
      bytes += length;
      if (operation[slot] === OP_READ) continue;
      if (length === 0 && operation[slot] !== OP_DISCARD) requests--; // a flush
      else writes++;
      writtenBytes += length;
    }
    return throttled.admits(requests - writes, writes, bytes - writtenBytes, writtenBytes);
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
      this.#throttled ??= new ThrottledChannel(this.#inner, this.#options, this.#memory, this.#platform, this.#rings);
      this.#throttled.hurries = this.#hurries;
      this.#throttled.adopt();
      this.channel = this.#throttled;
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
    (this.#throttled ?? this.#inner)[Symbol.dispose]();
  }

  /** What waits is started first. What is in flight completes with the same tags. */
  #takeAway(): boolean {
    this.#throttled?.submit();
    if (this.#throttled?.isEmpty === false) return false;
    this.#throttled = undefined;
    this.channel = this.#inner;
    return true;
  }
}
