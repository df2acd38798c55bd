/**
 * One watch of the simulated xenstore: a queue of changed paths, read as an async iterable. The same path waits in it
 * only once. It must not know which changes concern it.
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

  /** A change to be yielded, unless the same one waits already. */
  push(path: string): void {
    if (this.#ended) return;
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting({ done: false, value: path });
    else if (!this.#queue.includes(path)) this.#queue.push(path);
  }

  /** The connection is lost: what was queued is still yielded. */
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
