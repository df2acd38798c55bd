/**
 * A disk that a storage daemon exports by vhost-user-blk, as the control plane holds it: its shared memory, its virtqueues
 * and who has them, the loss of its connection, and the connection that takes its place.
 */

import { errorText, XenblkError } from "../../lib/errors.ts";
import type { DiskProperties } from "../../lib/storage/disk.ts";
import type { VhostDevice, VhostOptions } from "../../lib/storage/vhost.ts";
import { SECTOR_BYTES } from "../../lib/units.ts";
import { descriptorWatch } from "../linux/descriptor_watch.ts";
import { createEventfd, raiseEventfd } from "../linux/eventfd.ts";
import { libc } from "../linux/libc.ts";
import { SharedMemory } from "../linux/shared_memory.ts";
import type { VhostAttachment } from "./attachment.ts";
import type { ExportFacts } from "./config.ts";
import { VhostUserError } from "./connection.ts";
import { DeviceControl, PHASE } from "./control.ts";
import { MOST_QUEUES, PARTITION_BYTES, RING_AREAS, RING_BYTES } from "./layout.ts";
import { type SessionOptions, type VhostPatience, VhostSession } from "./session.ts";

/** Milliseconds between the first two looks at what channels do, and at most. */
const POLL_MS = 2;
const LONGEST_POLL_MS = 250;

const CHANNEL_MODULE = new URL("./channel.ts", import.meta.url).href;

/** A virtqueue, as the control plane knows it. */
interface QueueSlot {
  readonly kickFd: number;
  readonly callFd: number;
  /** The daemon may use its rings. */
  isStarted: boolean;
  /** When it was given away last, as a count. */
  given: number;
}

/** What a device is made of. */
interface DeviceParts {
  readonly options: VhostOptions;
  readonly patience: VhostPatience;
  readonly session: VhostSession;
  readonly facts: ExportFacts;
  readonly memory: SharedMemory;
  readonly slots: readonly QueueSlot[];
  /** Memory and slots. */
  readonly owned: DisposableStack;
}

/** A connected export. */
export class NativeVhostDevice implements VhostDevice {
  readonly #options: VhostOptions;
  readonly #patience: VhostPatience;
  readonly #memory: SharedMemory;
  readonly #words: SharedArrayBuffer;
  readonly #control: DeviceControl;
  readonly #slots: readonly QueueSlot[];
  readonly #owned: DisposableStack;
  #given = 0;
  #session: VhostSession;
  #facts: ExportFacts;
  #lost: Promise<string>;
  /** Those who change the virtqueues do so one after the other. */
  #last: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  /** Connects. Rejects with {@linkcode XenblkError}. */
  static async open(options: VhostOptions, patience: VhostPatience): Promise<NativeVhostDevice> {
    if (!(options.queues >= 1 && options.queues <= MOST_QUEUES)) {
      throw new XenblkError(`Cannot connect to ${options.name}: it cannot have ${options.queues} virtqueues`);
    }
    try {
      using undo = new DisposableStack();
      const session = undo.use(await VhostSession.open(options, patience));
      const facts = await session.readConfig();
      using owned = new DisposableStack();
      const memory = owned.use(new SharedMemory("xenblk-vhost", options.queues * PARTITION_BYTES));
      await session.share(memory);
      const slots = Array.from({ length: options.queues }, () => openSlot(owned));
      undo.move();
      return new NativeVhostDevice({ options, patience, session, facts, memory, slots, owned: owned.move() });
    } catch (error) {
      await descriptorWatch().settled();
      throw connectError(options, options.socket, error);
    }
  }

  private constructor(parts: DeviceParts) {
    this.#options = parts.options;
    this.#patience = parts.patience;
    this.#session = parts.session;
    this.#facts = parts.facts;
    this.#memory = parts.memory;
    this.#slots = parts.slots;
    this.#owned = parts.owned;
    this.#words = DeviceControl.allocate(parts.slots.length);
    this.#control = new DeviceControl(this.#words);
    this.#control.socket = parts.session.connection.fd;
    this.#lost = this.#watch(parts.session);
  }

  get properties(): DiskProperties {
    return this.#facts.properties;
  }

  get lost(): Promise<string> {
    return this.#lost;
  }

