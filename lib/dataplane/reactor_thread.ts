/**
 * One reactor's Worker, seen from the control plane: its commands and their answers, and its end.
 */

import { XenblkError } from "../errors.ts";
import type { Platform, Refusal, Waker, WakeToken } from "../hypervisor.ts";
import type { Disk, DiskAttachment } from "../storage/disk.ts";
import { endsWithin } from "../within.ts";
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
import { type PlacedEvents, QueueLostError, type Site } from "./placed_queue.ts";
import { createReactorLoad, ReactorLoad } from "./reactor_load.ts";

/** Why no queue is opened any more. */
export const CLOSED = "Cannot open a queue: the data plane is closed";

/** What a reactor's Worker is started with. */
export interface ReactorThreadOptions {
  /** Opened anew in each Worker, by its descriptor. */
  readonly platform: Platform;
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

/** Questions that the Worker has not answered, by the number of their queue. */
class Waiting<Answer> {
  readonly #pending = new Map<number, PromiseWithResolvers<Answer>>();

  ask(id: number): Promise<Answer> {
    const answer = Promise.withResolvers<Answer>();
    this.#pending.set(id, answer);
    return answer.promise;
  }

  get ids(): number[] {
    return [...this.#pending.keys()];
  }

  settle(id: number, answer: Answer): void {
    this.#take(id)?.resolve(answer);
  }

  refuse(id: number, reason: Error): void {
    this.#take(id)?.reject(reason);
  }

  #take(id: number): PromiseWithResolvers<Answer> | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    return pending;
  }
}

/** One reactor's Worker, seen from the control plane. */
export class ReactorThread implements Site {
  readonly lane: number;
  /** The queues that it serves or opens, by their number. */
  readonly #queues = new Map<number, PlacedEvents>();
  readonly #worker: Worker;
  readonly #token: WakeToken & Disposable;
  readonly #waker: Waker;
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_BYTES));
  readonly #opening = new Waiting<void>();
  /** Of each open that was not answered: the word that says whether the Worker has begun it. */
  readonly #begun = new Map<number, Int32Array>();
  readonly #preparing = new Waiting<string | undefined>();
  readonly #releasing = new Waiting<boolean>();
  readonly #growing = new Waiting<void>();
  readonly #closing = new Waiting<void>();
  /** Where the Worker notes how long it sleeps. */
  readonly #loadMemory = createReactorLoad();
  #load: ReactorLoad | undefined;
  readonly #ready = Promise.withResolvers<void>();
  readonly #exited = Promise.withResolvers<void>();
  readonly #warn: (message: string) => void;
  readonly #failed: ((reason: string) => void) | undefined;
  readonly #died: () => void;
  readonly #debug: ((message: string) => void) | undefined;
  readonly #platform: Platform;
  #isReady = false;
  #thread: number | undefined;
  #lastPreparation = 0;
  /** When it was asked for the sign of life that it has not given yet. */
  #askedMs: number | undefined;
  #failure: string | undefined;
  #uringRefusal: Refusal | undefined;

  /** `died` is called if the Worker dies after it was ready. */
  constructor(lane: number, options: ReactorThreadOptions, died: () => void) {
    this.lane = lane;
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
    const load = this.#loadMemory;
    this.#worker.postMessage(
      { type: "start", platform: platform.descriptor, token, control, load, uring } satisfies StartMessage,
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

  /** It has started, and has not died: it takes commands. */
  get serves(): boolean {
    return this.#isReady && this.#failure === undefined;
  }

  /** It has an io_uring. Known once it is ready. */
  get hasUring(): boolean {
    return this.#uringRefusal === undefined;
  }

  /**
   * From 0 to 1: how much of the time since the last call it was awake, or had a processor or waited for one, whichever is
   * more. Undefined: it is not known yet.
   */
  load(nowMs: number): number | undefined {
    if (!this.serves) return undefined;
    if (this.#load === undefined) {
      this.#load = new ReactorLoad(this.#loadMemory, this.#cpuClock());
      this.#say({ type: "ping" }); // one that sleeps has not noted since when
    }
    return this.#load.look(nowMs);
  }

  /** How the reactor opens the disk, once the reactor is ready. */
  async attachmentTo(disk: Disk): Promise<DiskAttachment> {
    const refusal = this.#uringRefusal;
    return await (refusal === undefined ? undefined : disk.withoutUring?.(this.lane, refusal)) ??
      await disk.attachment(this.lane);
  }

  async prepare(attachment: DiskAttachment): Promise<void> {
    if (this.#failure !== undefined) throw new XenblkError(this.#failure);
    const number = ++this.#lastPreparation;
    const answer = this.#preparing.ask(number);
    this.#say({ type: "prepare", id: number, attachment });
    const refusal = await answer;
    if (refusal !== undefined) throw new XenblkError(refusal);
  }

  async open(queue: PlacedEvents, request: OpenRequest, signal?: AbortSignal, limitMs?: number): Promise<void> {
    if (this.#failure !== undefined) throw new XenblkError(this.#failure);
    const { id } = queue;
    const answer = this.#opening.ask(id);
    const begun = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
    this.#begun.set(id, begun);
    this.#queues.set(id, queue);
    this.#say({ type: "open", id, request, begun: begun.buffer });
    const abandon = (): void => void this.#abandon(id, "it was aborted");
    signal?.addEventListener("abort", abandon);
    const late = limitMs === undefined
      ? undefined
      : setTimeout(() => this.#abandon(id, `it was too busy to begin within ${limitMs} ms`), limitMs);
    try {
      await answer;
    } catch (error) {
      this.#queues.delete(id);
      signal?.throwIfAborted();
      throw error;
    } finally {
      clearTimeout(late);
      this.#begun.delete(id);
      signal?.removeEventListener("abort", abandon);
    }
  }

  /** Refuses a queue that the Worker has not begun to open. One that it has begun is answered by the Worker. */
  #abandon(id: number, reason: string): boolean {
    const begun = this.#begun.get(id)!;
    if (Atomics.compareExchange(begun, 0, OPEN_WAITING, OPEN_ABANDONED) !== OPEN_WAITING) return false;
    this.#opening.refuse(id, new XenblkError(reason));
    return true;
  }

  begin(id: number): void {
    if (this.#failure === undefined) this.#say({ type: "begin", id });
  }

  async release(id: number, limitMs: number, flush = false): Promise<boolean> {
    if (this.#failure !== undefined) return false;
    const answer = this.#releasing.ask(id);
    this.#say({ type: "release", id, flush });
    const late = setTimeout(() => this.#say({ type: "keep", id }), limitMs);
    const released = await answer;
    clearTimeout(late);
    if (released) this.#queues.delete(id);
    return released;
  }

  /** The device calls this one at a time: there is one pending answer per queue. */
  async grow(id: number, sectors: number): Promise<void> {
    if (this.#failure !== undefined) return;
    const answer = this.#growing.ask(id);
    this.#say({ type: "grow", id, sectors });
    await answer;
  }

  async close(id: number): Promise<void> {
    if (this.#failure !== undefined) return;
    const answer = this.#closing.ask(id);
    this.#say({ type: "close", id });
    await answer;
    this.#queues.delete(id);
  }

  /**
   * Closes all queues and ends the Worker, waiting so long at most. Returns the labels of the queues that did not close;
   * their Worker runs on until they do.
   */
  async end(timeoutMs: number): Promise<string[]> {
    for (const id of this.#opening.ids) this.#abandon(id, CLOSED);
    const closed = Promise.all([...this.#queues.values()].map((queue) => queue.close()));
    await endsWithin(closed.then(() => this.exit()), timeoutMs);
    return [...this.#queues.values()].map(({ label }) => label);
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
    for (const id of this.#opening.ids) this.#opening.refuse(id, new XenblkError(CLOSED));
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
        return this.#opening.settle(event.id);
      case "refused":
        return this.#opening.refuse(event.id, new XenblkError(event.reason));
      case "prepared":
        return this.#preparing.settle(event.id, event.refusal);
      case "released":
        return this.#releasing.settle(event.id, true);
      case "kept":
        return this.#releasing.settle(event.id, false);
      case "grown":
        return this.#growing.settle(event.id);
      case "closed":
        return this.#closing.settle(event.id);
      case "stopped":
        return this.#queues.get(event.id)?.stop(event.reason);
      case "latched":
        return this.#queues.get(event.id)?.latch();
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

  #unavailable(error: XenblkError): void {
    this.#failure ??= error.message;
    this.#ready.reject(error);
  }

  /** The Worker is gone: its queues have stopped, and every promise that waits for it must settle. */
  #fail(reason: string): void {
    if (this.#failure !== undefined) return;
    this.#failure = reason;
    this.#ready.reject(new XenblkError(reason));
    for (const id of this.#preparing.ids) this.#preparing.settle(id, reason);
    for (const id of this.#opening.ids) {
      if (this.#abandon(id, reason)) this.#queues.delete(id);
      else this.#opening.refuse(id, new QueueLostError(reason));
    }
    for (const id of this.#releasing.ids) this.#releasing.settle(id, false);
    for (const id of this.#growing.ids) this.#growing.settle(id);
    for (const id of this.#closing.ids) this.#closing.settle(id);
    if (this.#isReady) this.#died();
    if (this.#failed !== undefined) this.#failed(reason);
    else for (const queue of this.#queues.values()) queue.stop(reason);
    this.#queues.clear();
    this.#exited.resolve();
  }

  /** Of the Worker's thread. */
  #cpuClock(): () => number | undefined {
    const { threads } = this.#platform;
    const thread = this.#thread;
    return () => thread === undefined ? undefined : threads?.busyMs?.(thread);
  }
}
