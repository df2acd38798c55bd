/**
 * A frontend's eye on its backend: follows the backend's `state` node by a watch, and lets others wait until it says
 * what they need, with an error that tells what it said instead. It must not know what a frontend does then.
 */

import { errorText, XenblkError } from "../errors.ts";
import { type Xenstore, XenstoreError, type XenstoreWatch } from "../hypervisor.ts";
import { type ObservedState, parseState, stateName } from "../xenbus/states.ts";

interface Waiter {
  readonly accepts: (state: ObservedState) => boolean;
  readonly resolve: (state: ObservedState) => void;
  readonly reject: (why: string) => void;
}

/** What a wait is for, in words, and how long it may take. */
export interface WaitOptions {
  /** Completes "Cannot ...", such as `connect device/vbd/51712`. */
  readonly purpose: string;
  /** Absent: for ever. */
  readonly timeoutMs?: number;
}

/** Follows one backend directory from construction until it is disposed. */
export class BackendFollower implements Disposable {
  readonly #store: Xenstore;
  readonly #path: string;
  readonly #watch: XenstoreWatch;
  readonly #waiters = new Set<Waiter>();
  #state: ObservedState;
  #ended: string | undefined;

  constructor(store: Xenstore, backendPath: string) {
    this.#store = store;
    this.#path = backendPath;
    this.#watch = store.watch(`${backendPath}/state`);
    this.#state = this.#read();
    this.#follow();
  }

  /** What the node said when it was last looked at. */
  get state(): ObservedState {
    return this.#state;
  }

  /** Resolves with the first state that is accepted, maybe the present one. Rejects with {@linkcode XenblkError}. */
  wait(accepts: (state: ObservedState) => boolean, options: WaitOptions): Promise<ObservedState> {
    if (accepts(this.#state)) return Promise.resolve(this.#state);
    if (this.#ended !== undefined) return Promise.reject(this.#cannot(options.purpose, this.#ended));
    return new Promise((resolve, reject) => {
      const { purpose, timeoutMs } = options;
      const waiter: Waiter = {
        accepts,
        resolve: (state) => {
          forget();
          resolve(state);
        },
        reject: (why) => {
          forget();
          reject(this.#cannot(purpose, why));
        },
      };
      const late = (): void => {
        forget();
        reject(this.#timedOut(purpose, timeoutMs!));
      };
      let timer: ReturnType<typeof setTimeout> | undefined;
      const forget = (): void => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
      };
      // Before the timer: under `deno test` the first setTimeout of a process may let other tasks run.
      this.#waiters.add(waiter);
      if (timeoutMs !== undefined) timer = setTimeout(late, timeoutMs);
    });
  }

  [Symbol.dispose](): void {
    this.#end("the frontend stopped looking");
    this.#watch[Symbol.dispose]();
  }

  async #follow(): Promise<void> {
    try {
      for await (const _path of this.#watch) {
        if (this.#ended !== undefined) return;
        this.#state = this.#read();
        for (const waiter of [...this.#waiters]) if (waiter.accepts(this.#state)) waiter.resolve(this.#state);
      }
      this.#end("the connection to xenstore was lost");
    } catch (error) {
      this.#end(errorText(error));
    }
  }

  #end(why: string): void {
    if (this.#ended !== undefined) return;
    this.#ended = why;
    for (const waiter of [...this.#waiters]) waiter.reject(why);
  }

  /** A node that went together with its parents is one that we may no longer know of. */
  #read(): ObservedState {
    try {
      return parseState(this.#store.read(`${this.#path}/state`));
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "EACCES") return "gone";
      throw error;
    }
  }

  #cannot(purpose: string, why: string): XenblkError {
    return new XenblkError(`Cannot ${purpose}: ${why}`);
  }

  #timedOut(purpose: string, timeoutMs: number): XenblkError {
    const said = this.#backendError();
    const stayed = typeof this.#state === "number" ? `state ${this.#state} (${stateName(this.#state)})` : this.#state;
    return new XenblkError(
      `Cannot ${purpose}: backend ${this.#path} stayed at ${stayed} for ${timeoutMs} ms` +
        (said === undefined ? "" : `, and says: ${said}`),
      { kind: "timeout" },
    );
  }

  /** What the backend wrote for a person to read, if we may read it. */
  #backendError(): string | undefined {
    try {
      return this.#store.read(`${this.#path}/error`);
    } catch {
      return undefined;
    }
  }
}
