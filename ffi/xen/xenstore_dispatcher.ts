/**
 * Carries watch events of one connection to their watches, and notices when xenstored is gone. At most one poll(2) is
 * out on a thread of Deno's pool, on libxenstore's descriptor and on an eventfd that ends it.
 */

import { EAGAIN } from "../../lib/errno.ts";
import type { XenstoreWatch } from "../../lib/hypervisor.ts";
import { createEventfd, raiseEventfd } from "../linux/eventfd.ts";
import { cString, errno, libc } from "../linux/libc.ts";
import { PollSet } from "../linux/poll.ts";
import type { XenstoreConnection } from "./xenstore_connection.ts";
import { WatchQueue } from "./xenstore_watch.ts";

/**
 * libxenstore's reading thread closes the socket when xenstored goes away, but leaves its descriptor silent; so ask
 * it that often.
 */
const LOSS_CHECK_MS = 1000;
/** Events handed out before other tasks of this thread get their turn: a flood must not stop timers and signals. */
const MAX_EVENTS_PER_TURN = 256;
/** A watch that only makes the library start its reading thread: on a node that nothing in this project changes. */
const SENTINEL = { path: "domid", token: "sentinel" };

/** The watches of one connection. While it runs, it keeps the process alive. */
export class WatchDispatcher implements Disposable {
  readonly #connection: XenstoreConnection;
  readonly #watches = new Map<string, WatchQueue>();
  #tokens = 0;
  /** The eventfd that ends the outstanding poll, while there is one. */
  #control: number | undefined;
  #stopping = false;

  constructor(connection: XenstoreConnection) {
    this.#connection = connection;
  }

  /** Registers a watch. Throws XenstoreError. */
  watch(path: string): XenstoreWatch {
    const token = `watch-${++this.#tokens}`;
    this.#register(path, token);
    const queue = new WatchQueue(path, () => this.#unwatch(path, token));
    this.#watches.set(token, queue);
    this.#start();
    return queue;
  }

  /** Sets a watch, so that a lost connection is noticed even without other watches. Throws XenstoreError. */
  watchForLoss(): void {
    if (this.#control !== undefined || !this.#connection.isUsable) return;
    this.#register(SENTINEL.path, SENTINEL.token);
    this.#start();
  }

  /** Ends every watch, and soon the outstanding poll. The connection may be closed right afterwards. */
  [Symbol.dispose](): void {
    this.#stopping = true;
    if (this.#control !== undefined) raiseEventfd(this.#control);
    for (const queue of this.#watches.values()) queue.end();
    this.#watches.clear();
  }

  #register(path: string, token: string): void {
    const handle = this.#connection.handle("watch", path);
    if (!this.#connection.symbols.xs_watch(handle, cString(path), cString(token))) {
      throw this.#connection.error("watch", path);
    }
  }

  #unwatch(path: string, token: string): void {
    if (!this.#watches.delete(token) || !this.#connection.isUsable) return;
    const handle = this.#connection.handle("end the watch of", path);
    if (!this.#connection.symbols.xs_unwatch(handle, cString(path), cString(token))) {
      // Only a lost connection can make it fail; that is noticed here and told by `lost`.
      this.#connection.error("end the watch of", path);
    }
  }

  #start(): void {
    if (this.#control !== undefined) return;
    const fd = this.#connection.symbols.xs_fileno(this.#connection.handle("poll", "watches"));
    if (fd < 0) throw this.#connection.error("poll", "watches");
    this.#control = createEventfd();
    void this.#connection.lost.then(() => this[Symbol.dispose]());
    void this.#run(fd, this.#control);
  }

  async #run(fd: number, control: number): Promise<void> {
    const polled = new PollSet();
    polled.add(fd);
    polled.add(control);
    while (!this.#stopping) {
      await polled.waitOnPool(LOSS_CHECK_MS);
      if (!this.#stopping) this.#drain();
    }
    this.#control = undefined;
    libc().close(control);
    polled[Symbol.dispose]();
  }

  /** Hands out the events that are there; declares the connection lost if the library says so. */
  #drain(): void {
    for (let events = 0; events < MAX_EVENTS_PER_TURN; events++) {
      if (!this.#connection.isUsable) return;
      const event = this.#connection.symbols.xs_check_watch(this.#connection.handle("read", "watches"));
      if (event === null) {
        if (errno() !== EAGAIN) this.#connection.declareLost("xenstored closed the connection");
        return;
      }
      const view = new Deno.UnsafePointerView(event);
      const path = textAt(view.getPointer(0));
      const token = textAt(view.getPointer(8));
      libc().free(event);
      this.#watches.get(token)?.push(path);
    }
  }
}

function textAt(pointer: Deno.PointerValue): string {
  return pointer === null ? "" : Deno.UnsafePointerView.getCString(pointer);
}
