/**
 * The data plane over Workers, as the control plane uses it: starts reactors when they are needed, spreads queues over
 * them, and passes on what they report. Rings and data stay in the Workers.
 */

import { unlessAborted } from "../abort.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Platform, Refusal, Waker, WakeToken } from "../hypervisor.ts";
import type { Disk, DiskAttachment } from "../storage/disk.ts";
import { endsWithin } from "../within.ts";
import { memoryRule } from "./grants/memory_rule.ts";
import type { OpenRequest } from "./connection.ts";
import {
  CONTROL_BYTES,
  CONTROL_POSTED,
  OPEN_ABANDONED,
  OPEN_WAITING,
  type ReactorCommand,
  type ReactorEvent,
  type StartMessage,
} from "./messages.ts";
import { STAT } from "./stats.ts";
import type { DataPlane, QueueHandle, QueueSpec } from "./types.ts";

/** Why no queue is opened any more. */
const CLOSED = "Cannot open a queue: the data plane is closed";

/** What a data plane is started with. */
export interface WorkerDataPlaneOptions {
  /** Opened anew in each Worker, by its descriptor. */
  readonly platform: Platform;
  /** Most reactors, that is Workers, for disks that wait for the same storage or for none; they start as queues come, or the first one with {@linkcode WorkerDataPlane.start}. */
  readonly workers: number;
  /** Called before a reactor opens its first queue: it registers the reactor with engines that have their own threads. */
  readonly addLane: (lane: number, token: WakeToken) => Promise<void>;
  /** Reactors use io_uring where the platform has it, for disks that ask for it and to sleep. Absent: they do not. */
  readonly uring?: boolean;
  /** Gets messages for the operator. */
  readonly warn: (message: string) => void;
  /**
   * A reactor crashed. Its rings are left as they are: this process cannot continue them, but a new process can, from
   * their journals. Absent: its rings are reported as stopped.
   */
  readonly failed?: (reason: string) => void;
  /** The Workers' entry; absent: reactor_worker.ts. For tests. */
  readonly entry?: URL;
  /** Gets messages that help to find a fault. */
  readonly debug?: (message: string) => void;
}

/** A queue as the control plane holds it. */
class Handle implements QueueHandle {
  readonly label: string;
  readonly stopped: Promise<string>;
  readonly latched: Promise<void>;
  readonly #stats: Float64Array;
  readonly #stop: (reason: string) => void;
  readonly #latch: () => void;
  readonly #close: () => Promise<void>;
  readonly #grow: (sectors: number) => Promise<void>;
  #closing: Promise<void> | undefined;

  constructor({ label, stats }: OpenRequest, close: () => Promise<void>, grow: (sectors: number) => Promise<void>) {
    this.label = label;
    this.#stats = new Float64Array(stats);
    this.#close = close;
    this.#grow = grow;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.stopped = promise;
    this.#stop = resolve;
    const latched = Promise.withResolvers<void>();
    this.latched = latched.promise;
    this.#latch = latched.resolve;
  }

  get inFlight(): number {
    return this.#stats[STAT.inFlight]!;
  }

  stop(reason: string): void {
    this.#stop(reason);
  }

  latch(): void {
    this.#latch();
  }

  grow(sectors: number): Promise<void> {
    return this.#grow(sectors);
  }

  close(): Promise<void> {
    return this.#closing ??= this.#close();
  }
}

