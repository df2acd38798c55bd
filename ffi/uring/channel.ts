/**
 * One guest ring's way to its file through the reactor's io_uring: operations become submissions, completions become
 * results, short transfers go on where they ended. Where the file is better served by synchronous calls, as its routes
 * say, it makes those, and falls back to the ring for a while when one took long. It must not know how the kernel is
 * entered.
 */

import { EIO, EOPNOTSUPP } from "../../lib/errno.ts";
import { type ChannelOptions, type IoVectors, type MemoryRule } from "../../lib/storage/disk.ts";
import { isTransient } from "../../lib/storage/errno.ts";
import { MOST_RETRIES, OPERATION } from "../../lib/storage/engine/executor.ts";
import { TableChannel } from "../../lib/storage/engine/table_channel.ts";
import type { TransferRoute, UringAttachment, UringRoutes } from "../../lib/storage/image/medium.ts";
import { IORING_OP, type IoUring } from "./ring.ts";
import { errno, libc } from "../linux/libc.ts";
import { BLKDISCARD, BLKSECDISCARD, PUNCH_HOLE } from "../linux/medium.ts";
import { allocate, type NativeMemory } from "../linux/memory.ts";
import { TagLine } from "./tag_line.ts";
import { FileSlot, ImageDescriptor } from "./file.ts";
import { BLOCK_URING_CMD_DISCARD } from "./probe.ts";

const FSYNC_DATASYNC = 1;
/** Words of a struct iovec: address and length, 64 bits each. */
const IOVEC_WORDS = 4;
const IOVEC_BYTES = 16;
/** UIO_MAXIOV: the kernel takes no more vectors a call. */
const MOST_VECTORS = 1024;
const TWO_32 = 2 ** 32;

/** A synchronous call that took longer waited for something; other disks must not wait with it again soon. */
const SLOW_CALL_MS = 0.5;
/** Operations that go to the ring after a slow call. */
const OPERATIONS_AFTER_SLOW_CALL = 512;

const ANYTHING_GOES: MemoryRule = { direct: true, asynchronous: true };

/** What a channel needs of the engine. */
export interface UringHost {
  readonly ring: IoUring;
  makeRoom(): void;
  countUnreaped(count: number): void;
}

