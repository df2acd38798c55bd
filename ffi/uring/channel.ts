/**
 * A guest ring's channel to its file through the reactor's io_uring: operations become submissions, completions become
 * results, and short transfers continue where they ended. If the routes say that synchronous calls serve the file better,
 * it makes such calls. After a slow call it uses the ring for a while. One or two reads of what is in the page cache are
 * calls, too.
 */

import { EAGAIN, EIO, EOPNOTSUPP } from "../../lib/errno.ts";
import { type ChannelOptions, type IoVectors, type MemoryRule } from "../../lib/storage/disk.ts";
import { isTransient } from "../../lib/storage/errno.ts";
import { MOST_RETRIES, OPERATION } from "../../lib/storage/engine/executor.ts";
import { TableChannel } from "../../lib/storage/engine/operations.ts";
import { type TransferRoute, transferRoute, type UringAttachment } from "../../lib/storage/image/medium.ts";
import { IORING_OP, type IoUring } from "./ring.ts";
import { errno, libc } from "../linux/libc.ts";
import { BLKDISCARD, BLKSECDISCARD, PUNCH_HOLE } from "./medium.ts";
import { allocate, type NativeMemory } from "../linux/memory.ts";
import { FileSlot, ImageDescriptor } from "./file.ts";
import { BLOCK_URING_CMD_DISCARD } from "./probe.ts";

const FSYNC_DATASYNC = 1;
/** Words of a struct iovec: address and length, 64 bits each. */
const IOVEC_WORDS = 4;
const IOVEC_BYTES = 16;
/** UIO_MAXIOV: the most vectors per call. */
const MOST_VECTORS = 1024;
const TWO_32 = 2 ** 32;

/** A synchronous call that took longer has waited for the device, and every disk of this reactor with it. */
const SLOW_CALL_MS = 0.5;
/** How many operations go to the ring after a slow call. */
const OPERATIONS_AFTER_SLOW_CALL = 512;
/** How many reads do after one of what is not in the page cache. Writes go where they went. */
const READS_AFTER_MISS = 32;
/** A file system that does not know such reads is not asked again, for practical purposes. */
const NO_MORE_LOOKS = 2 ** 30 - 1;

/**
 * Reads that are submitted together go to the ring if they are more: one call for all then costs less than one for each.
 */
const MOST_READ_AT_ONCE = 2;

/** uio.h: a read that would wait fails with EAGAIN, at the first page that is not in the page cache. */
const RWF_NOWAIT = 8;

/**
 * Discards go in pieces: a piece holds the file's lock, and writes behind it wait. A piece that is done fast is followed
 * by one of twice the size, a slow one by one of half the size.
 */
const FIRST_PIECE_BYTES = 16 * 2 ** 20;
const LEAST_PIECE_BYTES = 2 ** 20;
const MOST_PIECE_BYTES = 2 ** 30;
const FAST_PIECE_MS = 1;
const SLOW_PIECE_MS = 4;

/** Most arguments of 64 bits of a call. */
const CALL_ARGUMENTS = 3;
/** Indices of times: when a call began, and when it ended. */
const CALL_BEGUN = 0;
const CALL_ENDED = 1;

const ANYTHING_GOES: MemoryRule = { direct: true, asynchronous: true };

/** What a channel needs of the engine. */
export interface UringHost {
  readonly ring: IoUring;
  makeRoom(): void;
  countUnreaped(count: number): void;
  /** Stores the monotonic time in milliseconds: see monotonic.ts. */
  readClock(into: Float64Array, index: number): void;
}