/** One reactor's Worker, seen from the control plane. */
class ReactorWorker {
  readonly handles = new Map<number, Handle>();
  readonly #worker: Worker;
  readonly #token: WakeToken & Disposable;
  readonly #waker: Waker;
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_BYTES));
  readonly #opening = new Map<number, PromiseWithResolvers<void>>();
  /** Of each open that was not answered: the word that says whether the Worker has begun it. */
  readonly #begun = new Map<number, Int32Array>();
  readonly #growing = new Map<number, PromiseWithResolvers<void>>();
  readonly #closing = new Map<number, PromiseWithResolvers<void>>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #exited = Promise.withResolvers<void>();
  readonly #warn: (message: string) => void;
  readonly #failed: ((reason: string) => void) | undefined;
  readonly #died: () => void;
  readonly #debug: ((message: string) => void) | undefined;
  readonly #platform: Platform;
  #isReady = false;
  #thread: number | undefined;
  /** When it was asked for the sign of life that it has not given yet. */
  #askedMs: number | undefined;
  #failure: string | undefined;
  #uringRefusal: Refusal | undefined;

  /** `died` is called if the Worker dies after it was ready. */
  constructor(options: WorkerDataPlaneOptions, died: () => void) {
    this.#died = died;
    const { platform, warn, debug, uring = false } = options;
    this.#platform = platform;
    this.#warn = warn;
    this.#failed = options.failed;
    this.#debug = debug;
    this.#token = platform.createWakeToken();
    this.#waker = platform.openWaker(this.token);
    this.#worker = new Worker(options.entry ?? new URL("./reactor_worker.ts", import.meta.url), {
      type: "module",
      name: "reactor",
    });
    this.#worker.onmessage = ({ data }: MessageEvent<ReactorEvent>): void => this.#hear(data);
    this.#worker.onerror = (event): void => {
      event.preventDefault();
      this.#fail(`the reactor's Worker failed: ${event.message}`);
    };
    const { token } = this;
    const control = this.#control.buffer;
    this.#worker.postMessage(
      { type: "start", platform: platform.descriptor, token, control, uring } satisfies StartMessage,
    );
  }

  get token(): WakeToken {
    return { word: this.#token.word, fd: this.#token.fd };
  }

  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  /**
   * Asks for a sign of life, and returns for how long it has given none. A reactor that starts, or that a disk holds up
   * in the kernel, counts as alive.
   */
  silentMs(): number {
    const { threads } = this.#platform;
    if (!this.#isReady || this.#failure !== undefined) return 0;
    const now = this.#platform.now();
    if (this.#askedMs === undefined) {
      this.#askedMs = now;
      this.#say({ type: "ping" });
      return 0;
    }
    if (this.#thread !== undefined && threads?.isHeld(this.#thread)) this.#askedMs = now;
    return now - this.#askedMs;
  }

  /** How the reactor opens the disk, once the reactor is ready. */
  async attachmentTo(disk: Disk, lane: number): Promise<DiskAttachment> {
    const refusal = this.#uringRefusal;
    return await (refusal === undefined ? undefined : disk.withoutUring?.(lane, refusal)) ??
      await disk.attachment(lane);
  }

  /** `closed` is called once the queue that was opened is closed again. Aborting: see {@linkcode DataPlane.openQueue}. */
  async open(id: number, request: OpenRequest, closed: () => void, signal?: AbortSignal): Promise<QueueHandle> {
    if (this.#failure !== undefined) throw new XenblkError(this.#failure);
    const answer = Promise.withResolvers<void>();
    this.#opening.set(id, answer);
    const begun = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    this.#begun.set(id, begun);
    const handle = new Handle(request, () => this.#close(id).finally(closed), (sectors) => this.#grow(id, sectors));
    this.handles.set(id, handle);
    this.#say({ type: "open", id, request, begun: begun.buffer });
    const abandon = (): void => this.#abandon(id, "it was aborted");
    signal?.addEventListener("abort", abandon);
    try {
      await answer.promise;
    } catch (error) {
      this.handles.delete(id);
      signal?.throwIfAborted();
      throw error;
    } finally {
      this.#begun.delete(id);
      signal?.removeEventListener("abort", abandon);
    }
    return handle;
  }

  /** Refuses a queue that the Worker has not begun to open. One that it has begun is answered by the Worker. */
  #abandon(id: number, reason: string): void {
    const begun = this.#begun.get(id)!;
    if (Atomics.compareExchange(begun, 0, OPEN_WAITING, OPEN_ABANDONED) !== OPEN_WAITING) return;
    this.#settle(this.#opening, id, reason);
  }

  /** The device calls this one at a time: there is one pending answer per queue. */
  async #grow(id: number, sectors: number): Promise<void> {
    if (this.#failure !== undefined) return;
    const answer = Promise.withResolvers<void>();
    this.#growing.set(id, answer);
    this.#say({ type: "grow", id, sectors });
    await answer.promise;
  }

  async #close(id: number): Promise<void> {
    if (this.#failure !== undefined) return;
    const answer = Promise.withResolvers<void>();
    this.#closing.set(id, answer);
    this.#say({ type: "close", id });
    await answer.promise;
    this.handles.delete(id);
  }

  /**
   * Closes all queues and ends the Worker, waiting so long at most. Returns the labels of the queues that did not close;
   * their Worker runs on until they do.
   */
  async end(timeoutMs: number): Promise<string[]> {
    for (const id of this.#opening.keys()) this.#abandon(id, CLOSED);
    const closed = Promise.all([...this.handles.values()].map((handle) => handle.close()));
    await endsWithin(closed.then(() => this.exit()), timeoutMs);
    return [...this.handles.values()].map(({ label }) => label);
  }

  async exit(): Promise<void> {
    if (!this.#isReady) {
      this.#unavailable(new XenblkError(CLOSED));
      this.#say({ type: "exit" }); // one that sleeps already would not end, and the process neither
    } else if (this.#failure === undefined) {
      this.#say({ type: "exit" });
      await this.#exited.promise;
    }
    // An open that comes too late must neither wait for this Worker nor wake it: the token's descriptor is closed.
    this.#failure ??= CLOSED;
    for (const id of [...this.#opening.keys()]) this.#settle(this.#opening, id, CLOSED);
    this.#worker.terminate();
    this.#token[Symbol.dispose]();
  }

  #say(command: ReactorCommand): void {
    this.#worker.postMessage(command);
    Atomics.add(this.#control, CONTROL_POSTED, 1);
    this.#waker.wake();
  }

  #hear(event: ReactorEvent): void {
    switch (event.type) {
      case "ready":
        this.#uringRefusal = event.uringRefusal;
        this.#thread = event.thread;
        this.#isReady = true;
        return this.#ready.resolve();
      case "unavailable":
        return this.#unavailable(
          new XenblkError(event.reason, {
            kind: "hypervisor",
            ...(event.remedy === undefined ? {} : { remedy: event.remedy }),
          }),
        );
      case "opened":
        return this.#settle(this.#opening, event.id);
      case "refused":
        return this.#settle(this.#opening, event.id, event.reason);
      case "grown":
        return this.#settle(this.#growing, event.id);
      case "closed":
        return this.#settle(this.#closing, event.id);
      case "stopped":
        return this.handles.get(event.id)?.stop(event.reason);
      case "latched":
        return this.handles.get(event.id)?.latch();
      case "warning":
        return this.#warn(event.message);
      case "debug":
        return this.#debug?.(event.message);
      case "alive":
        this.#askedMs = undefined;
        return;
      case "exited":
        return this.#exited.resolve();
    }
  }

  #settle(waiting: Map<number, PromiseWithResolvers<void>>, id: number, refusal?: string): void {
    const answer = waiting.get(id);
    waiting.delete(id);
    if (refusal === undefined) answer?.resolve();
    else answer?.reject(new XenblkError(refusal));
  }

  #unavailable(error: XenblkError): void {
    this.#failure ??= error.message;
    this.#ready.reject(error);
  }

  /** The Worker is gone: its queues have stopped, and every promise that waits for it must settle. */
  #fail(reason: string): void {
    if (this.#failure !== undefined) return;
    this.#failure = reason;
    this.#ready.reject(new XenblkError(reason));
    for (const id of [...this.#opening.keys()]) this.#settle(this.#opening, id, reason);
    for (const id of [...this.#growing.keys()]) this.#settle(this.#growing, id);
    for (const id of [...this.#closing.keys()]) this.#settle(this.#closing, id);
    if (this.#isReady) this.#died();
    if (this.#failed !== undefined) this.#failed(reason);
    else for (const handle of this.handles.values()) handle.stop(reason);
    this.handles.clear();
    this.#exited.resolve();
  }
}

/** A reactor in the list, with the promise that resolves when it can be used. */
interface Lane {
  /** Never used again for another reactor. */
  readonly number: number;
  readonly reactor: ReactorWorker;
  readonly usable: Promise<void>;
  /** Each queue that is served here or is being opened. */
  readonly rings: LaneRing[];
}

/** A queue as its lane knows it. */
interface LaneRing {
  readonly disk: Disk;
  /** See {@linkcode Disk.waitsFor}. All queues of a lane have the same, as far as there can be lanes enough. */
  readonly storage: string | undefined;
}

/** Reactors beyond the given number, for disks whose calls may wait: each Worker costs 8 MiB. */
const MOST_SEPARATE_LANES = 16;

/** The reactors of a process, each in a Worker of its own. */
export class WorkerDataPlane implements DataPlane {
  readonly #options: WorkerDataPlaneOptions;
  /** Those that serve, or are starting. */
  #lanes: Lane[] = [];
  /** Those that died. I/O Workers may still wake them, so their tokens stay open. */
  readonly #dead: Lane[] = [];
  #lastLane = -1;
  #lastId = 0;
  #closed = false;

  /** Starts nothing yet. */
  constructor(options: WorkerDataPlaneOptions) {
    this.#options = options;
  }

  /**
   * Starts the first reactor, if none is, so that the first queue need not wait for it: that takes seconds on a slow
   * machine. Rejects with {@linkcode XenblkError} if it cannot serve.
   */
  async start(): Promise<void> {
    await (this.#lanes[0] ?? this.#startLane()).usable;
  }

  now(): number {
    return this.#options.platform.now();
  }

  async openQueue(spec: QueueSpec, signal?: AbortSignal): Promise<QueueHandle> {
    const { disk, ...rest } = spec;
    const storage = disk.waitsFor?.(memoryRule(spec.grants, spec.directIoSafe ?? false));
    const { lane, leave } = await this.#enterLane({ disk, storage }, signal);
    try {
      const attachment = await unlessAborted(lane.reactor.attachmentTo(disk, lane.number), signal);
      const image = disk.image?.path;
      const request = { ...rest, attachment, properties: disk.properties, ...(image === undefined ? {} : { image }) };
      return await lane.reactor.open(++this.#lastId, request, leave, signal);
    } catch (error) {
      leave();
      throw error;
    }
  }

  /**
   * Asks each reactor for a sign of life. Returns for how long, in milliseconds, the most silent one has left an earlier
   * question unanswered; 0 if none has, or a disk holds it up in the kernel.
   */
  silentMs(): number {
    return Math.max(0, ...this.#lanes.map(({ reactor }) => reactor.silentMs()));
  }

  /** Closes all queues and ends the Workers; one that has not started yet serves nothing and is not waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.disposeWithin(Infinity);
  }

  /**
   * The same, but does not wait longer than so for disks that do not complete what is in flight. Returns the labels of
   * the rings that did not close. The threads that serve these rings run on, until the rings close or the process ends.
   */
  async disposeWithin(timeoutMs: number): Promise<string[]> {
    this.#closed = true;
    const lanes = [...this.#lanes.splice(0), ...this.#dead.splice(0)];
    const open = await Promise.all(lanes.map(({ reactor }) => reactor.end(timeoutMs)));
    return open.flat();
  }

  /** A reactor that can be used, with the ring counted among its own. If one cannot be started, the others do. */
  async #enterLane(ring: LaneRing, signal?: AbortSignal): Promise<{ readonly lane: Lane; readonly leave: () => void }> {
    for (let mayStart = true;; mayStart = false) {
      const lane = this.#choose(ring, mayStart);
      // At once, so that queues that are opened at the same time are spread.
      lane.rings.push(ring);
      const leave = (): void => void lane.rings.splice(lane.rings.indexOf(ring), 1);
      try {
        await unlessAborted(lane.usable, signal);
        return { lane, leave };
      } catch (error) {
        leave();
        if (signal?.aborted || this.#closed || this.#lanes.length === 0 || !mayStart) throw error;
        this.#options.warn(`a thread for rings could not be started, another one serves them: ${errorText(error)}`);
      }
    }
  }

  /**
   * Of the reactors whose queues wait for the same storage: the one with the fewest queues of the disk, and of those the
   * one with the fewest queues; a new one as long as all have some and there may be more.
   */
  #choose({ disk, storage }: LaneRing, mayStart: boolean): Lane {
    const { workers } = this.#options;
    const alike = this.#lanes.filter(({ rings }) => rings.every((ring) => ring.storage === storage));
    const more = mayStart && alike.length < workers && this.#lanes.length < workers + MOST_SEPARATE_LANES;
    if (this.#lanes.length === 0 || (more && alike.every(({ rings }) => rings.length > 0))) return this.#startLane();
    const lanes = alike.length > 0 ? alike : this.#lanes;
    const ofDisk = lanes.map(({ rings }) => rings.filter((ring) => ring.disk === disk).length);
    const fewest = Math.min(...ofDisk);
    const loads = lanes.map(({ rings }, lane) => ofDisk[lane] === fewest ? rings.length : Infinity);
    return lanes[loads.indexOf(Math.min(...loads))]!;
  }

  #startLane(): Lane {
    if (this.#closed) throw new XenblkError(CLOSED);
    const { addLane } = this.#options;
    const number = ++this.#lastLane;
    const reactor = new ReactorWorker(this.#options, () => {
      this.#remove(lane);
      this.#dead.push(lane);
    });
    const usable = Promise.all([reactor.ready, addLane(number, reactor.token)]).then(() => {}, async (error) => {
      // Whatever was missing may be there next time.
      this.#remove(lane);
      await reactor.exit();
      throw error;
    });
    usable.catch(() => {}); // openQueue reports it
    const lane: Lane = { number, reactor, usable, rings: [] };
    this.#lanes.push(lane);
    return lane;
  }

  #remove(lane: Lane): void {
    this.#lanes = this.#lanes.filter((each) => each !== lane);
  }
}
