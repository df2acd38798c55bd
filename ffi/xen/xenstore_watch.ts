/**
 * One watch: the paths that changed and that its reader has not yet taken, in bounded memory. The dispatcher adds them,
 * the reader iterates.
 */

import type { XenstoreWatch } from "../../lib/hypervisor.ts";

/** Different unread paths kept. What a guest adds beyond them is reported as one change of the watched path. */
export const MAX_UNREAD_PATHS = 1024;

/** A watch that {@linkcode push} and {@linkcode release} feed, and {@linkcode end} or disposal ends. */
export class WatchQueue implements XenstoreWatch {
  readonly #watchedPath: string;
  readonly #onDispose: () => void;
  /** Pushed and not released. In both sets a path that changes again is kept once, in the order of its first change. */
  readonly #arrived = new Set<string>();
  /** Released and not read. */
  readonly #unread = new Set<string>();
  readonly #readers: ((result: IteratorResult<string>) => void)[] = [];
  #ended = false;
  #disposed = false;

  constructor(watchedPath: string, onDispose: () => void) {
    this.#watchedPath = watchedPath;
    this.#onDispose = onDispose;
  }

  /** An event has arrived. The reader does not get it before {@linkcode release}. */
  push(path: string): void {
    if (!this.#ended) this.#add(this.#arrived, path);
  }

  /** Gives the reader what has arrived. */
  release(): void {
    for (const path of this.#arrived) {
      const reader = this.#readers.shift();
      if (reader === undefined) this.#add(this.#unread, path);
      else reader({ done: false, value: path });
    }
    this.#arrived.clear();
  }

  /** No more events: the reader gets what has arrived, then the end. */
  end(): void {
    this.release();
    this.#ended = true;
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined });
  }

  [Symbol.asyncIterator](): AsyncIterator<string> {
    return { next: () => this.#next() };
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#arrived.clear();
    this.#unread.clear();
    this.end();
    this.#onDispose();
  }

  #add(paths: Set<string>, path: string): void {
    if (paths.size < MAX_UNREAD_PATHS || paths.has(path)) paths.add(path);
    else {
      // Reading the watched path makes its reader look at everything below, as at the watch's first event.
      paths.clear();
      paths.add(this.#watchedPath);
    }
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
