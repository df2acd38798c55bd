/**
 * Carries out requests in the process of a plugin: takes them from the channels' rings, calls the disk's methods, and
 * completes each request when its method is done. Sleeps when there is nothing to take; the event loop runs meanwhile.
 */

import { EIO, ENOMEM, ENOSPC } from "../../lib/errno.ts";
import { errnoOf } from "../../lib/storage/errno.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import type { DiskMethods } from "../../lib/storage/plugin/disk_methods.ts";
import type { HostSystem } from "./host_system.ts";
import {
  CHANNEL_WORD,
  channelAt,
  ChannelMemory,
  COMPLETION_WORDS,
  epochBits,
  HEADER_WORDS,
  MOST_CHANNELS,
  REQUEST,
  REQUEST_WORDS,
  RING_SIZE,
  WORD,
} from "./layout.ts";

const MASK = RING_SIZE - 1;
const TWO_32 = 2 ** 32;
/** So many passes in a row that found something; then timers and I/O of the plugin get their turn. */
const MOST_PASSES = 64;

const NAMES: Readonly<Record<number, string>> = {
  [OPERATION.read]: "read",
  [OPERATION.write]: "write",
  [OPERATION.flush]: "flush",
  [OPERATION.discard]: "discard",
};

/** What the loop is given. */
export interface LoopParts {
  readonly system: HostSystem;
  readonly disk: DiskMethods;
  /** Requests of this process carry it. */
  readonly epoch: number;
  /** By channel: wakes its reactor. */
  readonly callFds: readonly number[];
  /** Called with each error that a method throws. */
  readonly failed: (what: string, error: unknown) => void;
}

/** One channel, as this process sees it. */
class HostChannel {
  readonly memory: ChannelMemory;
  /** Of the rings that are used; 0: none. */
  generation = 0;
  head = 0;
  tail = 0;
  inFlight = 0;
  /** Completions that the reactor has not been shown. */
  isHolding = false;

  constructor(memory: ChannelMemory, readonly callFd: number) {
    this.memory = memory;
  }
}

/** All channels of the process. */
export class HostLoop {
  readonly #parts: LoopParts;
  readonly #header: Int32Array;
  readonly #channels: readonly HostChannel[];
  /** Of the disk; methods are called for nothing behind it. */
  sizeBytes: number;
  #isPublishing = false;