  async refresh(sizeBytes?: number): Promise<void> {
    await this.#exclusively("read the size of", async () => {
      const { properties, limits } = this.#fitting(await this.#session.readConfig());
      const sectors = sizeBytes === undefined ? properties.sectors : Math.floor(sizeBytes / SECTOR_BYTES);
      this.#facts = { properties: { ...properties, sectors }, limits };
    });
  }

  async attachment(_lane: number): Promise<VhostAttachment> {
    return await this.#exclusively("use", async () => {
      this.#session.connection.mustLive();
      await this.#stopClosed();
      const queue = await this.#freeQueue();
      const slot = this.#slots[queue]!;
      slot.isStarted = true;
      slot.given = ++this.#given;
      await this.#session.startQueue(queue, this.#ringOffset(queue, this.#control.epoch), slot.kickFd, slot.callFd);
      return {
        module: CHANNEL_MODULE,
        name: this.#options.name,
        control: this.#words,
        queue,
        lease: this.#control.give(queue),
        address: this.#memory.address,
        kickFd: slot.kickFd,
        callFd: slot.callFd,
        limits: this.#facts.limits,
        errorsLose: this.#options.errorsLose === true,
      };
    });
  }

  fail(): void {
    this.#control.fail();
    this.#session.connection.fail("it was given up");
    this.#wakeAll();
  }

  async reconnect(socket: string, signal?: AbortSignal): Promise<void> {
    if (this.#control.phase !== PHASE.lost) {
      throw new XenblkError(`Cannot connect to ${this.#options.name} again: its connection is not lost`);
    }
    await this.#exclusively("connect again to", async () => {
      using undo = new DisposableStack();
      const session = undo.use(await VhostSession.open(this.#sessionAt(socket, signal), this.#patience));
      const facts = this.#fitting(await session.readConfig());
      await session.share(this.#memory);
      await this.#channelsPause();
      await this.#channelsFollow();
      const epoch = this.#control.epoch + 1;
      for (const queue of this.#slots.keys()) await this.#restart(session, queue, epoch);
      undo.move();
      this.#adopt(session, facts, epoch);
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#closed ??= this.#close();
  }

  /** Another connection is like the first, but for its signal. */
  #sessionAt(socket: string, signal: AbortSignal | undefined): SessionOptions {
    const { readOnly, queues, writeThrough } = this.#options;
    const base = { socket, readOnly, queues, ...(writeThrough === undefined ? {} : { writeThrough }) };
    return { ...base, ...(signal === undefined ? {} : { signal }) };
  }

  /** Sets the virtqueue up for the connection that is to serve, if a channel has it or may still open it. */
  async #restart(session: VhostSession, queue: number, epoch: number): Promise<void> {
    const slot = this.#slots[queue]!;
    if (this.#control.isClosed(queue)) {
      if (slot.isStarted) this.#memory.release(queue * PARTITION_BYTES, PARTITION_BYTES);
      slot.isStarted = false;
      return;
    }
    const offset = this.#ringOffset(queue, epoch);
    // An earlier daemon may have used this area.
    this.#memory.release(offset, RING_BYTES);
    await session.startQueue(queue, offset, slot.kickFd, slot.callFd);
  }

  /** The new connection takes the place of the lost one; channels go on. */
  #adopt(session: VhostSession, facts: ExportFacts, epoch: number): void {
    const fd = this.#session.connection.surrender();
    this.#session[Symbol.dispose]();
    session.connection.moveTo(fd);
    this.#session = session;
    this.#facts = facts;
    this.#control.serve(epoch);
    this.#lost = this.#watch(session);
    this.#wakeAll();
  }

  /** Resolves when the connection has ended by itself. From then on channels wait. */
  async #watch({ connection }: VhostSession): Promise<string> {
    const reason = await connection.lost;
    this.#control.lose();
    this.#wakeAll();
    if (this.#closed !== undefined) this.fail(); // nobody will connect again
    return `the storage daemon of ${this.#options.name}: ${this.#control.takeAccusation() ?? reason}`;
  }

  /** Stops the virtqueues that channels have closed. One that does not stop is not used again before it does. */
  async #stopClosed(): Promise<void> {
    for (const [queue, slot] of this.#slots.entries()) {
      if (!slot.isStarted || !this.#control.isClosed(queue)) continue;
      await this.#session.stopQueue(queue);
      slot.isStarted = false;
      // Zeroes the rings for the next channel, and returns the memory of the buffers.
      this.#memory.release(queue * PARTITION_BYTES, PARTITION_BYTES);
    }
  }

  /** If all were given away, the one that has not been opened for longest is taken back: nobody wants it any more. */
  async #freeQueue(): Promise<number> {
    const findFree = (): number => this.#slots.findIndex(({ isStarted }) => !isStarted);
    const free = findFree();
    if (free >= 0) return free;
    const byAge = [...this.#slots.keys()].sort((one, other) => this.#slots[one]!.given - this.#slots[other]!.given);
    if (!byAge.some((queue) => this.#control.withdraw(queue))) {
      throw new VhostUserError(`all of its ${this.#slots.length} virtqueues are used`);
    }
    await this.#stopClosed();
    return findFree();
  }

  #ringOffset(queue: number, epoch: number): number {
    return queue * PARTITION_BYTES + (epoch % RING_AREAS) * RING_BYTES;
  }

  /** What a channel was opened with must hold for the next connection, too. Throws VhostUserError. */
  #fitting(facts: ExportFacts): ExportFacts {
    if (JSON.stringify(facts.limits) === JSON.stringify(this.#facts.limits)) return facts;
    throw new VhostUserError("its export has other limits than before (sector size, segments, discards or flushes)");
  }

  async paused(): Promise<void> {
    await this.#exclusively("connect again to", () => this.#channelsPause());
  }

  /** Waits until no channel takes completions of the lost connection any more. */
  async #channelsPause(): Promise<void> {
    this.#wakeAll();
    await this.#channelsAre((queue) => this.#control.isPaused(queue), "a reactor has not noticed the loss yet");
  }

  /** Waits until all channels use the area of the current epoch, so that the other one is free. */
  async #channelsFollow(): Promise<void> {
    const { epoch } = this.#control;
    const follows = (queue: number): boolean => this.#control.followed(queue) === epoch;
    await this.#channelsAre(follows, "a reactor has not used the last connection yet");
  }

  /** Waits until something holds of every channel. Rejects with VhostUserError. */
  async #channelsAre(holds: (queue: number) => boolean, otherwise: string): Promise<void> {
    const deadlineMs = performance.now() + this.#patience.answerMs;
    while ([...this.#slots.keys()].some((queue) => this.#control.isUsed(queue) && !holds(queue))) {
      if (performance.now() >= deadlineMs) throw new VhostUserError(otherwise);
      await delay(POLL_MS);
    }
  }

  #wakeAll(): void {
    for (const { callFd } of this.#slots) raiseEventfd(callFd);
  }

  async #exclusively<T>(action: string, body: () => Promise<T>): Promise<T> {
    const before = this.#last;
    const turn = Promise.withResolvers<void>();
    this.#last = turn.promise;
    await before;
    try {
      if (this.#closed !== undefined) throw new VhostUserError("it is closed");
      return await body();
    } catch (error) {
      if (!(error instanceof VhostUserError)) throw error;
      throw new XenblkError(`Cannot ${action} ${this.#options.name}: the storage daemon: ${error.message}`, {
        cause: error,
      });
    } finally {
      turn.resolve();
    }
  }

  async #close(): Promise<void> {
    if (this.#control.phase === PHASE.lost) this.fail();
    for (const queue of this.#slots.keys()) this.#control.withdraw(queue);
    const anyUsed = (): boolean => [...this.#slots.keys()].some((queue) => this.#control.isUsed(queue));
    for (let pollMs = POLL_MS; anyUsed(); pollMs = Math.min(2 * pollMs, LONGEST_POLL_MS)) await delay(pollMs);
    await this.#last;
    this.#session[Symbol.dispose]();
    this.#owned.dispose();
    await descriptorWatch().settled();
  }
}

function openSlot(owned: DisposableStack): QueueSlot {
  const [kickFd, callFd] = [owned.adopt(createEventfd(), closeFd), owned.adopt(createEventfd(), closeFd)];
  return { kickFd, callFd, isStarted: false, given: 0 };
}

function closeFd(fd: number): void {
  libc().close(fd);
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function connectError({ name, signal }: VhostOptions, socket: string, error: unknown): unknown {
  if (signal?.aborted || error instanceof XenblkError) return error;
  return new XenblkError(`Cannot connect to the storage daemon of ${name} at ${socket}: ${errorText(error)}`, {
    remedy: "check that qemu-storage-daemon runs (ps) and that no other program is connected to this export",
    cause: error,
  });
}
