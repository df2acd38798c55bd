/**
 * The data plane without Workers: one reactor in the caller's own thread, which the caller drives. For simulations that
 * are single-stepped, and for programs that have a loop of their own. A queue can move from one such data plane to another.
 */

import { unlessAborted } from "../abort.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Parker, Platform, Waker, WakeToken } from "../hypervisor.ts";
import { DiskModules } from "../storage/channel.ts";
import type { ChannelOpener, Disk, DiskAttachment } from "../storage/disk.ts";
import type { OpenRequest } from "./connection.ts";
import { type PlacedEvents, PlacedQueue, type Site } from "./placed_queue.ts";
import { Reactor } from "./reactor.ts";
import type { DataPlane, QueueSpec } from "./types.ts";

/** What the data plane is made of. */
export interface InlineDataPlaneOptions {
  /** Used in this thread only. */
  readonly platform: Platform;
  /** Opens channels in place of the modules that attachments name; absent: those do. */
  readonly openChannel?: ChannelOpener;
  /** Gets messages for the operator. */
  readonly warn: (message: string) => void;
  /** The number of its reactor; absent: 0. */
  readonly lane?: number;
}

/** What is remembered of an open queue. */
interface OpenQueue {
  readonly queue: PlacedEvents;
  readonly closed: PromiseWithResolvers<void>;
  /** It is to be released by then; absent: it is not to be. */
  releasing?: PromiseWithResolvers<boolean> & { readonly endMs: number };
}

/** One reactor, driven by its owner. Queues are served, and closed, only in {@linkcode InlineDataPlane.turn}. */
export class InlineDataPlane implements DataPlane, Site {
  readonly lane: number;
  /** The platform's clock. */
  readonly now: () => number;
  readonly #token: WakeToken & Disposable;
  readonly #parker: Parker;
  readonly #waker: Waker;
  readonly #reactor: Reactor;
  /** Absent: channels are opened without them. */
  readonly #modules: DiskModules | undefined;
  readonly #queues = new Map<number, OpenQueue>();

  /** Takes a place to sleep on the platform, and nothing else yet. */
  constructor(options: InlineDataPlaneOptions) {
    const { platform, openChannel, warn } = options;
    this.lane = options.lane ?? 0;
    this.now = () => platform.now();
    this.#token = platform.createWakeToken();
    this.#parker = platform.openParker(this.#token);
    this.#waker = platform.openWaker(this.#token);
    const { word, fd } = this.#token;
    const modules = new DiskModules({ platform, parker: this.#parker, token: { word, fd } });
    this.#modules = openChannel === undefined ? modules : undefined;
    this.#reactor = new Reactor(
      platform,
      this.#parker,
      {
        closed: (id) => this.#closed(id),
        released: (id) => this.#released(id),
        stopped: (id, reason) => this.#queues.get(id)?.queue.stop(reason),
        latched: (id) => this.#queues.get(id)?.queue.latch(),
        warn,
        debug: () => {},
      },
      openChannel === undefined
        ? { openChannel: modules.openChannel.bind(modules), openMemory: modules.openMemory.bind(modules) }
        : { openChannel },
    );
  }

  /** For whoever wakes the thread that sleeps in {@linkcode sleep}: engines with threads of their own. */
  get token(): WakeToken {
    return this.#token;
  }

  /** One visit to every queue that has work. True: there may be more at once; false: the caller may sleep. */
  turn(): boolean {
    for (const [id, open] of this.#queues) {
      if (open.releasing === undefined || open.releasing.endMs > this.now()) continue;
      if (this.#reactor.keep(id)) this.#settle(open, false);
    }
    return this.#reactor.turn();
  }

  /** Sleeps until an event, a completion, a wake, a queue that is opened or closed, or the timeout (-1: none). */
  sleep(timeoutMs: number): void {
    this.#reactor.sleep(timeoutMs);
  }

  /** Its disk's modules are loaded first, if they are not; what follows needs no waiting. */
  async openQueue(spec: QueueSpec, signal?: AbortSignal): Promise<PlacedQueue> {
    const attachment = await unlessAborted(this.#attachmentTo(spec.disk), signal);
    const queue = new PlacedQueue(spec, { site: this, leave: () => {} }, attachment, this.now);
    await queue.open();
    return queue;
  }

  async prepare(attachment: DiskAttachment): Promise<void> {
    if (this.#modules?.has(attachment) === false) await this.#modules.load(attachment);
  }

  open(queue: PlacedEvents, request: OpenRequest): Promise<void> {
    try {
      this.#reactor.open(queue.id, request);
    } catch (error) {
      return Promise.reject(new XenblkError(errorText(error), { cause: error }));
    }
    this.#queues.set(queue.id, { queue, closed: Promise.withResolvers<void>() });
    this.#waker.wake();
    return Promise.resolve();
  }

  /** The limit ends it in {@linkcode turn}. */
  release(id: number, limitMs: number, flush = false): Promise<boolean> {
    const open = this.#queues.get(id);
    if (open === undefined || !this.#reactor.release(id, flush)) return Promise.resolve(false);
    open.releasing = { ...Promise.withResolvers<boolean>(), endMs: this.now() + limitMs };
    this.#waker.wake();
    return open.releasing.promise;
  }

  begin(id: number): void {
    this.#reactor.keep(id);
    this.#waker.wake();
  }

  grow(id: number, sectors: number): Promise<void> {
    return Promise.resolve(this.#reactor.grow(id, sectors));
  }

  close(id: number): Promise<void> {
    const open = this.#queues.get(id);
    if (open === undefined) return Promise.resolve();
    this.#reactor.close(id);
    this.#waker.wake();
    return open.closed.promise;
  }

  /** Closes all queues, then releases its parker. The caller must keep calling {@linkcode turn} until then. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#queues.values()].map(({ queue }) => queue.close()));
    this.#reactor[Symbol.dispose]();
    this.#parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
  }

  async #attachmentTo(disk: Disk): Promise<DiskAttachment> {
    try {
      const attachment = await disk.attachment(this.lane);
      await this.prepare(attachment);
      return attachment;
    } catch (error) {
      throw new XenblkError(errorText(error), { cause: error });
    }
  }

  #closed(id: number): void {
    this.#queues.get(id)?.closed.resolve();
    this.#queues.delete(id);
  }

  #released(id: number): void {
    const open = this.#queues.get(id);
    this.#queues.delete(id);
    if (open !== undefined) this.#settle(open, true);
  }

  #settle(open: OpenQueue, released: boolean): void {
    open.releasing?.resolve(released);
    delete open.releasing;
  }
}
