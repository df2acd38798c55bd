/**
 * The watch of a frontend's directory. A guest can make it fire without end; then it is dropped for a second, so that
 * neither xenstored nor this thread is kept busy. Nothing is lost: a watch fires when it is set, and whoever is notified
 * looks at the present nodes.
 */

import type { Clock } from "../clock.ts";
import { errorText } from "../errors.ts";
import type { Xenstore, XenstoreWatch } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import { isDisconnection } from "../xenstore.ts";

/** Events that may come at once: a frontend with 64 rings of 16 pages publishes about as many nodes. */
const BURST = 1_500;
/** Further events per second. */
const EVENTS_PER_SECOND = 100;
/** How long the watch is dropped. */
const PAUSE_MS = 1_000;

/** What the watch of a frontend is made of. */
export interface FrontendWatchOptions {
  readonly store: Xenstore;
  /** The directory. */
  readonly path: string;
  readonly clock: Clock;
  /** Called with each path that has changed, and with the directory's when anything may have. */
  readonly changed: (path: string) => void;
  readonly log: Logger;
}

/** Watches until it is disposed or the store is lost. */
export class FrontendWatch implements Disposable {
  /** The directory. */
  readonly path: string;
  readonly #options: FrontendWatchOptions;
  readonly #stop = new AbortController();
  #watch: XenstoreWatch;
  #tokens = BURST;
  #filledAtMs: number;

  /** Throws what setting the watch throws. */
  constructor(options: FrontendWatchOptions) {
    this.#options = options;
    this.path = options.path;
    this.#filledAtMs = options.clock.now();
    this.#watch = options.store.watch(options.path);
    void this.#run();
  }

  [Symbol.dispose](): void {
    this.#stop.abort();
    this.#watch[Symbol.dispose]();
  }

  async #run(): Promise<void> {
    const { clock, log } = this.#options;
    const { signal } = this.#stop;
    let complained = false;
    while (await this.#follow()) {
      this.#watch[Symbol.dispose]();
      for (let watching = false; !watching;) {
        await clock.sleep(PAUSE_MS, signal);
        if (signal.aborted) return;
        try {
          this.#watch = this.#options.store.watch(this.path);
          watching = true;
        } catch (error) {
          if (isDisconnection(error)) return;
          if (!complained) log.error(`cannot watch ${this.path}: ${errorText(error)}; it will be retried`);
          complained = true;
        }
      }
    }
  }

  /** True if there are too many events; false if the watch has ended. */
  async #follow(): Promise<boolean> {
    for await (const path of this.#watch) {
      this.#options.changed(path);
      if (!this.#admit()) return !this.#stop.signal.aborted;
    }
    return false;
  }

  #admit(): boolean {
    const now = this.#options.clock.now();
    this.#tokens = Math.min(BURST, this.#tokens + (now - this.#filledAtMs) * EVENTS_PER_SECOND / 1000) - 1;
    this.#filledAtMs = now;
    return this.#tokens > 0;
  }
}
