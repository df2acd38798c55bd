/**
 * A channel through a volatile write cache: a write completes when it is in the cache, a read sees the cache, and a flush
 * writes the cache to the disk and flushes that.
 */

import { EIO, ENOSPC } from "../errno.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment } from "../storage/disk.ts";
import { OPERATION } from "../storage/engine/executor.ts";
import { MemoryViews } from "../storage/engine/views.ts";
import { HoldingChannel } from "../storage/filter/holding.ts";
import { SECTOR_BYTES } from "../units.ts";
import { CHUNK_BYTES, SharedChannel } from "./shared_channel.ts";
import type { CachedBytes, DestageBatch, VolatileCache } from "./volatile_cache.ts";

/** How soon a channel looks again whether another one has ended its flush, in milliseconds. */
const POLL_MS = 1;

/** What operations that are not carried out complete with; 0: they are. */
export interface Refusals {
  readonly write: number;
  readonly discard: number;
}

/** One ring's channel. It owns the channel to the disk. */
export class PowerLossChannel extends HoldingChannel {
  protected override readonly passes = false;
  readonly #cache: VolatileCache;
  readonly #refusals: Refusals;
  readonly #views: MemoryViews;
  readonly #destage: Destage;
  readonly #nowMs: () => number;
  /** By tag of a read: what of it was in the cache when it began. */
  readonly #cached: (CachedBytes | undefined)[] = [];
  /** Writes that wait for room, and flushes with the mark that they need; in order. */
  readonly #waitingWrites: number[] = [];
  #waitingFlushes: { readonly tag: number; readonly mark: number }[] = [];

  /** Throws what the disk's module throws. */
  static open(
    cache: VolatileCache,
    refusals: Refusals,
    disk: DiskAttachment,
    options: ChannelOptions,
    context: ChannelContext,
  ): PowerLossChannel {
    const nowMs = (): number => context.platform.now();
    return new PowerLossChannel(cache, refusals, new SharedChannel(disk, options, context), options, nowMs);
  }

  private constructor(
    cache: VolatileCache,
    refusals: Refusals,
    shared: SharedChannel,
    options: ChannelOptions,
    nowMs: () => number,
  ) {
    super(shared, options);
    this.#cache = cache;
    this.#refusals = refusals;
    this.#destage = new Destage(cache, shared);
    this.#nowMs = nowMs;
    this.#views = new MemoryViews(options.memory, options.buffers);
  }