/** See the file's first lines. */
export class UringChannel extends TableChannel {
  readonly #attachment: UringAttachment;
  readonly #host: UringHost;
  /** High word of this channel's user data; the tag is the low one. */
  readonly #number: number;
  readonly #vectors: IoVectors;
  readonly #owned: DisposableStack;
  readonly #reads: TransferRoute;
  readonly #writes: TransferRoute;
  /** A slow call makes the next operations go to the ring. */
  readonly #mayFallBack: boolean;
  readonly #fd: number;
  /** The registered file's index, or the descriptor, and the flag that tells which. */
  readonly #file: number;
  readonly #fileFlag: number;
  /** Entry i belongs to the operation that has entry i of the channel's vectors. */
  readonly #iovecs: Uint32Array;
  readonly #iovecsAddress: number;
  /** By tag: bytes to go, the first vector that is not done, how many there are, attempts that the kernel put off. */
  readonly #restBytes: Float64Array;
  readonly #first: Uint32Array;
  readonly #count: Uint32Array;
  readonly #retries: Uint16Array;
  /** Tags whose operations go on: short transfers and such as the kernel put off. */
  readonly #unfinished: Uint32Array;
  #unfinishedCount = 0;
  /**
   * Operations in whose end the kernel looks whether a write-back of this descriptor's file has failed. It tells that
   * once, to whoever looks first, whosever data it was: with two at a time, one could succeed by the other's failure,
   * and be answered before it. One after the other, the failure comes first.
   */
  readonly #checks: TagLine;
  #callsPaused = 0;
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
    this.#reads = routeOf("reads", attachment.routes, rule);
    this.#writes = routeOf("writes", attachment.routes, rule);
    this.#mayFallBack = rule.asynchronous;
    this.#fd = undo.use(new ImageDescriptor(attachment, rule.direct)).fd;
    const { index, flag } = undo.use(new FileSlot(host.ring, this.#fd));
    this.#file = index;
    this.#fileFlag = flag;
    const iovecs = undo.use(allocate(Math.max(1, options.vectors.lengths.length) * IOVEC_BYTES));
    this.#iovecs = new Uint32Array(iovecs.view.buffer);
    this.#iovecsAddress = iovecs.address;
    this.#restBytes = new Float64Array(options.depth);
    this.#first = new Uint32Array(options.depth);
    this.#count = new Uint32Array(options.depth);
    this.#retries = new Uint16Array(options.depth);
    this.#unfinished = new Uint32Array(options.depth);
    this.#checks = new TagLine(options.depth);
    this.#arguments = undo.use(allocate(16));
    this.#argumentWords = new Uint32Array(this.#arguments.view.buffer);
    this.#argumentValues = new BigInt64Array(this.#arguments.view.buffer, 0, 2);
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

  /** What it prepares reaches the kernel with the engine's next submit or park. */
  submit(): void {
    const { table } = this;
    for (let tag = table.next; tag !== -1; tag = table.next) {
      table.shift();
      this.#retries[tag] = 0;
      if (this.#isCheck(tag)) this.#checks.add(tag);
      else this.#start(tag);
    }
    this.#startCheck();
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

  /** For the engine: an operation of this channel came back from the kernel. */
  arrived(tag: number, result: number): void {
    if (this.#advance(tag, result)) this.#unfinished[this.#unfinishedCount++] = tag;
  }

  /** For the engine: prepares again what came back unfinished. */
  goOn(): void {
    while (this.#unfinishedCount > 0) {
      const tag = this.#unfinished[--this.#unfinishedCount]!;
      const operation = this.table.operation[tag]!;
      if (operation === OPERATION.flush) this.#prepareFlush(tag);
      else if (operation === OPERATION.discard) this.#startDiscard(tag);
      else this.#prepareTransfer(tag);
    }
    this.#startCheck();
  }

  #start(tag: number): void {
    const operation = this.table.operation[tag]!;
    if (operation === OPERATION.flush) this.#prepareFlush(tag);
    else if (operation === OPERATION.discard) this.#startDiscard(tag);
    else this.#startTransfer(tag);
  }

  /** A flush, or a write that is durable when it is done (O_DSYNC). */
  #isCheck(tag: number): boolean {
    const operation = this.table.operation[tag]!;
    return operation === OPERATION.flush ||
      (operation === OPERATION.write && this.#attachment.image.cache === "writethrough");
  }

  /** The next one, unless one is under way; those that are done by calls are over at once. */
  #startCheck(): void {
    for (let tag = this.#checks.next(); tag !== -1; tag = this.#checks.next()) this.#start(tag);
  }

  /** Takes a result in. True: the operation is to go on. */
  #advance(tag: number, result: number): boolean {
    const operation = this.table.operation[tag]!;
    if (result < 0) {
      if (isTransient(result) && this.#retries[tag]!++ < MOST_RETRIES) return true;
      this.#complete(tag, result);
      return false;
    }
    if (operation !== OPERATION.read && operation !== OPERATION.write) {
      this.#complete(tag, 0);
      return false;
    }
    const restBytes = this.#restBytes[tag]! - result;
    if (restBytes === 0 || result === 0) {
      // Nothing more to be had: the end of a truncated image, or a write that makes no progress. Never zeroes.
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
    this.table.complete(tag, result);
    this.#host.countUnreaped(1);
  }

  /** Answers what needs no carrying out. */
  #refuse(tag: number, result: number): void {
    this.table.addCompleted(tag, result);
    this.#host.countUnreaped(1);
  }

  #startTransfer(tag: number): void {
    this.#gather(tag);
    const route = this.table.operation[tag] === OPERATION.read ? this.#reads : this.#writes;
    if (route === "ring") this.#prepareTransfer(tag);
    else if (this.#callsPaused > 0) {
      this.#callsPaused--;
      this.#prepareTransfer(tag);
    } else this.#callTransfer(tag);
  }

  /** The operation's vectors as the kernel wants them; those that meet in memory become one. */
  #gather(tag: number): void {
    const { addresses, lengths } = this.#vectors;
    const first = this.table.first[tag]!;
    const end = first + this.table.count[tag]!;
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
    this.#first[tag] = first;
    this.#count[tag] = to - first;
  }

  /** Leaves the bytes that were transferred out of the vectors; some are left. */
  #skip(tag: number, doneBytes: number): void {
    const iovecs = this.#iovecs;
    let first = this.#first[tag]!;
    let left = doneBytes;
    while (left >= iovecs[first * IOVEC_WORDS + 2]!) left -= iovecs[first++ * IOVEC_WORDS + 2]!;
    const at = first * IOVEC_WORDS;
    const address = iovecs[at]! + iovecs[at + 1]! * TWO_32 + left;
    iovecs[at] = address;
    iovecs[at + 1] = address / TWO_32;
    iovecs[at + 2]! -= left;
    this.#count[tag]! -= first - this.#first[tag]!;
    this.#first[tag] = first;
  }

  #prepareTransfer(tag: number): void {
    const { ring } = this.#host;
    const first = this.#first[tag]!;
    const count = Math.min(this.#count[tag]!, MOST_VECTORS);
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

  /** Transfers at once, in this thread. */
  #callTransfer(tag: number): void {
    const begun = performance.now();
    while (this.#advance(tag, this.#callOnce(tag))) { /* short, or put off: again */ }
    if (this.#mayFallBack && performance.now() - begun > SLOW_CALL_MS) this.#callsPaused = OPERATIONS_AFTER_SLOW_CALL;
  }

  #callOnce(tag: number): number {
    const count = Math.min(this.#count[tag]!, MOST_VECTORS);
    // 64-bit values read from memory reach the call without becoming objects, once this code is compiled.
    this.#setArgument(0, this.#iovecsAddress + this.#first[tag]! * IOVEC_BYTES);
    this.#setArgument(1, this.table.offsetBytes[tag]!);
    const values = this.#argumentValues;
    const transferred = this.table.operation[tag] === OPERATION.read
      ? libc().preadv(this.#fd, values[0]!, count, values[1]!)
      : libc().pwritev(this.#fd, values[0]!, count, values[1]!);
    return transferred < 0 ? -errno() : transferred;
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
    const [offset, lengthBytes] = [table.offsetBytes[tag]!, table.lengthBytes[tag]!];
    const secure = table.secure[tag] === 1;
    if (this.#attachment.routes.discards === "call" || secure) return this.#callDiscard(tag, secure);
    this.#host.makeRoom();
    if (this.#attachment.routes.discards === "punch") {
      const opcode = IORING_OP.fallocate | this.#fileFlag;
      ring.prepare(opcode, this.#file, offset, lengthBytes, PUNCH_HOLE, 0, tag, this.#number);
      return;
    }
    const opcode = IORING_OP.uringCommand | this.#fileFlag;
    ring.prepare(opcode, this.#file, BLOCK_URING_CMD_DISCARD, offset, 0, 0, tag, this.#number);
    ring.setThirdAddress(lengthBytes);
  }

  /** Blocks this thread: the kernel offers no other way for a secure discard, nor before Linux 6.12 for any. */
  #callDiscard(tag: number, secure: boolean): void {
    this.#setArgument(0, this.table.offsetBytes[tag]!);
    this.#setArgument(1, this.table.lengthBytes[tag]!);
    const request = secure ? BLKSECDISCARD : BLKDISCARD;
    const failed = libc().ioctl(this.#fd, request, BigInt(this.#arguments.address)) < 0;
    this.#complete(tag, failed ? -errno() : 0);
  }
}

/** Where transfers go: memory that is unmapped after each operation must not be with the kernel any longer. */
function routeOf(kind: "reads" | "writes", routes: UringRoutes, rule: MemoryRule): TransferRoute {
  if (!rule.asynchronous) return "call";
  return routes.direct && rule.direct ? "ring" : routes[kind];
}
