/**
 * A filter that logs a ring's writes until they are flushed (log.ts), in front of a disk that another process serves.
 * When a quarter of a partition is full it flushes on its own; when it is full, writes wait for that flush. Writes and discards
 * that overlap run one after the other, so that the order of answers is the order on the disk.
 */

import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel, IoVectors } from "../disk.ts";
import { MemoryViews } from "../engine/views.ts";
import { TagLine } from "../tag_line.ts";
import { DiskLog, type LogPartition, type LogPlace } from "./log.ts";
import { type PartLease, takePart } from "./parts.ts";

/** Names a logged disk. */
export interface LoggedAttachment extends DiskAttachment {
  /** The disk. */
  readonly inner: DiskAttachment;
  readonly log: LogPlace;
  /** The partition of the channel. */
  readonly part: PartLease;
}

/** The attachment of a logged disk. */
export function loggedAttachment(inner: DiskAttachment, log: LogPlace, part: PartLease): LoggedAttachment {
  return { module: import.meta.url, inner, log, part };
}

/** See DiskModule. Throws XenblkError if the partition has gone to another channel. */
export function openChannel(attachment: DiskAttachment, options: ChannelOptions, context: ChannelContext): IoChannel {
  const { inner, log, part } = attachment as LoggedAttachment;
  using undo = new DisposableStack();
  undo.use(takePart(part));
  const memory = context.platform.memory.view(log.address, log.lengthBytes);
  // One operation more: the flush that the log starts by itself.
  const channel = undo.use(context.openChannel(inner, { ...options, depth: options.depth + 1 }));
  const partition = new DiskLog(memory).partition(part.part);
  return new LoggedChannel(channel, partition, options, undo.move());
}

const NO_ENTRY = -1;
const READ = 0;
const WRITE = 1;
const DISCARD = 2;
const FLUSH = 3;

