/**
 * A guest ring's channel to a disk in TypeScript: operations become requests in memory that the plugin's process maps,
 * together with their data. That process is not trusted: what decides anything is private, and all that it writes is
 * checked.
 *
 * If the process ends, operations wait or fail, as the disk's settings say. Once the control plane has started another
 * one, the rings begin anew, and what was in flight is carried out again.
 */

import { EBADF, EINVAL, EIO, EOPNOTSUPP } from "../../lib/errno.ts";
import type { Parker, Wakeable } from "../../lib/hypervisor.ts";
import type { ChannelContext, ChannelOptions, IoChannel, IoVectors } from "../../lib/storage/disk.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { TableChannel } from "../../lib/storage/engine/operations.ts";
import { MemoryViews } from "../../lib/storage/engine/views.ts";
import { lowerEventfd, raiseEventfd } from "../linux/eventfd.ts";
import { viewOf } from "../linux/memory.ts";
import { DeviceControl, epochOf, PHASE, phaseOf } from "../vhost/control.ts";
import type { PluginAttachment } from "./attachment.ts";
import { Granules } from "./granules.ts";
import {
  CHANNEL_BYTES,
  CHANNEL_WORD,
  channelAt,
  ChannelMemory,
  COMPLETION_WORDS,
  DATA_BYTES,
  epochBits,
  HEADER_WORDS,
  REQUEST,
  REQUEST_WORDS,
  RING_SIZE,
  WORD,
} from "./layout.ts";
import { BREACH, PluginNotes } from "./notes.ts";

const MASK = RING_SIZE - 1;
const TWO_32 = 2 ** 32;
/** The largest errno (MAX_ERRNO of linux/err.h). */
const MOST_ERRNO = 4095;

/** What a tag's operation does. */
const IDLE = 0;
const WAITING = 1;
const STARTED = 2;
/** Its process has ended: it is to be carried out again. */
const AGAIN = 3;

/** An operation that was in flight at so many ends of processes in a row is given up: it may be what ends them. */
const MOST_LOSSES = 3;

/** Where a thread cannot watch descriptors (a simulated machine), it looks so often, with requests in flight and without. */
const LOOK_MS = 0.2;
const IDLE_LOOK_MS = 20;

/** See DiskModule. Throws XenblkError if the attachment's place has been given to another channel. */
export function openChannel(
  attachment: PluginAttachment,
  options: ChannelOptions,
  context: Pick<ChannelContext, "parker" | "platform" | "token">,
): IoChannel {
  return new PluginChannel(attachment, options, context);
}

/** A channel to a plugin's process. */
class PluginChannel extends TableChannel {
  readonly #attachment: PluginAttachment;
  readonly #control: DeviceControl;
  readonly #notes: PluginNotes;
  readonly #vectors: IoVectors;
  readonly #views: MemoryViews;
  /** Of the data area, as if that began at address 0. */
  readonly #places: MemoryViews;
  readonly #now: () => number;
  readonly #owned: DisposableStack;
  readonly #memory: ChannelMemory;
  /** Of the whole process. */
  readonly #header: Int32Array;
  readonly #granules = new Granules();
  /** No descriptor wakes this thread: it has to look. */
  readonly #isPolled: boolean;
  #epoch: number;
  #requestTail = 0;
  #completionHead = 0;
  #startedCount = 0;
  /** The process did what it must not: its rings are not looked at again. */
  #isBroken = false;
  #isArmed = false;
  #isLost = false;
  /** When the ages of requests are looked at next. */
  #checkMs = Infinity;
  /** By tag: state, where its data lies and how long it is, when it was started, and what a flush covers. */
  readonly #state: Uint8Array;
  readonly #dataAt: Float64Array;
  readonly #bytes: Float64Array;
  readonly #startedMs: Float64Array;
  readonly #covers: Int32Array;
  /** By tag: how many processes have ended with it. */
  readonly #losses: Uint8Array;
  /** Tags that are to be carried out again, before those that wait. */
  readonly #again: Uint32Array;
  #againCount = 0;

