/**
 * Where a process can die in the middle of an answer: before each store that the next process, or the guest, may find
 * (into the journal, a response slot, rsp_prod) and before the notification. It puts itself in front of the methods
 * that make these stores, for the whole program, and does nothing but while a process is being stepped. It must not
 * know what the stores mean.
 */

import { BackRing } from "../../lib/blkif/back_ring.ts";
import { Journal } from "../../lib/dataplane/journal.ts";

/** The process is dead; nobody may catch it and go on. */
export class ProcessKilled extends Error {
  override readonly name = "ProcessKilled";
}

/** Decides whether a process dies. */
export class Crasher {
  readonly #dies: () => boolean;
  #dead = false;

  /** `dies` is asked at every point; the first true is the end. */
  constructor(dies: () => boolean) {
    this.#dies = dies;
  }

  /** It has died at some point. */
  get dead(): boolean {
    return this.#dead;
  }

  /** Runs a step of the process. Throws {@linkcode ProcessKilled} if it dies, unless somebody catches that. */
  run<T>(step: () => T): T {
    running = this;
    try {
      return step();
    } finally {
      running = undefined;
    }
  }

  /** A point is reached. */
  reach(): void {
    if (!this.#dead) this.#dead = this.#dies();
    if (this.#dead) throw new ProcessKilled("the process was killed");
  }
}

let running: Crasher | undefined;

/** For points that are no methods of the classes below. */
export function reachCrashPoint(): void {
  running?.reach();
}

function precede(prototype: object, names: readonly string[]): void {
  for (const name of names) {
    const method: unknown = Reflect.get(prototype, name);
    if (typeof method !== "function") throw new TypeError(`there is no method ${name} to die before`);
    Reflect.set(prototype, name, function (this: unknown, ...values: unknown[]): unknown {
      reachCrashPoint();
      return Reflect.apply(method, this, values);
    });
  }
}

precede(Journal.prototype, ["taken", "consumed", "committing", "answering", "committed"]);
precede(BackRing.prototype, ["take", "putResponse", "push", "finalCheck"]);
