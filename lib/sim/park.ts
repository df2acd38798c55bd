/**
 * Sleeping and waking on the simulated machine: Atomics.wait on a word of the machine, so that an event raised in any
 * Worker can find and wake the thread that watches it. The token's own buffer only says which word that is.
 * park_word.ts defines the protocol of the word.
 */

import type { Parker, Wakeable, Waker, WakeToken } from "../hypervisor.ts";
import { eventLoopTurn } from "../modules.ts";
import { enterPark, leavePark, PARKED } from "../park_word.ts";
import { hasFired, isSet, rouse, setWatcher } from "./events.ts";
import { Machine } from "./machine.ts";

/** How many waits may be over at once before the thread's event loop has a turn. */
const MOST_AT_ONCE = 64;

/** Reserves a word to sleep on. Disposing releases it, which must not happen before its Parker is disposed. */
export function createWakeToken(machine: Machine): WakeToken & Disposable {
  const index = machine.takeWakeWord();
  const word = new SharedArrayBuffer(4);
  new Int32Array(word)[0] = index;
  let taken = true;
  return {
    word,
    fd: -1,
    [Symbol.dispose]: () => {
      if (taken) machine.freeWakeWord(index);
      taken = false;
    },
  };
}

function wakeWordIndex(token: WakeToken): number {
  return new Int32Array(token.word)[0]!;
}

/** Wakes the thread that parks with the token. */
export class SimulatedWaker implements Waker {
  readonly #word: Int32Array;

  constructor(machine: Machine, token: WakeToken) {
    this.#word = machine.wakeWord(wakeWordIndex(token));
  }

  wake(): void {
    rouse(this.#word);
  }
}

/** A thread's place to sleep: see {@linkcode Parker}. */
export class SimulatedParker implements Parker {
  readonly #machine: Machine;
  readonly #index: number;
  readonly #word: Int32Array;
  /** Sets of event channels. */
  readonly #watched: Wakeable[] = [];

  constructor(machine: Machine, token: WakeToken) {
    this.#machine = machine;
    this.#index = wakeWordIndex(token);
    this.#word = machine.wakeWord(this.#index);
  }

  watch(source: Wakeable): void {
    if (!isSet(source.fd)) throw new TypeError("not event channels of a simulated machine");
    setWatcher(this.#machine, source.fd, this.#index);
    this.#watched.push(source);
  }

  unwatch(source: Wakeable): void {
    const index = this.#watched.indexOf(source);
    if (index < 0) return;
    this.#watched.splice(index, 1);
    setWatcher(this.#machine, source.fd, -1);
  }

  park(timeoutMs: number): void {
    if (!enterPark(this.#word)) return;
    // Events that were not taken yet end the park, as a readable file descriptor would.
    if (!this.#anyFired()) Atomics.wait(this.#word, 0, PARKED, timeoutMs < 0 ? Infinity : timeoutMs);
    leavePark(this.#word);
    this.#anyFired();
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#watched.splice(0)) setWatcher(this.#machine, fd, -1);
  }

  /** Reports to all that are ready. */
  #anyFired(): boolean {
    let any = false;
    for (let i = 0; i < this.#watched.length; i++) {
      const source = this.#watched[i]!;
      if (!hasFired(this.#machine, source.fd)) continue;
      source.fired();
      any = true;
    }
    return any;
  }
}

/**
 * A place to wait for events without blocking the thread: for a simulated guest whose program runs in the event loop.
 * It keeps no process alive.
 */
export class EventLoopParker implements Disposable {
  readonly #machine: Machine;
  readonly #index: number;
  readonly #word: Int32Array;
  #watched: number | undefined;
  #disposed = false;
  /** Waits, one after the other, that were over at once: the event loop had no turn. */
  #atOnce = 0;

  constructor(machine: SharedArrayBuffer) {
    this.#machine = new Machine(machine);
    this.#index = this.#machine.takeWakeWord();
    this.#word = this.#machine.wakeWord(this.#index);
  }

  /** Events of these channels, and of no others, end the wait from now on. */
  watch({ fd }: Wakeable): void {
    this.#watched = fd;
    setWatcher(this.#machine, fd, this.#index);
  }

  /** Events end no wait any more. */
  unwatch(): void {
    if (this.#watched !== undefined) setWatcher(this.#machine, this.#watched, -1);
    this.#watched = undefined;
  }

  /** Ends the present wait, or the next one. */
  wake(): void {
    rouse(this.#word);
  }

  /** Resolves when there are events that were not taken yet, or after a {@linkcode wake}. */
  async park(): Promise<void> {
    if (this.#disposed) return;
    let waits = false;
    if (enterPark(this.#word)) {
      waits = this.#watched === undefined || !hasFired(this.#machine, this.#watched);
      if (waits) await Atomics.waitAsync(this.#word, 0, PARKED).value;
      // Another sleeper may have the word by now.
      if (!this.#disposed) leavePark(this.#word);
    }
    this.#atOnce = waits ? 0 : this.#atOnce + 1;
    if (this.#atOnce < MOST_AT_ONCE) return;
    this.#atOnce = 0;
    await eventLoopTurn();
  }

  /** Ends the present wait too. */
  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.unwatch();
    this.wake();
    this.#disposed = true;
    this.#machine.freeWakeWord(this.#index);
  }
}
