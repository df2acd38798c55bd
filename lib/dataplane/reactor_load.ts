/**
 * How much of the time a reactor is awake: it writes into shared memory when it goes to sleep and when it wakes, and the
 * control plane reads that once a second, to place queues by it. Two readings of the clock for each sleep, none for a
 * request, and none at all as long as nobody asks.
 */

import type { Platform } from "../hypervisor.ts";

/** Doubles: when the present sleep began (0: awake), and the milliseconds of all sleeps before. */
const SINCE_MS = 0;
const SLEPT_MS = 1;
/** The one that the reactor keeps to itself: when it woke. */
const WOKE_MS = 2;
const DOUBLES = 3;
/** A word behind them: whether anybody asks. */
const ASKED_WORD = DOUBLES * 2;

/** Memory for one reactor, which nobody asks yet. */
export function createReactorLoad(): SharedArrayBuffer {
  return new SharedArrayBuffer((DOUBLES + 1) * Float64Array.BYTES_PER_ELEMENT);
}

/** The reactor's end. Nothing is allocated. */
export class ReactorLoadMeter {
  readonly #times: Float64Array;
  readonly #words: Int32Array;
  readonly #readClock: (into: Float64Array, index: number) => void;

  constructor(memory: SharedArrayBuffer, platform: Pick<Platform, "now" | "readClock">) {
    this.#times = new Float64Array(memory, 0, DOUBLES);
    this.#words = new Int32Array(memory);
    this.#readClock = platform.readClock?.bind(platform) ?? ((into, index) => void (into[index] = platform.now()));
  }

  /** The reactor is about to sleep. */
  sleeps(): void {
    if (Atomics.load(this.#words, ASKED_WORD) !== 0) this.#readClock(this.#times, SINCE_MS);
  }

  /** It has slept. */
  wakes(): void {
    const times = this.#times;
    if (times[SINCE_MS] === 0) return;
    this.#readClock(times, WOKE_MS);
    const sleptMs = times[WOKE_MS]! - times[SINCE_MS]!;
    times[SINCE_MS] = 0;
    times[SLEPT_MS]! += sleptMs;
  }
}

/**
 * The control plane's end: the share of the time since the last look in which the reactor was busy. That is when it was
 * awake; or when its thread had a processor or waited for one, if that is more: io_uring carries out reads from the page
 * cache in the call in which the reactor sleeps.
 */
export class ReactorLoad {
  readonly #times: Float64Array;
  readonly #cpuMs: () => number | undefined;
  #lookedMs = -1;
  #sleptMs = 0;
  #usedMs = 0;

  /** `cpuMs` is the clock of its thread; undefined where there is none. */
  constructor(memory: SharedArrayBuffer, cpuMs: () => number | undefined) {
    this.#times = new Float64Array(memory, 0, DOUBLES);
    this.#cpuMs = cpuMs;
    Atomics.store(new Int32Array(memory), ASKED_WORD, 1);
  }

  /** From 0 to 1; undefined: there is no time to compare with. */
  look(nowMs: number): number | undefined {
    const sinceMs = this.#times[SINCE_MS]!;
    const sleptMs = this.#times[SLEPT_MS]! + (sinceMs === 0 ? 0 : Math.max(0, nowMs - sinceMs));
    const usedMs = this.#cpuMs() ?? 0;
    const passedMs = nowMs - this.#lookedMs;
    const isFirst = this.#lookedMs < 0;
    const busyMs = Math.max(passedMs - (sleptMs - this.#sleptMs), usedMs - this.#usedMs);
    this.#lookedMs = nowMs;
    this.#sleptMs = sleptMs;
    this.#usedMs = usedMs;
    return isFirst || passedMs <= 0 ? undefined : Math.min(1, Math.max(0, busyMs / passedMs));
  }
}
