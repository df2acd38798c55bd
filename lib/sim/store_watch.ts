/**
 * One watch of the simulated xenstore: a queue of changed paths, read as an async iterable. A path is queued only once,
 * however often it changes.
 */

import type { XenstoreWatch } from "../hypervisor.ts";

/** See {@linkcode XenstoreWatch}. */
export class SimulatedWatch implements XenstoreWatch {
  readonly #onDispose: () => void;
  readonly #queue: string[] = [];
  readonly #waiting: ((result: IteratorResult<string>) => void)[] = [];
  #ended = false;

  constructor(onDispose: () => void) {
    this.#onDispose = onDispose;
  }

  /** Queues a path, unless it is queued already. */
  push(path: string): void {
    if (this.#ended) return;
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting({ done: false, value: path });
    else if (!this.#queue.includes(path)) this.#queue.push(path);
  }

  /** Ends the watch, after the paths that are queued. */
  end(): void {
    this.#ended = true;
    for (const waiting of this.#waiting.splice(0)) waiting({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): AsyncIterator<string> {
    return { next: () => this.#next() };
  }

  [Symbol.dispose](): void {
    if (this.#ended) return;
    this.#queue.length = 0;
    this.end();
    this.#onDispose();
  }

  #next(): Promise<IteratorResult<string>> {
    const path = this.#queue.shift();
    if (path !== undefined) return Promise.resolve({ done: false, value: path });
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.#waiting.push(resolve));
  }
}
