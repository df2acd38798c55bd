/**
 * The data plane over Workers, as the control plane uses it: starts reactors when they are needed, spreads queues over
 * them, and passes on what they report. Rings and data stay in the Workers.
 */

import { unlessAborted } from "../abort.ts";
import { XenblkError } from "../errors.ts";
import type { Platform, Refusal, Waker, WakeToken } from "../hypervisor.ts";
import type { Disk, DiskAttachment } from "../storage/disk.ts";
import type { OpenRequest } from "./connection.ts";
import {
  CONTROL_BYTES,
  CONTROL_POSTED,
  type ReactorCommand,
  type ReactorEvent,
  type StartMessage,
} from "./messages.ts";
import type { DataPlane, QueueHandle, QueueSpec } from "./types.ts";

/** Why no queue is opened any more. */
const CLOSED = "Cannot open a queue: the data plane is closed";

/** What a data plane is started with. */
export interface WorkerDataPlaneOptions {
  /** Opened anew in each Worker, by its descriptor. */
  readonly platform: Platform;
  /** Most reactors, that is Workers; they start as queues come, or the first one with {@linkcode WorkerDataPlane.start}. */
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
  readonly stopped: Promise<string>;
  readonly latched: Promise<void>;
  readonly #stop: (reason: string) => void;
  readonly #latch: () => void;
  readonly #close: () => Promise<void>;
  readonly #grow: (sectors: number) => Promise<void>;
  #closing: Promise<void> | undefined;

  constructor(close: () => Promise<void>, grow: (sectors: number) => Promise<void>) {
    this.#close = close;
    this.#grow = grow;
    const { promise, resolve } = Promise.withResolvers<string>();
    this.stopped = promise;
    this.#stop = resolve;
    const latched = Promise.withResolvers<void>();
    this.latched = latched.promise;
    this.#latch = latched.resolve;
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
  readonly #growing = new Map<number, PromiseWithResolvers<void>>();
  readonly #closing = new Map<number, PromiseWithResolvers<void>>();
  readonly #ready = Promise.withResolvers<void>();
  readonly #exited = Promise.withResolvers<void>();
  readonly #warn: (message: string) => void;
  readonly #failed: ((reason: string) => void) | undefined;
  readonly #debug: ((message: string) => void) | undefined;
  #isReady = false;
  #failure: string | undefined;
  #uringRefusal: Refusal | undefined;

  constructor(options: WorkerDataPlaneOptions) {
    const { platform, warn, debug, uring = false } = options;
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

  /** How the reactor opens the disk, once the reactor is ready. */
  async attachmentTo(disk: Disk, lane: number): Promise<DiskAttachment> {
    const refusal = this.#uringRefusal;
    return await (refusal === undefined ? undefined : disk.withoutUring?.(lane, refusal)) ??
      await disk.attachment(lane);
  }

  /** `closed` is called once the queue that was opened is closed again. Aborting ends the wait for modules to load. */
  async open(id: number, request: OpenRequest, closed: () => void, signal?: AbortSignal): Promise<QueueHandle> {
    if (this.#failure !== undefined) throw new XenblkError(this.#failure);
    const answer = Promise.withResolvers<void>();
    this.#opening.set(id, answer);
    const handle = new Handle(() => this.#close(id).finally(closed), (sectors) => this.#grow(id, sectors));
    this.handles.set(id, handle);
    this.#say({ type: "open", id, request });
    const abandon = (): void => this.#say({ type: "abandon", id });
    signal?.addEventListener("abort", abandon);
    try {
      await answer.promise;
    } catch (error) {
      this.handles.delete(id);
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abandon);
    }
    return handle;
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

  async exit(): Promise<void> {
    if (!this.#isReady) this.#unavailable(new XenblkError(CLOSED));
    else if (this.#failure === undefined) {
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
    if (this.#failed !== undefined) this.#failed(reason);
    else for (const handle of this.handles.values()) handle.stop(reason);
    this.#exited.resolve();
  }
}

/** A reactor in the list, with the promise that resolves when it can be used. */
interface Lane {
  readonly reactor: ReactorWorker;
  readonly usable: Promise<void>;
  /** The disk of each queue that is served here or is being opened. */
  readonly disks: Disk[];
}

/** The reactors of a process, each in a Worker of its own. */
export class WorkerDataPlane implements DataPlane {
  readonly #options: WorkerDataPlaneOptions;
  readonly #lanes: Lane[] = [];
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
    if (this.#lanes.length === 0) this.#startLane();
    await this.#lanes[0]!.usable;
  }

  async openQueue(spec: QueueSpec, signal?: AbortSignal): Promise<QueueHandle> {
    const { disk, ...rest } = spec;
    const number = this.#choose(disk);
    const lane = this.#lanes[number]!;
    // At once, so that queues that are opened at the same time are spread.
    lane.disks.push(disk);
    const leave = (): void => void lane.disks.splice(lane.disks.indexOf(disk), 1);
    try {
      await unlessAborted(lane.usable, signal);
      const attachment = await unlessAborted(lane.reactor.attachmentTo(disk, number), signal);
      const image = disk.image?.path;
      const request = { ...rest, attachment, properties: disk.properties, ...(image === undefined ? {} : { image }) };
      return await lane.reactor.open(++this.#lastId, request, leave, signal);
    } catch (error) {
      leave();
      throw error;
    }
  }

  /** Closes all queues and ends the Workers; one that has not started yet serves nothing and is not waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await Promise.all(
      this.#lanes.splice(0).map(async ({ reactor }) => {
        await Promise.all([...reactor.handles.values()].map((handle) => handle.close()));
        await reactor.exit();
      }),
    );
  }

  /**
   * The reactor with the fewest queues of the disk, and of those the one with the fewest queues; a new one as long as all
   * have some and there may be more.
   */
  #choose(disk: Disk): number {
    const lanes = this.#lanes;
    if (lanes.length < this.#options.workers && lanes.every(({ disks }) => disks.length > 0)) return this.#startLane();
    const ofDisk = lanes.map(({ disks }) => disks.filter((each) => each === disk).length);
    const fewest = Math.min(...ofDisk);
    const loads = lanes.map(({ disks }, lane) => ofDisk[lane] === fewest ? disks.length : Infinity);
    return loads.indexOf(Math.min(...loads));
  }

  #startLane(): number {
    if (this.#closed) throw new XenblkError(CLOSED);
    const { addLane } = this.#options;
    const lane = this.#lanes.length;
    const reactor = new ReactorWorker(this.#options);
    const usable = Promise.all([reactor.ready, addLane(lane, reactor.token)]).then(() => {});
    usable.catch(() => {}); // openQueue reports it
    this.#lanes.push({ reactor, usable, disks: [] });
    return lane;
  }
}
