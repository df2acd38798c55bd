/**
 * Drives one I/O channel as a ring's queue does, for tests of engines and filters: one page-aligned buffer per tag, cut
 * into vectors by each operation, and ways to wait for completions.
 */

import type { OwnedMemory, Parker, Platform } from "../hypervisor.ts";
import { eventLoopTurn } from "../modules.ts";
import type {
  BufferOpener,
  BufferSpace,
  ChannelOpener,
  DiskAttachment,
  IoChannel,
  IoVectors,
  MemoryRule,
} from "../storage/disk.ts";

/** How long a driver waits for a completion before it throws, in milliseconds. */
export const PATIENCE_MS = 20_000;

/** How long it sleeps at a time: what serves the disk on this thread's event loop goes on in between. */
const SLICE_MS = 20;

/** How long the thread goes on without a turn of its event loop, also if each completion is there at once. */
const TURN_MS = 5;

/** How a channel is opened and driven. */
export interface ChannelDriverOptions {
  /** Its memory holds the buffers; its clock is that of `dueMs`. */
  readonly platform: Platform;
  /** Where this thread sleeps; absent: the channel completes everything in `submit`. */
  readonly parker?: Parker | undefined;
  /** Opens the channel. */
  readonly open: ChannelOpener;
  /** Where the buffers must lie; absent, or if it returns undefined: in the platform's memory. */
  readonly openMemory?: BufferOpener | undefined;
  /** Most operations in flight. Default 32. */
  readonly depth?: number;
  /** Bytes of each tag's buffer. Default 64 KiB. */
  readonly bufferBytes?: number;
  /** Most vectors of one operation. Default 16. */
  readonly vectorsPerTag?: number;
  /** Whether the engine knows the buffers, or sees unknown addresses. Default true. */
  readonly announce?: boolean;
  readonly rule?: MemoryRule;
  /** A filter to put in front of the channel. */
  readonly wrap?: (channel: IoChannel, vectors: IoVectors) => IoChannel;
}

/** A channel with one buffer per tag. Disposing it closes the channel, which must have nothing in flight. */
export class ChannelDriver implements Disposable {
  readonly channel: IoChannel;
  readonly vectors: IoVectors;
  protected readonly parker: Parker | undefined;
  readonly #platform: Platform;
  readonly #space: BufferSpace | undefined;
  readonly #memory: OwnedMemory;
  readonly #bufferBytes: number;
  readonly #vectorsPerTag: number;
  /** When others of this thread have their next turn. */
  #turnEndMs = 0;

