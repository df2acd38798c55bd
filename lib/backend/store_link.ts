/**
 * A connection to xenstored that outlives xenstored: when it is lost it is opened again, with growing waits between the
 * attempts. Its user is notified of both, and of a new connection only once xenstored answers on it: calls to a stopped
 * xenstored would block this thread.
 */

import { unlessAborted } from "../abort.ts";
import type { Clock } from "../clock.ts";
import { errorText } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import type { Logger } from "../log.ts";
import { Backoff } from "./backoff.ts";

/** What a link is made of. */
export interface StoreLinkOptions {
  /** Opens a connection, or throws. */
  readonly openXenstore: () => Xenstore;
  /** Called with each new connection; `again` if there was an earlier one. If it throws, the connection is closed. */
  readonly connected: (store: Xenstore, again: boolean) => void;
  /** Called when the connection has become unusable. */
  readonly lost: () => void;
  /** Paces the attempts to reconnect. */
  readonly clock: Clock;
  /** Gets a line for each loss and reconnection. */
  readonly logger: Logger;
}

/** Keeps one connection to xenstored open until it is disposed. */
export class StoreLink implements AsyncDisposable {
  readonly #options: StoreLinkOptions;
  readonly #stop = new AbortController();
  readonly #supervision: Promise<void>;

  /** Opens the first connection; throws what opening it, or `connected`, threw. */
  constructor(options: StoreLinkOptions) {
    this.#options = options;
    const store = this.#adopt(options.openXenstore(), false);
    this.#supervision = this.#supervise(store);
  }

  /** Closes the connection; using it from then on throws. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#supervision;
  }

  /** Hands a connection to the user. */
  #adopt(store: Xenstore, again: boolean): Xenstore {
    try {
      this.#options.connected(store, again);
    } catch (error) {
      this.#options.lost();
      store[Symbol.dispose]();
      throw error;
    }
    return store;
  }

  async #supervise(first: Xenstore): Promise<void> {
    const { logger, lost } = this.#options;
    const stopped = new Promise<undefined>((resolve) => {
      this.#stop.signal.addEventListener("abort", () => resolve(undefined), { once: true });
    });
    let store: Xenstore | undefined = first;
    while (store !== undefined) {
      const reason = await Promise.race([lossOf(store), stopped]);
      lost();
      store[Symbol.dispose]();
      if (reason === undefined) return;
      logger.error(`xenstore: connection lost (${reason}); the disks go on, reconnecting`);
      store = await this.#reopen();
    }
  }

  /** A connection on which xenstored has answered. Rejects if it is lost first, or if the link is disposed. */
  async #openAnswering(): Promise<Xenstore> {
    const store = this.#options.openXenstore();
    try {
      await unlessAborted(store.answers?.() ?? Promise.resolve(), this.#stop.signal);
    } catch (error) {
      store[Symbol.dispose]();
      throw error;
    }
    return store;
  }

  /** The next connection, or undefined if the link was disposed before there was one. */
  async #reopen(): Promise<Xenstore | undefined> {
    const { clock, logger } = this.#options;
    for (const backoff = new Backoff();;) {
      await clock.sleep(backoff.next(), this.#stop.signal);
      if (this.#stop.signal.aborted) return undefined;
      try {
        const store = this.#adopt(await this.#openAnswering(), true);
        logger.info("xenstore: connected again");
        return store;
      } catch (error) {
        if (this.#stop.signal.aborted) return undefined;
        logger.debug(`xenstore: cannot reconnect yet: ${errorText(error)}`);
      }
    }
  }
}

/** Resolves with the reason when the connection is lost; at once if xenstored refuses the watch that shows it. */
function lossOf(store: Xenstore): Promise<string> {
  try {
    return store.lost;
  } catch (error) {
    return Promise.resolve(errorText(error));
  }
}