  constructor(parts: LoopParts) {
    this.#parts = parts;
    this.sizeBytes = parts.disk.sizeBytes;
    const { memory } = parts.system;
    this.#header = new Int32Array(memory, 0, HEADER_WORDS);
    this.#channels = Array.from(
      { length: MOST_CHANNELS },
      (_, i) => new HostChannel(new ChannelMemory(memory, channelAt(i)), parts.callFds[i]!),
    );
  }

  /** Serves until `command`, called whenever there is a command in the mailbox, resolves with true. */
  async run(command: () => Promise<boolean>): Promise<void> {
    const header = this.#header;
    for (let passes = 0;; passes++) {
      if (Atomics.load(header, WORD.asked) !== Atomics.load(header, WORD.answered) && await command()) return;
      const found = this.#pass();
      if (passes >= MOST_PASSES) {
        await new Promise((resolve) => setImmediate(resolve));
        passes = 0;
      } else if (!found && await this.#sleep()) {
        passes = 0;
      }
    }
  }

  /** Resolves when no method is in flight. */
  async idle(): Promise<void> {
    while (this.#channels.some(({ inFlight }) => inFlight > 0)) await new Promise((resolve) => setTimeout(resolve, 5));
  }

  /** Until there is work. False: there was some at once, and the event loop had no turn. */
  async #sleep(): Promise<boolean> {
    Atomics.store(this.#header, WORD.asleep, 1);
    const sleeps = !this.#hasWork();
    if (sleeps) await this.#parts.system.sleep();
    Atomics.store(this.#header, WORD.asleep, 0);
    return sleeps;
  }

  #hasWork(): boolean {
    const header = this.#header;
    if (Atomics.load(header, WORD.asked) !== Atomics.load(header, WORD.answered)) return true;
    if (Atomics.load(header, WORD.ping) !== Atomics.load(header, WORD.pong)) return true;
    return this.#channels.some((channel) => this.#follow(channel) && this.#tailOf(channel) !== channel.head);
  }

  /** True: there was something to do. */
  #pass(): boolean {
    const ping = Atomics.load(this.#header, WORD.ping);
    let found = Atomics.exchange(this.#header, WORD.pong, ping) !== ping;
    for (const channel of this.#channels) {
      if (this.#follow(channel) && this.#takeAll(channel)) found = true;
    }
    this.#publish();
    return found;
  }

  /** Follows the channel to new rings. False: nobody uses it, or not with this process. */
  #follow(channel: HostChannel): boolean {
    const generation = Atomics.load(channel.memory.words, CHANNEL_WORD.generation);
    if (generation !== channel.generation) {
      channel.generation = generation;
      channel.head = channel.tail = 0;
    }
    return generation !== 0 && generation >>> 16 === epochBits(this.#parts.epoch);
  }

  /** Index behind the last request; the head if the rings have just begun anew. */
  #tailOf(channel: HostChannel): number {
    const { words } = channel.memory;
    const tail = Atomics.load(words, CHANNEL_WORD.requestTail);
    return Atomics.load(words, CHANNEL_WORD.generation) === channel.generation ? tail : channel.head;
  }

  #takeAll(channel: HostChannel): boolean {
    const tail = this.#tailOf(channel);
    if (tail === channel.head) return false;
    while (channel.head !== tail) {
      const at = (channel.head & MASK) * REQUEST_WORDS;
      channel.head = channel.head + 1 | 0;
      this.#carryOut(channel, at);
    }
    return true;
  }

  #carryOut(channel: HostChannel, at: number): void {
    const { requests } = channel.memory;
    const tag = requests[at + REQUEST.tag]!;
    const operation = requests[at + REQUEST.operation]!;
    const offset = (requests[at + REQUEST.offsetLow]! >>> 0) + (requests[at + REQUEST.offsetHigh]! >>> 0) * TWO_32;
    const length = requests[at + REQUEST.lengthBytes]! >>> 0;
    const dataAt = requests[at + REQUEST.dataAt]!;
    channel.inFlight++;
    const bytes = operation === OPERATION.discard ? length * 512 : length;
    if (offset + bytes > this.sizeBytes) {
      return this.#complete(channel, tag, operation === OPERATION.read ? -EIO : -ENOSPC);
    }
    try {
      const done = this.#call(channel, operation, offset, bytes, dataAt);
      if (done === undefined) return this.#complete(channel, tag, 0);
      done.then(
        () => this.#completeLater(channel, tag, 0),
        (error) => this.#completeLater(channel, tag, this.#failure(operation, offset, error)),
      );
    } catch (error) {
      this.#complete(channel, tag, this.#failure(operation, offset, error));
    }
  }

  #call(
    { memory: { data } }: HostChannel,
    operation: number,
    offset: number,
    length: number,
    dataAt: number,
  ): Promise<void> | undefined {
    const { disk } = this.#parts;
    const buffer = (): Uint8Array => data.subarray(dataAt, dataAt + length);
    const result = operation === OPERATION.read
      ? disk.read(offset, buffer())
      : operation === OPERATION.write
      ? disk.write!(offset, buffer())
      : operation === OPERATION.flush
      ? disk.flush!()
      : disk.discard!(offset, length);
    // Any thenable: a library's promises need not be those of the language.
    return typeof result === "object" && result !== null ? Promise.resolve(result) : undefined;
  }

  #failure(operation: number, offset: number, error: unknown): number {
    const place = operation === OPERATION.flush ? "" : ` at byte ${offset}`;
    try {
      this.#parts.failed(`${NAMES[operation] ?? "request"}${place}`, error);
      // Of Deno's files a RangeError is a bad address; in a plugin it is a mistake, or memory that is not there.
      if (!(error instanceof RangeError)) return errnoOf(error);
      return /allocation failed/.test(error.message) ? -ENOMEM : -EIO;
    } catch {
      return -EIO; // an error that throws when it is looked at
    }
  }

  #completeLater(channel: HostChannel, tag: number, result: number): void {
    this.#complete(channel, tag, result);
    if (this.#isPublishing) return;
    this.#isPublishing = true;
    // Methods that are done in the same turn are shown together.
    queueMicrotask(() => this.#publish());
  }

  #complete(channel: HostChannel, tag: number, result: number): void {
    const at = (channel.tail & MASK) * COMPLETION_WORDS;
    channel.memory.completions[at] = tag;
    channel.memory.completions[at + 1] = result;
    channel.tail = channel.tail + 1 | 0;
    channel.inFlight--;
    channel.isHolding = true;
  }

  #publish(): void {
    this.#isPublishing = false;
    for (const channel of this.#channels) {
      if (!channel.isHolding) continue;
      channel.isHolding = false;
      const { words } = channel.memory;
      Atomics.store(words, CHANNEL_WORD.completionTail, channel.tail);
      if (Atomics.exchange(words, CHANNEL_WORD.armed, 0) !== 0) this.#parts.system.ring(channel.callFd);
    }
  }
}