  constructor(attachment: DiskAttachment, options: ChannelDriverOptions) {
    const { platform, depth = 32, bufferBytes = 64 << 10, vectorsPerTag = 16 } = options;
    using undo = new DisposableStack();
    this.#platform = platform;
    this.#space = undo.use(options.openMemory?.(attachment));
    this.#memory = undo.use((this.#space ?? platform.memory).allocate(depth * bufferBytes));
    this.#bufferBytes = bufferBytes;
    this.#vectorsPerTag = vectorsPerTag;
    this.parker = options.parker;
    this.vectors = {
      addresses: new Float64Array(depth * vectorsPerTag),
      lengths: new Uint32Array(depth * vectorsPerTag),
    };
    const buffers = options.announce === false ? {} : { buffers: this.#memory };
    const rule = options.rule === undefined ? {} : { rule: options.rule };
    const { vectors } = this;
    const channel = options.open(attachment, { depth, vectors, memory: platform.memory, ...buffers, ...rule });
    this.channel = options.wrap?.(channel, vectors) ?? channel;
    undo.move();
  }

  /** The tag's buffer. */
  buffer(tag: number): Uint8Array {
    return this.#memory.view.subarray(tag * this.#bufferBytes, (tag + 1) * this.#bufferBytes);
  }

  /** Vectors of the tag's buffer: pieces of these lengths, each `gapBytes` after the one before; queues a read. */
  read(tag: number, offsetBytes: number, lengths: readonly number[], gapBytes = 0): void {
    this.channel.read(tag, offsetBytes, this.#cut(tag, lengths, gapBytes), lengths.length);
  }

  /** As {@linkcode read}, for a write. */
  write(tag: number, offsetBytes: number, lengths: readonly number[], gapBytes = 0): void {
    this.channel.write(tag, offsetBytes, this.#cut(tag, lengths, gapBytes), lengths.length);
  }

  /** What can be reaped now: results by tag. Throws if a tag is reaped twice. */
  reapNow(): Map<number, number> {
    const count = this.channel.reap();
    const { tags, results } = this.channel;
    const reaped = new Map<number, number>();
    for (let i = 0; i < count; i++) reaped.set(tags[i]!, results[i]!);
    if (reaped.size !== count) throw new Error(`reaped twice at a time: ${[...tags.subarray(0, count)].join(", ")}`);
    return reaped;
  }

  /** Submits, and waits until something is reaped: in the parker, and on the event loop. Rejects after 20 s. */
  async reaped(): Promise<Map<number, number>> {
    this.channel.submit();
    if (performance.now() > this.#turnEndMs) {
      await eventLoopTurn();
      this.#turnEndMs = performance.now() + TURN_MS;
    }
    for (const end = performance.now() + PATIENCE_MS;;) {
      const results = this.reapNow();
      if (results.size > 0) return results;
      if (performance.now() > end) throw new Error(`no completion came in ${PATIENCE_MS / 1000} s`);
      this.sleep(SLICE_MS);
      const late = this.reapNow();
      if (late.size > 0) return late;
      await eventLoopTurn();
    }
  }

  /** Submits, waits for everything in flight and resolves with results by tag. */
  async finished(): Promise<Map<number, number>> {
    const results = new Map<number, number>();
    while (this.channel.inFlight > 0) {
      for (const [tag, result] of await this.reaped()) results.set(tag, result);
    }
    return results;
  }

  /** One read of that length into tag 0's buffer, with nothing else in flight; resolves with the result. */
  async readAt(offsetBytes: number, lengthBytes: number): Promise<number> {
    this.read(0, offsetBytes, [lengthBytes]);
    return (await this.finished()).get(0)!;
  }

  /** One write of tag 0's buffer, with nothing else in flight; resolves with the result. */
  async writeAt(offsetBytes: number, lengthBytes: number): Promise<number> {
    this.write(0, offsetBytes, [lengthBytes]);
    return (await this.finished()).get(0)!;
  }

  /** One flush, with nothing else in flight; resolves with the result. */
  async flushNow(): Promise<number> {
    this.channel.flush(0);
    return (await this.finished()).get(0)!;
  }

  /** One discard, with nothing else in flight; resolves with the result. */
  async discardAt(offsetBytes: number, lengthBytes: number, secure = false): Promise<number> {
    this.channel.discard(0, offsetBytes, lengthBytes, secure);
    return (await this.finished()).get(0)!;
  }

  /** Sleeps until the thread is woken, the channel is due, or so much time has passed. */
  sleep(mostMs: number): void {
    const dueMs = this.channel.dueMs ?? Infinity;
    this.parker?.park(Math.max(0, Math.min(mostMs, Math.ceil(dueMs - this.#platform.now()))));
  }

  [Symbol.dispose](): void {
    this.channel[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
    this.#space?.[Symbol.dispose]();
  }

  #cut(tag: number, lengths: readonly number[], gapBytes: number): number {
    const first = tag * this.#vectorsPerTag;
    let address = this.#memory.address + tag * this.#bufferBytes;
    lengths.forEach((lengthBytes, i) => {
      this.vectors.addresses[first + i] = address;
      this.vectors.lengths[first + i] = lengthBytes;
      address += lengthBytes + gapBytes;
    });
    return first;
  }
}
