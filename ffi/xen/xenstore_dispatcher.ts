/**
 * Carries watch events of one connection to their watches, and notices when xenstored is gone. At most one poll(2) is
 * out on a thread of Deno's pool, on the connection's descriptor and on an eventfd that ends it.
 */

import type { XenstoreWatch } from "../../lib/hypervisor.ts";
import { createEventfd, raiseEventfd } from "../linux/eventfd.ts";
import { libc } from "../linux/libc.ts";
import { PollSet } from "../linux/poll.ts";
import type { XenstoreConnection } from "./xenstore_connection.ts";
import { WatchQueue } from "./xenstore_watch.ts";
import { XS } from "./xenstore_wire.ts";

/** The watches of one connection. While it runs, it keeps the process alive. */
export class WatchDispatcher implements Disposable {
  readonly #connection: XenstoreConnection;
  readonly #watches = new Map<string, WatchQueue>();
  /** Queues with events that their readers do not have yet. */
  readonly #arrived = new Set<WatchQueue>();
  #releasing: ReturnType<typeof setTimeout> | undefined;
  #tokens = 0;
  /** The eventfd that ends the outstanding poll, while there is one. */
  #control: number | undefined;
  #stopping = false;

  constructor(connection: XenstoreConnection) {
    this.#connection = connection;
    connection.onEvent((path, token) => this.#arrive(path, token));
  }

  /** Registers a watch. Throws XenstoreError. */
  watch(path: string): XenstoreWatch {
    const token = `watch-${++this.#tokens}`;
    // First of all: the watch's first event can arrive with the reply.
    const queue = new WatchQueue(path, () => this.#unwatch(path, token));
    this.#watches.set(token, queue);
    try {
      this.#connection.request({ type: XS.WATCH, action: "watch", path, fields: [path, token] });
      this.start();
    } catch (error) {
      this.#watches.delete(token);
      throw error;
    }
    return queue;
  }

  /** Begins to take what xenstored sends, and to notice that the connection is lost, unless it does so already. */
  start(): void {
    if (this.#control !== undefined || !this.#connection.isUsable) return;
    const { fd } = this.#connection;
    this.#control = createEventfd();
    void this.#connection.lost.then(() => this[Symbol.dispose]());
    void this.#run(fd, this.#control);
  }

  /** Ends every watch, and soon the outstanding poll. The connection may be closed right afterwards. */
  [Symbol.dispose](): void {
    this.#stopping = true;
    if (this.#control !== undefined) raiseEventfd(this.#control);
    clearTimeout(this.#releasing);
    for (const queue of this.#watches.values()) queue.end();
    this.#watches.clear();
  }

  /**
   * Events that a request finds before its reply go to their readers in a later turn of the event loop: a reader that
   * makes requests during a flood would otherwise never let timers and signals run.
   */
  #arrive(path: string, token: string): void {
    const queue = this.#watches.get(token);
    if (queue === undefined) return;
    queue.push(path);
    this.#arrived.add(queue);
    this.#releasing ??= setTimeout(() => this.#release(), 0);
  }

  #release(): void {
    clearTimeout(this.#releasing);
    this.#releasing = undefined;
    for (const queue of this.#arrived) queue.release();
    this.#arrived.clear();
  }

  #unwatch(path: string, token: string): void {
    if (!this.#watches.delete(token)) return;
    this.#connection.notify({ type: XS.UNWATCH, action: "end the watch of", path, fields: [path, token] });
  }

  async #run(fd: number, control: number): Promise<void> {
    const polled = new PollSet();
    polled.add(fd);
    polled.add(control);
    while (!this.#stopping) {
      await polled.waitOnPool(-1);
      if (this.#stopping) break;
      this.#connection.drain();
      this.#release();
    }
    this.#control = undefined;
    libc().close(control);
    polled[Symbol.dispose]();
  }
}
