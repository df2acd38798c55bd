/**
 * The data plane without Workers: one reactor in the caller's own thread, which the caller drives. For simulations that
 * are single-stepped, and for programs that have a loop of their own.
 */

import { unlessAborted } from "../abort.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Parker, Platform, Waker, WakeToken } from "../hypervisor.ts";
import { DiskModules } from "../storage/channel.ts";
import type { ChannelOpener } from "../storage/disk.ts";
import { Reactor } from "./reactor.ts";
import { STAT } from "./stats.ts";
import type { DataPlane, QueueHandle, QueueSpec } from "./types.ts";

/** What the data plane is made of. */
export interface InlineDataPlaneOptions {
  /** Used in this thread only. */
  readonly platform: Platform;
  /** Opens channels in place of the modules that attachments name; absent: those do. */
  readonly openChannel?: ChannelOpener;
  /** Gets messages for the operator. */
  readonly warn: (message: string) => void;
}

/** What is remembered of an open queue. */
interface OpenQueue {
  readonly stop: (reason: string) => void;
  readonly latch: () => void;
  readonly closed: PromiseWithResolvers<void>;
  readonly handle: QueueHandle;
}

/** One reactor, driven by its owner. Queues are served, and closed, only in {@linkcode InlineDataPlane.turn}. */
export class InlineDataPlane implements DataPlane {
  /** The platform's clock. */
  readonly now: () => number;
  readonly #token: WakeToken & Disposable;
  readonly #parker: Parker;
  readonly #waker: Waker;
  readonly #reactor: Reactor;
  /** Absent: channels are opened without them. */
  readonly #modules: DiskModules | undefined;
  readonly #queues = new Map<number, OpenQueue>();
  #lastId = 0;

  /** Takes a place to sleep on the platform, and nothing else yet. */
  constructor(options: InlineDataPlaneOptions) {
    const { platform, openChannel, warn } = options;
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
        stopped: (id, reason) => this.#queues.get(id)?.stop(reason),
        latched: (id) => this.#queues.get(id)?.latch(),
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
    return this.#reactor.turn();
  }

  /** Sleeps until an event, a completion, a wake, a queue that is opened or closed, or the timeout (-1: none). */
  sleep(timeoutMs: number): void {
    this.#reactor.sleep(timeoutMs);
  }

  /** Its disk's modules are loaded first, if they are not; what follows needs no waiting. */
  async openQueue(spec: QueueSpec, signal?: AbortSignal): Promise<QueueHandle> {
    const { disk, ...rest } = spec;
    const id = ++this.#lastId;
    try {
      const attachment = await unlessAborted(disk.attachment(0), signal);
      if (this.#modules?.has(attachment) === false) await unlessAborted(this.#modules.load(attachment), signal);
      const image = disk.image?.path;
      const request = { ...rest, attachment, properties: disk.properties, ...(image === undefined ? {} : { image }) };
      this.#reactor.open(id, request);
    } catch (error) {
      signal?.throwIfAborted();
      throw new XenblkError(errorText(error), { cause: error });
    }
    const stopped = Promise.withResolvers<string>();
    const latched = Promise.withResolvers<void>();
    const closed = Promise.withResolvers<void>();
    const counters = new Float64Array(spec.stats);
    const handle = {
      stopped: stopped.promise,
      latched: latched.promise,
      get inFlight(): number {
        return counters[STAT.inFlight]!;
      },
      grow: (sectors: number) => Promise.resolve(this.#reactor.grow(id, sectors)),
      close: () => this.#close(id, closed.promise),
    };
    this.#queues.set(id, { stop: stopped.resolve, latch: latched.resolve, closed, handle });
    this.#waker.wake();
    return handle;
  }

  /** Closes all queues, then releases its parker. The caller must keep calling {@linkcode turn} until then. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#queues.values()].map(({ handle }) => handle.close()));
    this.#reactor[Symbol.dispose]();
    this.#parker[Symbol.dispose]();
    this.#token[Symbol.dispose]();
  }

  #close(id: number, closed: Promise<void>): Promise<void> {
    if (this.#queues.has(id)) {
      this.#reactor.close(id);
      this.#waker.wake();
    }
    return closed;
  }

  #closed(id: number): void {
    this.#queues.get(id)?.closed.resolve();
    this.#queues.delete(id);
  }
}