  protected override take(tag: number): void {
    switch (this.operation[tag]) {
      case OPERATION.read:
        this.#cached[tag] = this.#cache.read(this.offsetBytes[tag]!, this.lengthOf(tag));
        return this.start(tag);
      case OPERATION.flush:
        this.held++;
        return void this.#waitingFlushes.push({ tag, mark: this.#cache.mark });
      case OPERATION.discard:
        return this.answer(tag, this.#refusals.discard);
      default:
        return this.#takeWrite(tag);
    }
  }

  /** What was in the cache when a read began is newer than the disk's. */
  protected override finish(tag: number, result: number): number {
    const cached = this.#cached[tag];
    this.#cached[tag] = undefined;
    if (result === 0 && cached !== undefined) this.#patch(tag, cached);
    return result;
  }

  protected override release(): void {
    for (let goesOn = true; goesOn && this.held > 0;) {
      const ended = this.#destage.advance();
      goesOn = ended !== undefined;
      if (ended === undefined) continue;
      this.#answerFlushes(ended.mark, ended.result);
      this.#retryWrites(ended.result);
    }
  }

  protected override nextMs(): number {
    return this.#destage.isIdle ? this.#nowMs() + POLL_MS : Infinity;
  }

  #takeWrite(tag: number): void {
    const { write } = this.#refusals;
    if (write !== 0) return this.answer(tag, write);
    if (this.#waitingWrites.length === 0 && this.#add(tag)) return this.answer(tag, 0);
    this.held++;
    this.#waitingWrites.push(tag);
  }

  #add(tag: number): boolean {
    return this.#cache.add(this.offsetBytes[tag]!, this.lengthOf(tag), (into) => {
      let at = 0;
      for (const bytes of this.#memoryOf(tag)) {
        into.set(bytes, at);
        at += bytes.length;
      }
    });
  }

  #patch(tag: number, { bytes, isCached }: CachedBytes): void {
    let at = 0;
    for (const memory of this.#memoryOf(tag)) {
      for (let i = 0; i < memory.length; i += SECTOR_BYTES, at += SECTOR_BYTES) {
        if (isCached[at / SECTOR_BYTES] === 1) memory.set(bytes.subarray(at, at + SECTOR_BYTES), i);
      }
    }
  }

  *#memoryOf(tag: number): Generator<Uint8Array> {
    const first = this.first[tag]!;
    const { addresses, lengths } = this.vectors;
    for (let i = first; i < first + this.count[tag]!; i++) yield this.#views.view(addresses[i]!, lengths[i]!);
  }

  #answerFlushes(mark: number, result: number): void {
    this.#waitingFlushes = this.#waitingFlushes.filter((flush) => {
      if (flush.mark > mark) return true;
      this.held--;
      this.answer(flush.tag, result);
      return false;
    });
  }

  /** A write that does not fit an empty cache fits none. */
  #retryWrites(result: number): void {
    for (const tag of this.#waitingWrites.splice(0)) {
      const failure = result < 0 ? result : this.lengthOf(tag) > this.#cache.dataBytes ? -ENOSPC : 0;
      if (failure === 0 && !this.#add(tag)) {
        this.#waitingWrites.push(tag);
        continue;
      }
      this.held--;
      this.answer(tag, failure);
    }
  }
}

/** How a batch ended. */
interface Ended {
  readonly mark: number;
  /** 0, or a negative errno. */
  readonly result: number;
}

/** Makes the cache durable, batch by batch, in pieces. */
class Destage {
  readonly #cache: VolatileCache;
  readonly #channel: SharedChannel;
  #batch: DestageBatch | undefined;
  /** The write that is being written, and how much of it is. */
  #write = 0;
  #done = 0;
  #isFlushing = false;

  constructor(cache: VolatileCache, channel: SharedChannel) {
    this.#cache = cache;
    this.#channel = channel;
  }

  get isIdle(): boolean {
    return this.#batch === undefined;
  }

  /** Begins a batch if none is under way, and goes on with it as far as that is possible now. */
  advance(): Ended | undefined {
    if (this.#batch === undefined) {
      this.#batch = this.#cache.beginDestage();
      if (this.#batch === undefined) return undefined;
      [this.#write, this.#done] = [0, 0];
      this.#next(this.#batch);
    }
    const batch = this.#batch;
    for (let result = this.#channel.takeOwn(); result !== undefined; result = this.#channel.takeOwn()) {
      if (result < 0 || this.#cache.isCut(batch)) return this.#end(batch, result < 0 ? result : -EIO);
      if (this.#isFlushing) return this.#end(batch, 0);
      this.#next(batch);
    }
    return undefined;
  }

  /** Starts the next piece, or the flush after the last one. */
  #next({ writes }: DestageBatch): void {
    const write = writes[this.#write];
    this.#isFlushing = write === undefined;
    if (write === undefined) return this.#channel.flushOwn();
    const { offsetBytes, bytes } = write;
    const piece = bytes.subarray(this.#done, this.#done + CHUNK_BYTES);
    this.#channel.writeOwn(offsetBytes + this.#done, piece);
    this.#done += piece.length;
    if (this.#done === bytes.length) [this.#write, this.#done] = [this.#write + 1, 0];
  }

  #end(batch: DestageBatch, result: number): Ended {
    this.#batch = undefined;
    this.#cache.endDestage(batch, result === 0);
    return { mark: batch.mark, result };
  }
}
