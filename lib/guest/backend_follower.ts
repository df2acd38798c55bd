/**
 * Follows the state of a frontend's backend: watches the backend's `state` node and resolves waits for a state. A wait
 * that fails says which state the backend is in and what its `error` node says.
 */

import type { Clock } from "../clock.ts";
import { errorText, XenblkError } from "../errors.ts";
import { type Xenstore, XenstoreError, type XenstoreWatch } from "../hypervisor.ts";
import { type ObservedState, parseState, stateName } from "../xenbus/states.ts";

interface Waiter {
  readonly accepts: (state: ObservedState) => boolean;
  readonly resolve: (state: ObservedState) => void;
  readonly reject: (why: string) => void;
}

/** What a wait is for, and its time limit. */
export interface WaitOptions {
  /** Completes the error "Cannot ...", for example `connect device/vbd/51712`. */
  readonly purpose: string;
  /** Absent: no limit. */
  readonly timeoutMs?: number;
}

/** Follows one backend directory until it is disposed. */
export class BackendFollower implements Disposable {
  readonly #store: Xenstore;
  readonly #clock: Clock;
  readonly #path: string;
  readonly #watch: XenstoreWatch;
  readonly #waiters = new Set<Waiter>();
  #state: ObservedState;
  #ended: string | undefined;

  /** `clock` is for the time limits. Throws {@linkcode XenstoreError}. */
  constructor(store: Xenstore, backendPath: string, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
    this.#path = backendPath;
    this.#watch = store.watch(`${backendPath}/state`);
    this.#state = this.#read();
    this.#follow();
  }

  /** The backend's state when it was last read. */
  get state(): ObservedState {
    return this.#state;
  }

  /**
   * Resolves with the first accepted state, which may be the present one. Rejects with {@linkcode XenblkError}, of kind
   * `timeout` if the time limit passed.
   */
  async wait(accepts: (state: ObservedState) => boolean, options: WaitOptions): Promise<ObservedState> {
    const { purpose, timeoutMs } = options;
    if (accepts(this.#state)) return this.#state;
    if (this.#ended !== undefined) throw this.#cannot(purpose, this.#ended);
    const { promise, resolve, reject } = Promise.withResolvers<ObservedState>();
    const waiter: Waiter = { accepts, resolve, reject: (why) => reject(this.#cannot(purpose, why)) };
    this.#waiters.add(waiter);
    const over = new AbortController();
    if (timeoutMs !== undefined) {
      void this.#clock.sleep(timeoutMs, over.signal).then(() => {
        if (!over.signal.aborted) reject(this.#timedOut(purpose, timeoutMs));
      });
    }
    try {
      return await promise;
    } finally {
      over.abort();
      this.#waiters.delete(waiter);
    }
  }

  [Symbol.dispose](): void {
    this.#end("the frontend stopped following it");
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

  /** Once its parent directory is removed too, xenstored answers EACCES and not ENOENT. */
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

  /** The backend's `error` node, if it is readable. */
  #backendError(): string | undefined {
    try {
      return this.#store.read(`${this.#path}/error`);
    } catch {
      return undefined;
    }
  }
}