/** One ring's channel. It owns the one behind it. */
class LoggedChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #inner: IoChannel;
  readonly #partition: LogPartition;
  readonly #vectors: IoVectors;
  readonly #views: MemoryViews;
  readonly #owned: Disposable;
  /** The tag of the log's own flushes. */
  readonly #ownTag: number;
  /** By tag: what it is (READ, ...), where, and its entry in the log. */
  readonly #kind: Uint8Array;
  readonly #begin: Float64Array;
  readonly #end: Float64Array;
  readonly #first: Uint32Array;
  readonly #count: Uint32Array;
  readonly #secure: Uint8Array;
  readonly #entry: Int32Array;
  /** By tag of a flush: the mark of the log when it started. */
  readonly #mark: Int32Array;
  /** Tags of the writes and discards that are in flight. */
  readonly #live: Uint32Array;
  #liveCount = 0;
  /** Tags that wait: writes and discards for room or for one that overlaps, in order; flushes for the log's own. */
  readonly #held: TagLine;
  readonly #heldFlushes: TagLine;
  /** Tags that complete without the disk. */
  readonly #refused: TagLine;
  #flushes = 0;
  #flushing = false;

  constructor(inner: IoChannel, partition: LogPartition, options: ChannelOptions, owned: Disposable) {
    const { depth, vectors, memory, buffers } = options;
    this.#inner = inner;
    this.#partition = partition;
    this.#vectors = vectors;
    this.#views = new MemoryViews(memory, buffers);
    this.#owned = owned;
    this.#ownTag = depth;
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#kind = new Uint8Array(depth);
    this.#begin = new Float64Array(depth);
    this.#end = new Float64Array(depth);
    this.#first = new Uint32Array(depth);
    this.#count = new Uint32Array(depth);
    this.#secure = new Uint8Array(depth);
    this.#entry = new Int32Array(depth).fill(NO_ENTRY);
    this.#mark = new Int32Array(depth + 1);
    this.#live = new Uint32Array(depth);
    this.#held = new TagLine(depth);
    this.#heldFlushes = new TagLine(depth);
    this.#refused = new TagLine(depth);
  }

  get dueMs(): number {
    return this.#inner.dueMs ?? Infinity;
  }

  /** While a flush of the log's own is under way, the inner channel does not rest. */
  get isResting(): boolean {
    return this.inFlight === 0 && (this.#inner.dueMs === undefined || this.#inner.isResting === true);
  }

  get inFlight(): number {
    const own = this.#flushing ? 1 : 0;
    return this.#inner.inFlight - own + this.#held.count + this.#heldFlushes.count + this.#refused.count;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.#kind[tag] = READ;
    this.#inner.read(tag, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    const { lengths } = this.#vectors;
    let end = offsetBytes;
    for (let i = first; i < first + count; i++) end += lengths[i]!;
    this.#kind[tag] = WRITE;
    this.#begin[tag] = offsetBytes;
    this.#end[tag] = end;
    this.#first[tag] = first;
    this.#count[tag] = count;
    this.#startOrHold(tag);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.#kind[tag] = DISCARD;
    this.#begin[tag] = offsetBytes;
    this.#end[tag] = offsetBytes + lengthBytes;
    this.#secure[tag] = secure ? 1 : 0;
    this.#startOrHold(tag);
  }

  flush(tag: number): void {
    this.#kind[tag] = FLUSH;
    if (this.#partition.failure !== 0) this.#refused.add(tag);
    else if (this.#flushing) this.#heldFlushes.add(tag);
    else this.#startFlush(tag);
  }

  submit(): void {
    this.#inner.submit();
  }

  reap(): number {
    const { tags, results } = this.#inner;
    const done = this.#inner.reap();
    let count = 0;
    for (let i = 0; i < done; i++) {
      const [tag, result] = [tags[i]!, results[i]!];
      if (tag === this.#ownTag) this.#endOwnFlush(result);
      else {
        this.tags[count] = tag;
        this.results[count++] = this.#finish(tag, result);
      }
    }
    if (done > 0) {
      this.#startHeld();
      this.#inner.submit(); // what was held, and flushes
    }
    for (let tag = this.#refused.shift(); tag >= 0; tag = this.#refused.shift()) {
      this.tags[count] = tag;
      this.results[count++] = this.#partition.failure;
    }
    return count;
  }

  /** After a last flush, which waits for a flush of the log's own: so none is under way. */
  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }

  /** Starts a write or discard, unless it has to wait. What waits already goes first. */
  #startOrHold(tag: number): void {
    this.#held.add(tag);
    if (this.#held.count === 1) this.#startHeld();
    if (this.#partition.isFilling) this.#startOwnFlush();
  }

  /** False: the log has no room for it. */
  #start(tag: number): boolean {
    const begin = this.#begin[tag]!;
    const lengthBytes = this.#end[tag]! - begin;
    const secure = this.#secure[tag] === 1;
    const entry = this.#kind[tag] === WRITE
      ? this.#partition.addWrite(begin, lengthBytes)
      : this.#partition.addDiscard(begin, lengthBytes, secure);
    if (entry === NO_ENTRY) return false;
    this.#entry[tag] = entry;
    this.#live[this.#liveCount++] = tag;
    if (this.#kind[tag] === DISCARD) this.#inner.discard(tag, begin, lengthBytes, secure);
    else {
      this.#copy(tag, this.#partition.dataAt(entry));
      this.#inner.write(tag, begin, this.#first[tag]!, this.#count[tag]!);
    }
    return true;
  }

  #copy(tag: number, at: number): void {
    const { addresses, lengths } = this.#vectors;
    const end = this.#first[tag]! + this.#count[tag]!;
    let to = at;
    for (let i = this.#first[tag]!; i < end; i++) {
      this.#partition.data.set(this.#views.view(addresses[i]!, lengths[i]!), to);
      to += lengths[i]!;
    }
  }

  #overlaps(tag: number): boolean {
    const begin = this.#begin[tag]!;
    const end = this.#end[tag]!;
    for (let i = 0; i < this.#liveCount; i++) {
      const other = this.#live[i]!;
      if (this.#begin[other]! < end && begin < this.#end[other]!) return true;
    }
    return false;
  }

  /** The disk has completed an operation of the guest. Returns what the guest is told. */
  #finish(tag: number, result: number): number {
    const kind = this.#kind[tag];
    if (kind === FLUSH) {
      this.#flushes--;
      return this.#endFlush(tag, result);
    }
    if (kind !== READ) {
      this.#leave(tag);
      const entry = this.#entry[tag]!;
      if (result !== 0) this.#partition.failed(entry);
      else if (kind === WRITE) this.#partition.writeAnswered(entry);
      else this.#partition.discardAnswered(entry);
    }
    return result;
  }

  #endFlush(tag: number, result: number): number {
    const partition = this.#partition;
    if (result < 0) partition.fail(result);
    else partition.flushed(this.#mark[tag]!);
    return partition.failure;
  }

  #leave(tag: number): void {
    const live = this.#live;
    let at = 0;
    while (live[at] !== tag) at++;
    live[at] = live[--this.#liveCount]!;
  }

  #startFlush(tag: number): void {
    this.#mark[tag] = this.#partition.mark;
    this.#flushes++;
    this.#inner.flush(tag);
  }

  /** Not while a flush of the guest is under way: that one makes room, too. */
  #startOwnFlush(): void {
    if (this.#flushing || this.#flushes > 0 || this.#partition.isFlushed) return;
    this.#flushing = true;
    this.#mark[this.#ownTag] = this.#partition.mark;
    this.#inner.flush(this.#ownTag);
  }

  #endOwnFlush(result: number): void {
    this.#flushing = false;
    this.#endFlush(this.#ownTag, result);
    for (let tag = this.#heldFlushes.shift(); tag >= 0; tag = this.#heldFlushes.shift()) this.flush(tag);
  }

  #startHeld(): void {
    const held = this.#held;
    if (held.count === 0) return;
    this.#partition.reclaim();
    for (let tag = held.first; tag >= 0; tag = held.first) {
      if (this.#partition.failure !== 0) this.#refused.add(tag);
      else if (this.#overlaps(tag)) return;
      else if (!this.#start(tag)) return this.#startOwnFlush();
      held.shift();
    }
  }
}
