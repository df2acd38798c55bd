/**
 * Faults of the simulated hypervisor, switched on and off by name while it runs. The switches are in shared memory, so
 * that they reach the threads of the data plane.
 */

import { XenblkError } from "../errors.ts";
import { Random } from "../guest/random.ts";
import type { FaultPlan } from "../sim/faults.ts";

const ENOMEM = -12;
/** GNTST_bad_page: what Xen says of a page that it cannot copy. */
const GNTST_BAD_PAGE = -9;

/** Name of a fault of the hypervisor. */
export type FaultName = "grant map" | "grant unmap" | "grant copy" | "grant copy call" | "event overflow";

/** What each fault makes a call return. */
const FAULTS: Readonly<Record<FaultName, number>> = {
  /** Mapping grants fails, of a ring or of data. */
  "grant map": ENOMEM,
  /** Unmapping grants fails. */
  "grant unmap": ENOMEM,
  /** One segment of a grant copy fails. */
  "grant copy": GNTST_BAD_PAGE,
  /** A whole grant copy call fails. */
  "grant copy call": ENOMEM,
  /** The queue of events has overflowed, and its events are lost. */
  "event overflow": 1,
};

/** All of {@linkcode FaultName}. */
export const FAULT_NAMES: readonly FaultName[] = [
  "grant map",
  "grant unmap",
  "grant copy",
  "grant copy call",
  "event overflow",
];

/** When a fault strikes. */
export interface FaultOptions {
  /** The share of calls that it strikes, from 0 to 1. Default 1. */
  readonly rate?: number;
  /** Chooses which calls, by their number. Default 1. */
  readonly seed?: number;
  /** The calls before it can strike. Default 0. */
  readonly after?: number;
  /** It strikes so often at most. Default without a limit. */
  readonly times?: number;
}

/** A fault that is switched on. Disposing it switches it off. */
export interface InjectedFault extends Disposable {
  /** How often it has struck. */
  readonly struck: number;
}

/** Words of one fault. */
const RATE = 0;
const SEED = 1;
const AFTER = 2;
const LEFT = 3;
const CALLS = 4;
const STRUCK = 5;
const WORDS = 16;
const ALWAYS = 0x7FFFFFFF;

/** One thread's view of the switches. */
export class InjectedFaults {
  readonly #words: Int32Array;

  constructor(readonly buffer: SharedArrayBuffer = new SharedArrayBuffer(4 * WORDS * FAULT_NAMES.length)) {
    this.#words = new Int32Array(buffer);
  }

  /** What the threads of the data plane ask. */
  get plan(): FaultPlan {
    const status = (name: FaultName) => (): number => this.#strikes(name) ? FAULTS[name] : 0;
    return {
      map: status("grant map"),
      unmap: status("grant unmap"),
      copySegment: status("grant copy"),
      copyCall: status("grant copy call"),
      overflow: () => this.#strikes("event overflow"),
    };
  }

  /** Switches a fault on, in place of an earlier one of its name. Throws {@linkcode XenblkError} (`usage`). */
  inject(name: FaultName, { rate = 1, seed = 1, after = 0, times = ALWAYS }: FaultOptions = {}): InjectedFault {
    const known = FAULT_NAMES.indexOf(name);
    const wrong = [after, times].some((count) => !(Number.isInteger(count) && count >= 0 && count <= ALWAYS));
    if (known < 0 || wrong || !(rate >= 0 && rate <= 1)) {
      throw new XenblkError(`Cannot inject fault ${name}: ${known < 0 ? "there is no such fault" : "a wrong option"}`, {
        kind: "usage",
        remedy: known < 0 ? `use one of ${FAULT_NAMES.join(", ")}` : "use rate from 0 to 1, after and times from 0 on",
      });
    }
    const [words, at] = [this.#words, known * WORDS];
    Atomics.store(words, at + RATE, 0);
    for (const [word, value] of [[SEED, seed], [AFTER, after], [LEFT, times], [CALLS, 0], [STRUCK, 0]] as const) {
      Atomics.store(words, at + word, value);
    }
    Atomics.store(words, at + RATE, Math.round(rate * ALWAYS));
    return {
      get struck(): number {
        return Atomics.load(words, at + STRUCK);
      },
      [Symbol.dispose]: () => void Atomics.store(words, at + RATE, 0),
    };
  }

  #strikes(name: FaultName): boolean {
    const at = FAULT_NAMES.indexOf(name) * WORDS;
    const rate = Atomics.load(this.#words, at + RATE);
    if (rate === 0) return false;
    const call = Atomics.add(this.#words, at + CALLS, 1);
    if (call < Atomics.load(this.#words, at + AFTER)) return false;
    const chosen = rate === ALWAYS ||
      new Random(Atomics.load(this.#words, at + SEED) ^ (call * 0x9E3779B1)).chance(rate / ALWAYS);
    if (!chosen || Atomics.sub(this.#words, at + LEFT, 1) <= 0) return false;
    Atomics.add(this.#words, at + STRUCK, 1);
    return true;
  }
}