/** A channel of a {@linkcode UringHost}. */
export class UringChannel extends TableChannel {
  readonly #attachment: UringAttachment;
  readonly #host: UringHost;
  /** High word of this channel's user data; the tag is the low one. */
  readonly #number: number;
  readonly #vectors: IoVectors;
  readonly #owned: DisposableStack;
  readonly #reads: TransferRoute;
  readonly #writes: TransferRoute;
  /** After a slow call the next operations may go to the ring. */
  readonly #mayFallBack: boolean;
  readonly #fd: number;
  /** The index of the registered file, and FIXED_FILE; or the descriptor, and 0. */
  readonly #file: number;
  readonly #fileFlag: number;
  /** struct iovec. Entry i belongs to the operation that owns entry i of the channel's vectors. */
  readonly #iovecs: Uint32Array;
  readonly #iovecsAddress: number;
  /** By tag: bytes that are not transferred yet; and how often the kernel asked to try again. */
  readonly #restBytes: Float64Array;
  readonly #retries: Uint16Array;
  /** Tags whose operations must be submitted again: short transfers, and those that the kernel asked to retry. */
  readonly #unfinished: Uint32Array;
  #unfinishedCount = 0;
  /**
   * Operations at whose end the kernel checks whether a write-back of this descriptor's file has failed. It reports
   * such a failure once, to the first of them that ends. With two under way, one of them could report success before
   * the failure of the other is seen; so they run one after the other.
   */
  readonly #checks: CheckLine;
  /** Discards, one of which is under way; the size of its pieces, and when the last piece was submitted. */
  readonly #discards: CheckLine;
  #pieceBytes = FIRST_PIECE_BYTES;
  #pieceBegunMs = 0;
  #callsPaused = 0;
  /** Reads that go to the ring without a look at the page cache. */
  #looksPaused = 0;
  /** No more operations are submitted together than {@linkcode MOST_READ_AT_ONCE}. */
  #isSingle = false;
  /** When a call begins, which is when the last one ended, and when it ends: one look at the clock per call. */
  readonly #clockMs = new Float64Array(2);
  /** Arguments of calls, as 64-bit values and as words. */
  readonly #arguments: NativeMemory;
  readonly #argumentWords: Uint32Array;
  readonly #argumentValues: BigInt64Array;

