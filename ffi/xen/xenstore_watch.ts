/**
 * One watch: the paths that changed and that its reader has not yet taken, in bounded memory. The dispatcher adds them,
 * the reader iterates.
 */

import type { XenstoreWatch } from "../../lib/hypervisor.ts";

/** Different unread paths kept. What a guest adds beyond them is reported as one change of the watched path. */
export const MAX_UNREAD_PATHS = 1024;

/** A watch that {@linkcode push} feeds and {@linkcode end} or disposal ends. */
export class WatchQueue implements XenstoreWatch {
  readonly #watchedPath: string;
  readonly #onDispose: () => void;
  /** In order of their first change; a path that changes again before it is read is reported once. */
  readonly #unread = new Set<string>();
  readonly #readers: ((result: IteratorResult<string>) => void)[] = [];
  #ended = false;
  #disposed = false;

  constructor(watchedPath: string, onDispose: () => void) {
    this.#watchedPath = watchedPath;
    this.#onDispose = onDispose;
  }

  push(path: string): void {
    if (this.#ended) return;
    const reader = this.#readers.shift();
    if (reader !== undefined) return reader({ done: false, value: path });
    if (this.#unread.size >= MAX_UNREAD_PATHS && !this.#unread.has(path)) {
      // Reading the watched path makes its reader look at everything below, as at the watch's first event.
      this.#unread.clear();
      path = this.#watchedPath;
    }
    this.#unread.add(path);
  }

  /** No more events: the reader gets what is unread, then the end. */
  end(): void {
    this.#ended = true;
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): AsyncIterator<string> {
    return { next: () => this.#next() };
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#unread.clear();
    this.end();
    this.#onDispose();
  }

  #next(): Promise<IteratorResult<string>> {
    for (const path of this.#unread) {
      this.#unread.delete(path);
      return Promise.resolve({ done: false, value: path });
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve) => this.#readers.push(resolve));
  }
}
