/**
 * A guest ring's channel to a disk that a storage daemon exports by vhost-user-blk: operations become chains of a
 * virtqueue in shared memory. As a disk's module it also opens the memory for the channel's buffers, which must lie there.
 *
 * If the connection is lost, operations wait. Once the control plane has connected again, the channel goes on in the
 * other area for rings, and carries out again what was in flight, in the order in which it was started.
 */

import { EBADF, EFAULT, EINVAL, EIO, EOPNOTSUPP } from "../../lib/errno.ts";
import type { Parker, Wakeable } from "../../lib/hypervisor.ts";
import type { BufferSpace, ChannelContext, ChannelOptions, IoChannel, IoVectors } from "../../lib/storage/disk.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { TableChannel } from "../../lib/storage/engine/operations.ts";
import { SECTOR_BYTES } from "../../lib/units.ts";
import { lowerEventfd, raiseEventfd } from "../linux/eventfd.ts";
import { NativeMemory, viewOf } from "../linux/memory.ts";
import { shutDown } from "../linux/unix_socket.ts";
import type { RequestLimits, VhostAttachment } from "./attachment.ts";
import { DeviceControl, epochOf, PHASE, phaseOf } from "./control.ts";
import {
  BUFFERS_AT,
  HEADER_BYTES,
  PARTITION_BYTES,
  QUEUE_SIZE,
  RANGE_AT,
  RANGE_BYTES,
  REQUEST_BYTES,
  REQUESTS_AT,
  RING_AREAS,
  RING_BYTES,
  STATUS_AT,
} from "./layout.ts";
import { BREACH, IMPOSSIBLE, Virtqueue, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE } from "./virtqueue.ts";

/** virtio_blk.h: VIRTIO_BLK_T_IN, _OUT, _FLUSH, _DISCARD, by operation; and statuses. */
const TYPES: readonly number[] = [0, 1, 4, 11];
const VIRTIO_BLK_S_OK = 0;
const VIRTIO_BLK_S_UNSUPP = 2;
/** In place of a status: the daemon has written none. */
const NO_STATUS = 0xFF;

const TWO_32 = 2 ** 32;

/** What a tag's operation does. */
const IDLE = 0;
const WAITING = 1;
/** A part of it is in the virtqueue. */
const STARTED = 2;
/** Some of it is done, or was lost with a connection; the rest is to be started. */
const UNFINISHED = 3;

/** See DiskModule. Throws XenblkError if the attachment's virtqueue has been given to another channel. */
export function openChannel(
  attachment: VhostAttachment,
  options: ChannelOptions,
  { parker }: Pick<ChannelContext, "parker">,
): IoChannel {
  return new VhostChannel(attachment, options, parker);
}

/** See DiskModule. Throws like {@linkcode openChannel}. */
export function openMemory({ control, queue, lease, name, address }: VhostAttachment): BufferSpace {
  const use = new DeviceControl(control).join(queue, lease, name);
  const buffersBytes = PARTITION_BYTES - BUFFERS_AT;
  let isTaken = false;
  return {
    allocate: (lengthBytes) => {
      if (isTaken || lengthBytes > buffersBytes) {
        throw new RangeError(
          `Cannot allocate ${lengthBytes} bytes of buffers for ${name}: there are ${buffersBytes}, once`,
        );
      }
      isTaken = true;
      return new NativeMemory(address + queue * PARTITION_BYTES + BUFFERS_AT, lengthBytes, () => {});
    },
    view: viewOf,
    [Symbol.dispose]: () => use[Symbol.dispose](),
  };
}

/** An operation that fails so often, each in another connection, is given up. A slow one can meet two losses in a row. */
const MOST_FAILURES = 3;

/** What a channel has done about the loss of its connection. */
const PAUSE = {
  none: 0,
  /** It takes no more completions. */
  begun: 1,
  /** Its owner was given those that it took before. */
  told: 2,
  /** The control plane knows. */
  over: 3,
} as const;