  constructor(
    attachment: PluginAttachment,
    { depth, vectors, memory, buffers }: ChannelOptions,
    { parker, platform, token }: Pick<ChannelContext, "parker" | "platform" | "token">,
  ) {
    super(depth);
    using undo = new DisposableStack();
    const { control, notes, channel, lease, name, address, callFd } = attachment;
    this.#attachment = attachment;
    this.#control = new DeviceControl(control);
    this.#notes = new PluginNotes(notes);
    undo.use(this.#control.join(channel, lease, name));
    this.#vectors = vectors;
    this.#views = new MemoryViews(memory, buffers);
    this.#now = () => platform.now();
    this.#header = new Int32Array(viewOf(address, HEADER_WORDS * Int32Array.BYTES_PER_ELEMENT).buffer);
    this.#memory = new ChannelMemory(viewOf(address + channelAt(channel), CHANNEL_BYTES).buffer, 0);
    this.#places = new MemoryViews(memory, { address: 0, view: this.#memory.data });
    this.#state = new Uint8Array(depth);
    this.#dataAt = new Float64Array(depth);
    this.#bytes = new Float64Array(depth);
    this.#startedMs = new Float64Array(depth);
    this.#covers = new Int32Array(depth);
    this.#losses = new Uint8Array(depth);
    this.#again = new Uint32Array(depth);
    this.#epoch = this.#control.epoch;
    this.#beginRings();
    this.#isPolled = token.fd < 0;
    if (!this.#isPolled) this.#watch(parker, callFd, undo);
    this.#owned = undo.move();
  }

  /** The process notifies us once a look has found nothing: after any other look, another one is due. */
  get dueMs(): number {
    if (this.#isPolled) return this.#now() + (this.inFlight === 0 ? IDLE_LOOK_MS : LOOK_MS);
    if (this.inFlight === 0) return Infinity;
    return this.#isArmed ? this.#checkMs : 0;
  }

  get isResting(): boolean {
    return !this.#isPolled && this.inFlight === 0;
  }

  override read(tag: number, offsetBytes: number, first: number, count: number): void {
    super.read(tag, offsetBytes, first, count);
    this.#state[tag] = WAITING;
  }

  override write(tag: number, offsetBytes: number, first: number, count: number): void {
    if (this.#attachment.readOnly) return this.table.addCompleted(tag, -EBADF);
    super.write(tag, offsetBytes, first, count);
    this.#state[tag] = WAITING;
  }

  override flush(tag: number): void {
    if (!this.#attachment.flushes) return this.table.addCompleted(tag, 0);
    super.flush(tag);
    this.#state[tag] = WAITING;
  }

  override discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    if (this.#attachment.readOnly) return this.table.addCompleted(tag, -EBADF);
    if (secure || !this.#attachment.discards) return this.table.addCompleted(tag, -EOPNOTSUPP);
    super.discard(tag, offsetBytes, lengthBytes, secure);
    this.#state[tag] = WAITING;
  }

  submit(): void {
    if (this.#mayServe()) this.#startAll();
  }

  override reap(): number {
    const serves = this.#mayServe();
    if (serves && this.inFlight > 0) {
      this.#takeAll();
      if (this.#againCount > 0 || this.table.waitingCount > 0) this.#startAll();
      if (this.#now() >= this.#checkMs) this.#checkAges();
    }
    const count = super.reap();
    this.#isArmed = count === 0 && this.#arm();
    return count;
  }

  /** Throws if operations are in flight. */
  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    Atomics.store(this.#memory.words, CHANNEL_WORD.generation, 0);
    this.#owned.dispose();
  }

  #watch(parker: Parker, callFd: number, owned: DisposableStack): void {
    const source: Wakeable = {
      fd: callFd,
      fired: () => {
        lowerEventfd(callFd);
        this.#isArmed = false;
        this.#mayServe();
      },
    };
    parker.watch(source);
    owned.defer(() => parker.unwatch(source));
  }

  /** The process finds the rings empty, and takes what comes for its own epoch. */
  #beginRings(): void {
    const { words } = this.#memory;
    Atomics.store(words, CHANNEL_WORD.generation, 0);
    Atomics.store(words, CHANNEL_WORD.requestTail, 0);
    Atomics.store(words, CHANNEL_WORD.completionTail, 0);
    this.#requestTail = this.#completionHead = this.#startedCount = 0;
    const count = this.#notes.begin(this.#attachment.channel);
    Atomics.store(words, CHANNEL_WORD.generation, epochBits(this.#epoch) << 16 | count);
    this.#control.follow(this.#attachment.channel, this.#epoch);
  }

  /** Does what the control plane asks for. True: requests may be started, and completions taken. */
  #mayServe(): boolean {
    const { state } = this.#control;
    if (epochOf(state) !== this.#epoch) this.#beginAnew(epochOf(state));
    if (phaseOf(state) === PHASE.serving) return !this.#isBroken;
    if (!this.#isLost) {
      this.#isLost = true;
      this.#checkMs = Infinity;
      this.#control.pause(this.#attachment.channel, this.#epoch);
    }
    if (phaseOf(state) === PHASE.failed || this.#attachment.failsWhenLost) this.#failAll();
    return false;
  }

  /** Starts what is to be carried out again, then what waits, as far as there is room; wakes the process at most once. */
  #startAll(): void {
    const { table } = this;
    const nowMs = this.#now();
    const before = this.#requestTail;
    while (this.#againCount > 0 && this.#start(this.#again[this.#againCount - 1]!, nowMs)) this.#againCount--;
    if (this.#againCount === 0) {
      for (let tag = table.next; tag !== -1 && this.#start(tag, nowMs); tag = table.next) table.shift();
    }
    if (this.#requestTail === before) return;
    Atomics.store(this.#memory.words, CHANNEL_WORD.requestTail, this.#requestTail);
    this.#isArmed = false;
    if (Atomics.exchange(this.#header, WORD.asleep, 0) !== 0) raiseEventfd(this.#attachment.bellFd);
    if (this.#checkMs === Infinity) this.#checkMs = nowMs + this.#attachment.requestTimeoutMs / 4;
  }

  /** Puts an operation into the ring. False: there is no room for it now. */
  #start(tag: number, nowMs: number): boolean {
    const { table } = this;
    const operation = table.operation[tag]!;
    const isTransfer = operation === OPERATION.read || operation === OPERATION.write;
    const bytes = isTransfer ? this.#measure(tag) : table.lengthBytes[tag]!;
    if (isTransfer && bytes > DATA_BYTES) {
      this.#complete(tag, -EINVAL);
      return true;
    }
    if (this.#startedCount === RING_SIZE) return false;
    const dataAt = isTransfer ? this.#granules.take(bytes) : 0;
    if (dataAt < 0) return false;
    this.#dataAt[tag] = dataAt;
    this.#bytes[tag] = isTransfer ? bytes : 0;
    if (operation === OPERATION.write) this.#move(tag, true);
    if (operation === OPERATION.flush) this.#covers[tag] = this.#notes.written;
    this.#state[tag] = STARTED;
    this.#startedMs[tag] = nowMs;
    this.#put(tag, operation, operation === OPERATION.flush ? 0 : bytes, dataAt);
    return true;
  }

  #put(tag: number, operation: number, bytes: number, dataAt: number): void {
    const at = (this.#requestTail & MASK) * REQUEST_WORDS;
    const { requests } = this.#memory;
    const offset = this.table.offsetBytes[tag]!;
    // A discard may be longer than 4 GiB: its length is in sectors. What is beyond 2 TiB is kept, which it may be.
    const isDiscard = operation === OPERATION.discard;
    requests[at + REQUEST.tag] = tag;
    requests[at + REQUEST.operation] = operation;
    requests[at + REQUEST.offsetLow] = offset % TWO_32;
    requests[at + REQUEST.offsetHigh] = offset / TWO_32;
    requests[at + REQUEST.lengthBytes] = isDiscard ? Math.min(bytes / 512, TWO_32 - 1) : bytes;
    requests[at + REQUEST.dataAt] = dataAt;
    this.#requestTail = this.#requestTail + 1 | 0;
    this.#startedCount++;
  }

  #measure(tag: number): number {
    const { lengths } = this.#vectors;
    const first = this.table.first[tag]!;
    const end = first + this.table.count[tag]!;
    let bytes = 0;
    for (let i = first; i < end; i++) bytes += lengths[i]!;
    return bytes;
  }

  /** Copies between an operation's memory and its place in the data area. */
  #move(tag: number, isWrite: boolean): void {
    const { addresses, lengths } = this.#vectors;
    const first = this.table.first[tag]!;
    const end = first + this.table.count[tag]!;
    let at = this.#dataAt[tag]!;
    for (let i = first; i < end;) {
      const address = addresses[i]!;
      let lengthBytes = lengths[i++]!;
      // Vectors that are adjacent in memory go into one copy.
      while (i < end && addresses[i] === address + lengthBytes) lengthBytes += lengths[i++]!;
      const view = this.#views.view(address, lengthBytes);
      const place = this.#places.view(at, lengthBytes);
      if (isWrite) place.set(view);
      else view.set(place);
      at += lengthBytes;
    }
  }

  /** Takes everything that the process has completed. */
  #takeAll(): void {
    const { words, completions } = this.#memory;
    const done = Atomics.load(words, CHANNEL_WORD.completionTail) - this.#completionHead | 0;
    if (done < 0 || done > this.#startedCount) return this.#accuse(BREACH.index, done);
    for (let i = 0; i < done; i++) {
      const at = (this.#completionHead & MASK) * COMPLETION_WORDS;
      const tag = completions[at]!;
      const result = completions[at + 1]!;
      if (!(tag >= 0 && tag < this.#state.length && this.#state[tag] === STARTED)) {
        return this.#accuse(BREACH.tag, tag);
      }
      if (result > 0 || result < -MOST_ERRNO) return this.#accuse(BREACH.result, result);
      this.#completionHead = this.#completionHead + 1 | 0;
      this.#startedCount--;
      this.#finish(tag, result);
    }
  }

  /** An operation is done. */
  #finish(tag: number, result: number): void {
    const operation = this.table.operation[tag]!;
    if (result === 0 && operation === OPERATION.read) this.#move(tag, false);
    if (this.#attachment.losesWrites && result === 0 && operation === OPERATION.write) this.#notes.wrote();
    if (result === 0 && operation === OPERATION.flush) this.#notes.flushed(this.#covers[tag]!);
    this.#free(tag);
    this.#complete(tag, result);
  }

  #free(tag: number): void {
    if (this.#bytes[tag]! > 0) this.#granules.give(this.#dataAt[tag]!, this.#bytes[tag]!);
    this.#bytes[tag] = 0;
  }

  #complete(tag: number, result: number): void {
    this.#state[tag] = IDLE;
    this.#losses[tag] = 0;
    this.table.complete(tag, result);
  }

  /** Asks to be notified of the next completion. False: there is one already, or nothing is in flight. */
  #arm(): boolean {
    if (this.#isLost || this.#isBroken) return true; // the control plane notifies us
    if (this.inFlight === 0) return false;
    const { words } = this.#memory;
    Atomics.store(words, CHANNEL_WORD.armed, 1);
    return Atomics.load(words, CHANNEL_WORD.completionTail) === this.#completionHead;
  }

  /** Reports a request that takes too long; looks at all of them, but seldom. */
  #checkAges(): void {
    const { requestTimeoutMs } = this.#attachment;
    const nowMs = this.#now();
    for (let tag = 0; tag < this.#state.length; tag++) {
      if (this.#state[tag] !== STARTED || nowMs - this.#startedMs[tag]! < requestTimeoutMs) continue;
      return this.#accuse(BREACH.age, requestTimeoutMs);
    }
    this.#checkMs = this.#startedCount === 0 ? Infinity : nowMs + requestTimeoutMs / 4;
  }

  /** The process did what it must not: the control plane ends it. */
  #accuse(breach: number, value: number): void {
    this.#isBroken = true;
    this.#checkMs = Infinity;
    this.#notes.accuse(breach, value);
    raiseEventfd(this.#attachment.newsFd);
  }

  /** What was not completed fails. */
  #failAll(): void {
    this.#againCount = 0;
    while (this.table.next !== -1) this.table.shift();
    for (let tag = 0; tag < this.#state.length; tag++) {
      if (this.#state[tag] === IDLE) continue;
      this.#free(tag);
      this.#complete(tag, -EIO);
    }
    this.#isArmed = false;
  }

  /** There is a new process: what was in flight is carried out again, from its beginning. */
  #beginAnew(epoch: number): void {
    this.#epoch = epoch;
    this.#isBroken = this.#isArmed = this.#isLost = false;
    this.#checkMs = Infinity;
    this.#againCount = 0;
    for (let tag = this.#state.length - 1; tag >= 0; tag--) {
      const state = this.#state[tag];
      if (state !== STARTED && state !== AGAIN) continue;
      this.#free(tag);
      if (state === STARTED && ++this.#losses[tag]! >= MOST_LOSSES) {
        this.#complete(tag, -EIO);
        continue;
      }
      this.#state[tag] = AGAIN;
      this.#again[this.#againCount++] = tag;
    }
    this.#beginRings();
  }
}
