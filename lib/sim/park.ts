/**
 * Sleeping and waking on the simulated machine: Atomics.wait on a word of the machine, so that an event raised in any
 * Worker can find and wake the thread that watches it. The token's own buffer only says which word that is. The
 * protocol of the word is park_word.ts; what a thread wakes for is not known here.
 */

import type { EventChannels, Parker, Waker, WakeToken } from "../hypervisor.ts";
import { enterPark, leavePark, PARKED } from "../park_word.ts";
import { rouse, SimulatedEventChannels } from "./events.ts";
import type { Machine } from "./machine.ts";

/** Reserves a word to sleep on. Disposing gives it back: not before its Parker is gone. */
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
  readonly #index: number;
  readonly #word: Int32Array;
  readonly #watched: SimulatedEventChannels[] = [];

  constructor(machine: Machine, token: WakeToken) {
    this.#index = wakeWordIndex(token);
    this.#word = machine.wakeWord(this.#index);
  }

  watch(events: EventChannels): void {
    const channels = simulated(events);
    channels.setWatcher(this.#index);
    this.#watched.push(channels);
  }

  unwatch(events: EventChannels): void {
    const index = this.#watched.indexOf(simulated(events));
    if (index < 0) return;
    this.#watched[index]!.setWatcher(-1);
    this.#watched.splice(index, 1);
  }

  park(timeoutMs: number): void {
    if (!enterPark(this.#word)) return;
    // Events that nobody took yet end the park, as a readable file descriptor would.
    if (!this.#anyFired()) Atomics.wait(this.#word, 0, PARKED, timeoutMs < 0 ? Infinity : timeoutMs);
    leavePark(this.#word);
  }

  [Symbol.dispose](): void {
    for (const channels of this.#watched.splice(0)) channels.setWatcher(-1);
  }

  #anyFired(): boolean {
    for (let i = 0; i < this.#watched.length; i++) if (this.#watched[i]!.fired) return true;
    return false;
  }
}

function simulated(events: EventChannels): SimulatedEventChannels {
  if (!(events instanceof SimulatedEventChannels)) throw new TypeError("not event channels of a simulated machine");
  return events;
}