/** A channel that uses one virtqueue. */
class VhostChannel extends TableChannel {
  readonly #attachment: VhostAttachment;
  readonly #limits: RequestLimits;
  readonly #control: DeviceControl;
  readonly #vectors: IoVectors;
  readonly #owned: DisposableStack;
  /** Where the partition begins: in this process, and in the shared memory. */
  readonly #address: number;
  readonly #offset: number;
  /** Headers, ranges and status bytes, by the first descriptor of their chain. */
  readonly #requestWords: Uint32Array;
  readonly #requestBytes: Uint8Array;
  #epoch: number;
  #queue: Virtqueue;
  /** The daemon has broken the rules of this virtqueue: it is not looked at again. */
  #isBroken = false;
  /** The daemon has been asked to notify us of the next completion; an operation came that the next submit starts. */
  #isArmed = false;
  #isOpen = false;
  /** What has been done about the loss of the connection. */
  #pause: number = PAUSE.none;
  /** By first descriptor: the tag. */
  readonly #tagOf = new Uint32Array(QUEUE_SIZE);
  /** By tag: the operation as it was given. Another daemon has to carry it out from its beginning. */
  readonly #givenOffset: Float64Array;
  readonly #givenFirst: Uint32Array;
  readonly #givenCount: Uint32Array;
  readonly #givenLength: Float64Array;
  /** By tag: its state, bytes of its first vector that are done, bytes in the virtqueue, and when it was started. */
  readonly #state: Uint8Array;
  readonly #skipBytes: Float64Array;
  readonly #pieceBytes: Float64Array;
  readonly #order: Float64Array;
  /** By tag: how often it has failed, where errors lose the connection. */
  readonly #failures: Uint8Array;
  #started = 0;
  /** Tags with a rest that is to be started, the first one first; a ring of `depth` places. */
  readonly #unfinished: Uint32Array;
  #unfinishedHead = 0;
  #unfinishedCount = 0;
  /** Segments of the piece that was measured last. */
  #segments = 0;