  constructor(
    attachment: UringAttachment,
    options: ChannelOptions,
    host: UringHost,
    number: number,
    closed: () => void,
  ) {
    super(options.depth);
    using undo = new DisposableStack();
    this.#attachment = attachment;
    this.#host = host;
    this.#number = number;
    this.#vectors = options.vectors;
    const rule = options.rule ?? ANYTHING_GOES;
    this.#reads = transferRoute("reads", attachment.routes, rule);
    this.#writes = transferRoute("writes", attachment.routes, rule);
    this.#mayFallBack = rule.asynchronous;
    this.#fd = undo.use(new ImageDescriptor(attachment, rule.direct)).fd;
    const { index, flag } = undo.use(new FileSlot(host.ring, this.#fd));
    this.#file = index;
    this.#fileFlag = flag;
    const iovecs = undo.use(allocate(Math.max(1, options.vectors.lengths.length) * IOVEC_BYTES));
    this.#iovecs = new Uint32Array(iovecs.view.buffer);
    this.#iovecsAddress = iovecs.address;
    this.#restBytes = new Float64Array(options.depth);
    this.#retries = new Uint16Array(options.depth);
    this.#unfinished = new Uint32Array(options.depth);
    this.#checks = new CheckLine(options.depth);
    this.#discards = new CheckLine(options.depth);
    this.#arguments = undo.use(allocate(8 * CALL_ARGUMENTS));
    this.#argumentWords = new Uint32Array(this.#arguments.view.buffer);
    this.#argumentValues = new BigInt64Array(this.#arguments.view.buffer, 0, CALL_ARGUMENTS);
    undo.defer(closed);
    this.#owned = undo.move();
  }

  override flush(tag: number): void {
    if (this.#attachment.image.cache === "unsafe") this.#refuse(tag, 0);
    else super.flush(tag);
  }

  override discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    const route = this.#attachment.routes.discards;
    if (route === undefined || (secure && route === "punch")) this.#refuse(tag, -EOPNOTSUPP);
    else super.discard(tag, offsetBytes, lengthBytes, secure);
  }

  /** What this prepares reaches the kernel with the engine's next submit or park. */
  submit(): void {
    const { table } = this;
    this.#isSingle = table.waitingCount <= MOST_READ_AT_ONCE;
    for (let tag = table.next; tag !== -1; tag = table.next) {
      table.shift();
      this.#retries[tag] = 0;
      if (this.#isCheck(tag)) this.#checks.add(tag);
      else if (this.table.operation[tag] === OPERATION.discard) this.#discards.add(tag);
      else this.#start(tag);
    }
    this.#startNext();
  }

  override reap(): number {
    const count = super.reap();
    if (count > 0) this.#host.countUnreaped(-count);
    return count;
  }

  /** Throws if operations are in flight. */
  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    this.#owned.dispose();
  }

  /** For the engine: the kernel has completed a submission of this channel. True: {@linkcode goOn} has to be called. */
  arrived(tag: number, result: number): boolean {
    if (this.#advance(tag, result)) {
      this.#unfinished[this.#unfinishedCount++] = tag;
      return true;
    }
    return this.#checks.mayGoOn || this.#discards.mayGoOn;
  }

  /** For the engine: prepares operations again that came back unfinished, and those that waited for others to end. */
  goOn(): void {
    while (this.#unfinishedCount > 0) {
      const tag = this.#unfinished[--this.#unfinishedCount]!;
      const operation = this.table.operation[tag]!;
      if (operation === OPERATION.flush) this.#prepareFlush(tag);
      else if (operation === OPERATION.discard) this.#startDiscard(tag);
      else this.#prepareTransfer(tag);
    }
    this.#startNext();
  }

  #start(tag: number): void {
    const operation = this.table.operation[tag]!;
    if (operation === OPERATION.flush) this.#prepareFlush(tag);
    else if (operation === OPERATION.discard) this.#startDiscard(tag);
    else this.#startTransfer(tag);
  }

  /** Whether the operation is a flush, or a write that is durable when it completes (O_DSYNC). */
  #isCheck(tag: number): boolean {
    const operation = this.table.operation[tag]!;
    return operation === OPERATION.flush ||
      (operation === OPERATION.write && this.#attachment.image.cache === "writethrough");
  }

  /** Starts the next check, and the next discard, unless one is under way. A synchronous call is over at once. */
  #startNext(): void {
    for (let tag = this.#discards.next(); tag !== -1; tag = this.#discards.next()) this.#start(tag);
    for (let tag = this.#checks.next(); tag !== -1; tag = this.#checks.next()) this.#start(tag);
    this.#clockMs[CALL_BEGUN] = 0; // time passes until the next call
  }

  /** Handles a result. True: the operation must be submitted again. */
  #advance(tag: number, result: number): boolean {
    const operation = this.table.operation[tag]!;
    if (result < 0) {
      if (isTransient(result) && this.#retries[tag]!++ < MOST_RETRIES) return true;
      this.#complete(tag, result);
      return false;
    }
    if (operation === OPERATION.discard && this.#nextPiece(tag)) return true;
    if (operation !== OPERATION.read && operation !== OPERATION.write) {
      this.#complete(tag, 0);
      return false;
    }
    const restBytes = this.#restBytes[tag]! - result;
    if (restBytes === 0 || result === 0) {
      // 0 bytes: the end of a truncated image, or a write without progress. An error, never zeroes.
      this.#complete(tag, restBytes === 0 ? 0 : -EIO);
      return false;
    }
    this.#restBytes[tag] = restBytes;
    this.table.offsetBytes[tag]! += result;
    this.#skip(tag, result);
    return true;
  }

  #complete(tag: number, result: number): void {
    if (this.#isCheck(tag)) this.#checks.over();
    else if (this.table.operation[tag] === OPERATION.discard) this.#discards.over();
    this.table.complete(tag, result);
    this.#host.countUnreaped(1);
  }

  /** Completes an operation without the kernel. */
  #refuse(tag: number, result: number): void {
    this.table.addCompleted(tag, result);
    this.#host.countUnreaped(1);
  }

  #startTransfer(tag: number): void {
    this.#gather(tag);
    const reading = this.table.operation[tag] === OPERATION.read;
    const route = reading ? this.#reads : this.#writes;
    // A call would wait, with every disk of this reactor, for the lock that a discard of the file holds.
    const locked = !reading && this.#mayFallBack && this.#discards.underWay;
    if (route === "ring" || locked || (route === "cached" && !this.#isSingle)) this.#prepareTransfer(tag);
    else if (route === "cached") this.#readCached(tag);
    else if (this.#callsPaused > 0) {
      this.#callsPaused--;
      this.#prepareTransfer(tag);
    } else this.#callTransfer(tag);
  }

  /** Writes the operation's vectors as iovecs, and joins those that are adjacent in memory. */
  #gather(tag: number): void {
    const { table } = this;
    const { addresses, lengths } = this.#vectors;
    const first = table.first[tag]!;
    const end = first + table.count[tag]!;
    const iovecs = this.#iovecs;
    let restBytes = 0;
    let to = first;
    for (let from = first; from < end; to++) {
      const address = addresses[from]!;
      let lengthBytes = lengths[from++]!;
      while (from < end && addresses[from] === address + lengthBytes) lengthBytes += lengths[from++]!;
      const at = to * IOVEC_WORDS;
      iovecs[at] = address; // modulo 2^32
      iovecs[at + 1] = address / TWO_32;
      iovecs[at + 2] = lengthBytes;
      iovecs[at + 3] = 0;
      restBytes += lengthBytes;
    }
    this.#restBytes[tag] = restBytes;
    table.count[tag] = to - first;
  }

  /** Removes the bytes that were transferred from the iovecs; some are left. */
  #skip(tag: number, doneBytes: number): void {
    const { table } = this;
    const iovecs = this.#iovecs;
    let first = table.first[tag]!;
    let left = doneBytes;
    while (left >= iovecs[first * IOVEC_WORDS + 2]!) left -= iovecs[first++ * IOVEC_WORDS + 2]!;
    const at = first * IOVEC_WORDS;
    const address = iovecs[at]! + iovecs[at + 1]! * TWO_32 + left;
    iovecs[at] = address;
    iovecs[at + 1] = address / TWO_32;
    iovecs[at + 2]! -= left;
    table.count[tag]! -= first - table.first[tag]!;
    table.first[tag] = first;
  }

  #prepareTransfer(tag: number): void {
    const { ring } = this.#host;
    const first = this.table.first[tag]!;
    const count = Math.min(this.table.count[tag]!, MOST_VECTORS);
    const reading = this.table.operation[tag] === OPERATION.read;
    const offset = this.table.offsetBytes[tag]!;
    this.#host.makeRoom();
    if (count === 1) {
      const at = first * IOVEC_WORDS;
      const address = this.#iovecs[at]! + this.#iovecs[at + 1]! * TWO_32;
      const opcode = (reading ? IORING_OP.read : IORING_OP.write) | this.#fileFlag;
      ring.prepare(opcode, this.#file, offset, address, this.#iovecs[at + 2]!, 0, tag, this.#number);
    } else {
      const address = this.#iovecsAddress + first * IOVEC_BYTES;
      const opcode = (reading ? IORING_OP.readv : IORING_OP.writev) | this.#fileFlag;
      ring.prepare(opcode, this.#file, offset, address, count, 0, tag, this.#number);
    }
  }

  /** Transfers synchronously, in this thread. */
  #callTransfer(tag: number): void {
    const clockMs = this.#clockMs;
    if (this.#mayFallBack && clockMs[CALL_BEGUN] === 0) this.#host.readClock(clockMs, CALL_BEGUN);
    while (this.#advance(tag, this.#callOnce(tag))) { /* short, or to be retried */ }
    if (!this.#mayFallBack) return;
    this.#host.readClock(clockMs, CALL_ENDED);
    if (clockMs[CALL_ENDED]! - clockMs[CALL_BEGUN]! > SLOW_CALL_MS) this.#callsPaused = OPERATIONS_AFTER_SLOW_CALL;
    clockMs[CALL_BEGUN] = clockMs[CALL_ENDED]!; // of the next one
  }

  /** Reads synchronously what is in the page cache, and the rest by the ring. */
  #readCached(tag: number): void {
    if (this.#looksPaused > 0) {
      this.#looksPaused--;
      return this.#prepareTransfer(tag);
    }
    for (;;) {
      const result = this.#callOnce(tag, RWF_NOWAIT);
      if (result === -EAGAIN || result === -EOPNOTSUPP) {
        this.#looksPaused = result === -EAGAIN ? READS_AFTER_MISS : NO_MORE_LOOKS;
        return this.#prepareTransfer(tag);
      }
      if (!this.#advance(tag, result)) return;
    }
  }

  /** `flags`: RWF_*, of reads. */
  #callOnce(tag: number, flags = 0): number {
    const reading = this.table.operation[tag] === OPERATION.read;
    const transferred = this.table.count[tag] === 1 && flags === 0
      ? this.#callPlain(tag, reading)
      : this.#callVectors(tag, reading, flags);
    return transferred < 0 ? -errno() : transferred;
  }

  /** The kernel has less to do for a single range. */
  #callPlain(tag: number, reading: boolean): number {
    const words = this.#argumentWords;
    const iovecs = this.#iovecs;
    const at = this.table.first[tag]! * IOVEC_WORDS;
    for (let word = 0; word < IOVEC_WORDS; word++) words[word] = iovecs[at + word]!;
    this.#setArgument(2, this.table.offsetBytes[tag]!);
    // Compiled code passes 64-bit values that it reads from memory without making objects of them.
    const values = this.#argumentValues;
    return reading
      ? libc().pread64(this.#fd, values[0]!, values[1]!, values[2]!)
      : libc().pwrite64(this.#fd, values[0]!, values[1]!, values[2]!);
  }

  #callVectors(tag: number, reading: boolean, flags: number): number {
    const count = Math.min(this.table.count[tag]!, MOST_VECTORS);
    this.#setArgument(0, this.#iovecsAddress + this.table.first[tag]! * IOVEC_BYTES);
    this.#setArgument(1, this.table.offsetBytes[tag]!);
    const values = this.#argumentValues;
    return reading
      ? libc().preadv2(this.#fd, values[0]!, count, values[1]!, flags)
      : libc().pwritev(this.#fd, values[0]!, count, values[1]!);
  }

  #setArgument(index: number, value: number): void {
    this.#argumentWords[2 * index] = value;
    this.#argumentWords[2 * index + 1] = value / TWO_32;
  }

  #prepareFlush(tag: number): void {
    this.#host.makeRoom();
    const opcode = IORING_OP.fsync | this.#fileFlag;
    this.#host.ring.prepare(opcode, this.#file, 0, 0, 0, FSYNC_DATASYNC, tag, this.#number);
  }

  #startDiscard(tag: number): void {
    const { ring } = this.#host;
    const { table } = this;
    const offset = table.offsetBytes[tag]!;
    const lengthBytes = Math.min(table.lengthBytes[tag]!, this.#pieceBytes);
    const secure = table.secure[tag] === 1;
    if (this.#attachment.routes.discards === "call" || secure) return this.#callDiscard(tag, secure);
    this.#host.makeRoom();
    this.#pieceBegunMs = performance.now();
    if (this.#attachment.routes.discards === "punch") {
      const opcode = IORING_OP.fallocate | this.#fileFlag;
      ring.prepare(opcode, this.#file, offset, lengthBytes, PUNCH_HOLE, 0, tag, this.#number);
      return;
    }
    const opcode = IORING_OP.uringCommand | this.#fileFlag;
    ring.prepare(opcode, this.#file, BLOCK_URING_CMD_DISCARD, offset, 0, 0, tag, this.#number);
    ring.setThirdAddress(lengthBytes);
  }

  /** A piece of the discard is done. True: there is another one. */
  #nextPiece(tag: number): boolean {
    const { table } = this;
    const doneBytes = Math.min(table.lengthBytes[tag]!, this.#pieceBytes);
    const tookMs = performance.now() - this.#pieceBegunMs;
    if (tookMs < FAST_PIECE_MS) this.#pieceBytes = Math.min(2 * this.#pieceBytes, MOST_PIECE_BYTES);
    else if (tookMs > SLOW_PIECE_MS) this.#pieceBytes = Math.max(this.#pieceBytes / 2, LEAST_PIECE_BYTES);
    table.offsetBytes[tag]! += doneBytes;
    table.lengthBytes[tag]! -= doneBytes;
    this.#retries[tag] = 0;
    return table.lengthBytes[tag]! > 0;
  }

  /** Blocks this thread: Linux has no other way for secure discards, and before 6.12 none for any discard. */
  #callDiscard(tag: number, secure: boolean): void {
    this.#setArgument(0, this.table.offsetBytes[tag]!);
    this.#setArgument(1, this.table.lengthBytes[tag]!);
    const request = secure ? BLKSECDISCARD : BLKDISCARD;
    const failed = libc().ioctl(this.#fd, request, BigInt(this.#arguments.address)) < 0;
    this.#complete(tag, failed ? -errno() : 0);
  }
}

/** Operations that must not overlap: one is under way at a time, the others wait in line. */
class CheckLine {
  readonly #tags: Uint32Array;
  #head = 0;
  #count = 0;
  underWay = false;

  /** For tags below `depth`, each in the line at most once. */
  constructor(depth: number) {
    this.#tags = new Uint32Array(depth);
  }

  /** Appends an operation. */
  add(tag: number): void {
    this.#tags[(this.#head + this.#count++) % this.#tags.length] = tag;
  }

  /** The next operation, which is under way from now on; -1 if none waits, or one is under way. */
  next(): number {
    if (this.underWay || this.#count === 0) return -1;
    const tag = this.#tags[this.#head]!;
    this.#head = (this.#head + 1) % this.#tags.length;
    this.#count--;
    this.underWay = true;
    return tag;
  }

  /** One waits, and none is under way. */
  get mayGoOn(): boolean {
    return this.#count > 0 && !this.underWay;
  }

  /** The operation that was under way has ended. */
  over(): void {
    this.underWay = false;
  }
}
