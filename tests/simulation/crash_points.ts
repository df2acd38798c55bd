/**
 * Points at which a process can be killed while it answers a request: before each store that the next process or the
 * guest may find (into the journal, a response slot, rsp_prod), and before the notification. Replaces the methods that
 * make these stores, for the whole program; they behave as before unless a {@linkcode Crasher} runs.
 */

import { BackRing } from "../../lib/blkif/back_ring.ts";
import { Journal } from "../../lib/dataplane/journal.ts";

/** The process was killed; no code may catch this and continue. */
export class ProcessKilled extends Error {
  override readonly name = "ProcessKilled";
}

/** Kills a process at a crash point. */
export class Crasher {
  readonly #dies: () => boolean;
  #dead = false;

  /** `dies` is called at every point; the first true kills the process. */
  constructor(dies: () => boolean) {
    this.#dies = dies;
  }

  /** The process was killed at a point. */
  get dead(): boolean {
    return this.#dead;
  }

  /** Runs a step of the process. Throws {@linkcode ProcessKilled} if it is killed; look at {@linkcode dead} too. */
  run<T>(step: () => T): T {
    running = this;
    try {
      return step();
    } finally {
      running = undefined;
    }
  }

  /** Called at each point. */
  reach(): void {
    if (!this.#dead) this.#dead = this.#dies();
    if (this.#dead) throw new ProcessKilled("the process was killed");
  }
}

let running: Crasher | undefined;

/** For points elsewhere than in the methods below. */
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