  constructor(attachment: VhostAttachment, { depth, vectors }: ChannelOptions, parker: Parker) {
    super(depth);
    using undo = new DisposableStack();
    const { control, queue, lease, name, address, callFd, limits } = attachment;
    this.#attachment = attachment;
    this.#limits = limits;
    this.#vectors = vectors;
    this.#control = new DeviceControl(control);
    undo.use(this.#control.join(queue, lease, name));
    this.#offset = queue * PARTITION_BYTES;
    this.#address = address + this.#offset;
    this.#requestBytes = viewOf(this.#address + REQUESTS_AT, QUEUE_SIZE * REQUEST_BYTES);
    this.#requestWords = new Uint32Array(this.#requestBytes.buffer);
    this.#givenOffset = new Float64Array(depth);
    this.#givenFirst = new Uint32Array(depth);
    this.#givenCount = new Uint32Array(depth);
    this.#givenLength = new Float64Array(depth);
    this.#state = new Uint8Array(depth);
    this.#skipBytes = new Float64Array(depth);
    this.#pieceBytes = new Float64Array(depth);
    this.#order = new Float64Array(depth);
    this.#failures = new Uint8Array(depth);
    this.#unfinished = new Uint32Array(depth);
    this.#epoch = this.#control.epoch;
    this.#queue = this.#openQueue();
    this.#control.follow(queue, this.#epoch);
    const source: Wakeable = { fd: callFd, fired: () => this.#woken() };
    parker.watch(source);
    undo.defer(() => parker.unwatch(source));
    this.#owned = undo.move();
  }

  /** The daemon is asked for a notification once a look has found nothing: after any other look, another one is due. */
  get dueMs(): number {
    return this.#isArmed || this.inFlight === 0 ? Infinity : 0;
  }

  get isResting(): boolean {
    return this.inFlight === 0;
  }

  override read(tag: number, offsetBytes: number, first: number, count: number): void {
    super.read(tag, offsetBytes, first, count);
    this.#accept(tag);
  }

  override write(tag: number, offsetBytes: number, first: number, count: number): void {
    if (this.#limits.readOnly) return this.table.addCompleted(tag, -EBADF);
    super.write(tag, offsetBytes, first, count);
    this.#accept(tag);
  }

  override flush(tag: number): void {
    if (!this.#limits.flushes) return this.table.addCompleted(tag, 0);
    super.flush(tag);
    this.#accept(tag);
  }

  override discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    if (secure || this.#limits.mostDiscardBytes === 0) return this.table.addCompleted(tag, -EOPNOTSUPP);
    super.discard(tag, offsetBytes, lengthBytes, secure);
    this.#accept(tag);
  }

  submit(): void {
    this.#isOpen = false;
    if (this.#mayServe()) this.#startAll();
  }

  override reap(): number {
    // What the last look took has been dealt with.
    if (this.#pause === PAUSE.told || this.inFlight === 0) this.#endPause();
    if (this.inFlight === 0) return 0;
    for (;;) {
      this.#takeAll();
      if (this.#mayServe() && !this.#isOpen) this.#startAll();
      const count = super.reap();
      if (this.#pause === PAUSE.begun) this.#pause = PAUSE.told;
      this.#isArmed = count === 0 && this.#pause !== PAUSE.told;
      if (count > 0 || this.#isBroken || this.#pause !== PAUSE.none || !this.#queue.arm()) return count;
    }
  }

  /** Throws if operations are in flight. */
  override [Symbol.dispose](): void {
    super[Symbol.dispose]();
    this.#owned.dispose();
  }

  #openQueue(): Virtqueue {
    return new Virtqueue(this.#address + (this.#epoch % RING_AREAS) * RING_BYTES);
  }

  #accept(tag: number): void {
    const { table } = this;
    this.#givenOffset[tag] = table.offsetBytes[tag]!;
    this.#givenFirst[tag] = table.first[tag]!;
    this.#givenCount[tag] = table.count[tag]!;
    this.#givenLength[tag] = table.lengthBytes[tag]!;
    this.#state[tag] = WAITING;
    this.#failures[tag] = 0;
    this.#skipBytes[tag] = 0;
    this.#isOpen = true;
  }

  /** The daemon has completed something, or the control plane has changed the phase. */
  #woken(): void {
    lowerEventfd(this.#attachment.callFd);
    this.#isArmed = false;
    this.#mayServe();
    if (this.inFlight === 0) this.#endPause();
  }

  /** The connection is lost: what it has completed so far counts, and nothing that it completes later. */
  #beginPause(): void {
    if (this.#pause !== PAUSE.none) return;
    this.#takeAll();
    this.#pause = PAUSE.begun;
  }

  #endPause(): void {
    if (this.#pause === PAUSE.none || this.#pause === PAUSE.over) return;
    this.#pause = PAUSE.over;
    this.#control.pause(this.#attachment.queue, this.#epoch);
  }

  /** Does what the control plane asks for. True: operations may be started. */
  #mayServe(): boolean {
    const { state } = this.#control;
    // Also if that connection is lost already: the channel has to let go of it like of any other.
    if (epochOf(state) !== this.#epoch) this.#changeArea(epochOf(state));
    if (phaseOf(state) === PHASE.failed) this.#failAll();
    if (phaseOf(state) === PHASE.lost) this.#beginPause();
    return phaseOf(state) === PHASE.serving && !this.#isBroken;
  }

  /** Starts the rests first, then what waits, as far as there are descriptors; notifies the daemon at most once. */
  #startAll(): void {
    while (this.#unfinishedCount > 0 && this.#start(this.#unfinished[this.#unfinishedHead]!)) {
      this.#unfinishedHead = (this.#unfinishedHead + 1) % this.#unfinished.length;
      this.#unfinishedCount--;
    }
    if (this.#unfinishedCount === 0) {
      for (let tag = this.table.next; tag !== -1 && this.#start(tag); tag = this.table.next) this.table.shift();
    }
    if (this.#queue.publish()) raiseEventfd(this.#attachment.kickFd);
  }

  /** Puts the next piece of an operation into the virtqueue. False: there are not enough descriptors now. */
  #start(tag: number): boolean {
    const operation = this.table.operation[tag]!;
    let bytes = 0;
    this.#segments = 0;
    if (operation === OPERATION.discard) {
      bytes = Math.min(this.table.lengthBytes[tag]!, this.#limits.mostDiscardBytes);
      this.#segments = 1;
    } else if (operation !== OPERATION.flush) {
      bytes = this.#measure(tag);
      if (bytes <= 0) {
        this.#complete(tag, bytes === 0 ? -EINVAL : bytes);
        return true;
      }
    }
    if (this.#queue.freeCount < this.#segments + 2) return false;
    const head = this.#queue.begin();
    this.#addHeader(head, operation, tag);
    if (operation === OPERATION.discard) this.#addRange(head, tag, bytes);
    else if (operation !== OPERATION.flush) this.#addData(tag, bytes);
    this.#requestBytes[head * REQUEST_BYTES + STATUS_AT] = NO_STATUS;
    this.#queue.add(this.#requestOffset(head) + STATUS_AT, 1, VRING_DESC_F_WRITE);
    this.#queue.end(head);
    this.#tagOf[head] = tag;
    this.#state[tag] = STARTED;
    this.#pieceBytes[tag] = bytes;
    this.#order[tag] = this.#started++;
    return true;
  }

  /**
   * Bytes that the next piece of a transfer can have, and in {@linkcode #segments} its segments. 0: it cannot be cut at a
   * multiple of the block size; -EFAULT: its memory is not in the partition.
   */
  #measure(tag: number): number {
    const { addresses, lengths } = this.#vectors;
    const { mostSegments, mostSegmentBytes, blockBytes } = this.#limits;
    let vector = this.table.first[tag]!;
    const end = vector + this.table.count[tag]!;
    let skipBytes = this.#skipBytes[tag]!;
    let bytes = 0;
    let segments = 0;
    for (; vector < end && segments < mostSegments; segments++) {
      const leftBytes = lengths[vector]! - skipBytes;
      const lengthBytes = Math.min(leftBytes, mostSegmentBytes);
      const offset = addresses[vector]! + skipBytes - this.#address;
      if (!(offset >= BUFFERS_AT && offset + lengthBytes <= PARTITION_BYTES)) return -EFAULT;
      bytes += lengthBytes;
      skipBytes += lengthBytes;
      if (lengthBytes < leftBytes) continue;
      vector++;
      skipBytes = 0;
    }
    this.#segments = segments;
    return vector === end ? bytes : bytes - bytes % blockBytes;
  }

  #addHeader(head: number, operation: number, tag: number): void {
    const at = head * REQUEST_BYTES / Uint32Array.BYTES_PER_ELEMENT;
    const words = this.#requestWords;
    // A discard has its place in its range.
    const sector = operation === OPERATION.discard ? 0 : this.table.offsetBytes[tag]! / SECTOR_BYTES;
    words[at] = TYPES[operation]!;
    words[at + 1] = 0;
    words[at + 2] = sector; // modulo 2^32
    words[at + 3] = sector / TWO_32;
    this.#queue.add(this.#requestOffset(head), HEADER_BYTES, VRING_DESC_F_NEXT);
  }

  #addRange(head: number, tag: number, bytes: number): void {
    const at = (head * REQUEST_BYTES + RANGE_AT) / Uint32Array.BYTES_PER_ELEMENT;
    const words = this.#requestWords;
    const sector = this.table.offsetBytes[tag]! / SECTOR_BYTES;
    words[at] = sector; // modulo 2^32
    words[at + 1] = sector / TWO_32;
    words[at + 2] = bytes / SECTOR_BYTES;
    words[at + 3] = 0;
    this.#queue.add(this.#requestOffset(head) + RANGE_AT, RANGE_BYTES, VRING_DESC_F_NEXT);
  }

  /** Adds so many bytes of the operation's vectors, from where it stands. */
  #addData(tag: number, bytes: number): void {
    const { addresses, lengths } = this.#vectors;
    const flags = VRING_DESC_F_NEXT | (this.table.operation[tag] === OPERATION.read ? VRING_DESC_F_WRITE : 0);
    let skipBytes = this.#skipBytes[tag]!;
    for (let vector = this.table.first[tag]!; bytes > 0;) {
      const leftBytes = lengths[vector]! - skipBytes;
      const lengthBytes = Math.min(leftBytes, this.#limits.mostSegmentBytes, bytes);
      this.#queue.add(addresses[vector]! + skipBytes - this.#address + this.#offset, lengthBytes, flags);
      bytes -= lengthBytes;
      skipBytes += lengthBytes;
      if (lengthBytes < leftBytes) continue;
      vector++;
      skipBytes = 0;
    }
  }

  #requestOffset(head: number): number {
    return this.#offset + REQUESTS_AT + head * REQUEST_BYTES;
  }

  /** Takes everything that the daemon has completed. */
  #takeAll(): void {
    if (this.#isBroken || this.#pause !== PAUSE.none) return;
    let head = this.#queue.take();
    for (; head >= 0; head = this.#queue.take()) {
      this.#advance(this.#tagOf[head]!, this.#requestBytes[head * REQUEST_BYTES + STATUS_AT]!);
    }
    if (head === IMPOSSIBLE) this.#accuse(this.#queue.breach, this.#queue.breachValue);
  }

  /** A piece is done: completes its operation, or continues it. */
  #advance(tag: number, status: number): void {
    const { table } = this;
    if (this.#attachment.errorsLose && this.#isAfterError(tag, status)) return;
    if (status !== VIRTIO_BLK_S_OK) {
      return this.#complete(tag, status === VIRTIO_BLK_S_UNSUPP ? -EOPNOTSUPP : -EIO);
    }
    const bytes = this.#pieceBytes[tag]!;
    const operation = table.operation[tag]!;
    table.offsetBytes[tag]! += bytes;
    if (operation === OPERATION.discard) table.lengthBytes[tag]! -= bytes;
    else if (operation !== OPERATION.flush) this.#skip(tag, bytes);
    const isWhole = operation === OPERATION.discard
      ? table.lengthBytes[tag] === 0
      : operation === OPERATION.flush || table.count[tag] === 0;
    if (isWhole) this.#complete(tag, 0);
    else this.#postpone(tag);
  }

  /** Notes an error, which loses the connection. What is completed after one stays in flight. */
  #isAfterError(tag: number, status: number): boolean {
    if (status === VIRTIO_BLK_S_OK || status === VIRTIO_BLK_S_UNSUPP) return this.#isBroken;
    this.#failures[tag]!++;
    if (!this.#isBroken) this.#accuse(BREACH.error, 0);
    return true;
  }

  /** The next bytes of a transfer's vectors are done. */
  #skip(tag: number, bytes: number): void {
    const { table } = this;
    const { lengths } = this.#vectors;
    let skipBytes = this.#skipBytes[tag]! + bytes;
    while (table.count[tag]! > 0 && skipBytes >= lengths[table.first[tag]!]!) {
      skipBytes -= lengths[table.first[tag]!]!;
      table.first[tag]!++;
      table.count[tag]!--;
    }
    this.#skipBytes[tag] = skipBytes;
  }

  #postpone(tag: number): void {
    this.#state[tag] = UNFINISHED;
    const { length } = this.#unfinished;
    this.#unfinished[(this.#unfinishedHead + this.#unfinishedCount++) % length] = tag;
  }

  #complete(tag: number, result: number): void {
    this.#state[tag] = IDLE;
    this.table.complete(tag, result);
  }

  /** The daemon did what it must not: ends the connection, so that the control plane learns it. */
  #accuse(breach: number, value: number): void {
    this.#isBroken = true;
    if (this.#control.epoch !== this.#epoch) return; // that daemon is gone
    if (this.#control.accuse(this.#attachment.queue, breach, value)) shutDown(this.#control.socket);
  }

  /** The disk was given up. What the daemon has completed before counts. */
  #failAll(): void {
    this.#takeAll();
    this.#isBroken = true;
    this.#unfinishedCount = 0;
    while (this.table.next !== -1) this.table.shift();
    for (let tag = 0; tag < this.#state.length; tag++) if (this.#state[tag] !== IDLE) this.#complete(tag, -EIO);
  }

  /**
   * There is a new connection, which uses the other area. What was in flight in the old one goes to the front of what is
   * to be started, from its beginning, in the order in which it was started. This allocates, once per connection.
   */
  #changeArea(epoch: number): void {
    const rests = this.#unfinishedTags();
    const started = [...this.#state.keys()].filter((tag) => this.#state[tag] === STARTED);
    started.sort((one, other) => this.#order[one]! - this.#order[other]!);
    this.#epoch = epoch;
    this.#queue = this.#openQueue();
    this.#isBroken = this.#isArmed = false;
    this.#pause = PAUSE.none;
    this.#unfinishedHead = this.#unfinishedCount = 0;
    for (const tag of [...started, ...rests]) {
      if (this.#failures[tag]! < MOST_FAILURES) this.#startOver(tag);
      else this.#complete(tag, -EIO);
    }
    this.#control.follow(this.#attachment.queue, epoch);
  }

  #startOver(tag: number): void {
    const { table } = this;
    table.offsetBytes[tag] = this.#givenOffset[tag]!;
    table.first[tag] = this.#givenFirst[tag]!;
    table.count[tag] = this.#givenCount[tag]!;
    table.lengthBytes[tag] = this.#givenLength[tag]!;
    this.#skipBytes[tag] = 0;
    this.#postpone(tag);
  }

  #unfinishedTags(): number[] {
    const { length } = this.#unfinished;
    const tagAt = (_: unknown, i: number): number => this.#unfinished[(this.#unfinishedHead + i) % length]!;
    return Array.from({ length: this.#unfinishedCount }, tagAt);
  }
}
