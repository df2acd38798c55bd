/**
 * The channel that filters extend which decide about each operation: it goes to the disk at once, later, or not at all.
 * All memory is made with the channel.
 */

import type { ChannelOptions, IoChannel, IoVectors } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";

/** While operations are held, options are looked at this often, so that a change takes effect. */
export const RECHECK_MS = 50;

/** Decides nothing by itself. It owns the channel behind it. */
export abstract class HoldingChannel implements IoChannel {
  /** Of the operation in flight, by tag: one of {@linkcode OPERATION}. */
  protected readonly operation: Uint8Array;
  /** By tag: where it begins on the disk. */
  protected readonly offsetBytes: Float64Array;
  /** By tag: its first vector. */
  protected readonly first: Uint32Array;
  /** By tag: the number of its vectors. */
  protected readonly count: Uint32Array;
  /** Of a discard, by tag: its length; see {@linkcode lengthOf} for the others. */
  protected readonly discardBytes: Float64Array;
  /** Of a discard, by tag: 1 for a secure one. */
  protected readonly secure: Uint8Array;
  /** The disk. */
  protected readonly inner: IoChannel;
  /** Those of the channel's options. */
  protected readonly vectors: IoVectors;
  /** True: operations go straight to the disk, and {@linkcode take} does not see them. */
  protected abstract readonly passes: boolean;
  /** Operations that wait for {@linkcode release}. */
  protected held = 0;
  readonly #answeredTags: Uint32Array;
  readonly #answeredResults: Int32Array;
  #answered = 0;
  /** Those of them that were submitted. */
  #ready = 0;
  /** Where operations go that pass: behind those filters that let everything pass, too. As of the last pass. */
  #target: IoChannel;
  readonly #tags: Uint32Array;
  readonly #results: Int32Array;
  /** The last reap had results of the disk only, as they were. */
  #isBare = true;
  /** An operation came since the last submit. */
  #isOpen = false;
  /** By tag: 1 for an operation that {@linkcode take} has seen until it is reaped. */
  readonly #seen: Uint8Array;
  /** Operations that {@linkcode take} has seen and that were not reaped. */
  protected seenCount = 0;

  /** `options` are those that the inner channel was opened with. */
  constructor(inner: IoChannel, { depth, vectors }: ChannelOptions) {
    this.inner = inner;
    this.#target = inner;
    this.vectors = vectors;
    this.#tags = new Uint32Array(depth);
    this.#results = new Int32Array(depth);
    this.operation = new Uint8Array(depth);
    this.offsetBytes = new Float64Array(depth);
    this.first = new Uint32Array(depth);
    this.count = new Uint32Array(depth);
    this.discardBytes = new Float64Array(depth);
    this.secure = new Uint8Array(depth);
    this.#seen = new Uint8Array(depth);
    this.#answeredTags = new Uint32Array(depth);
    this.#answeredResults = new Int32Array(depth);
  }

  /** See IoChannel. */
  get tags(): Uint32Array {
    return this.#isBare ? this.inner.tags : this.#tags;
  }

  /** See IoChannel. */
  get results(): Int32Array {
    return this.#isBare ? this.inner.results : this.#results;
  }

  get dueMs(): number {
    return Math.min(this.held === 0 ? Infinity : this.nextMs(), this.inner.dueMs ?? Infinity);
  }

  get isResting(): boolean {
    return this.inFlight === 0 && (this.inner.dueMs === undefined || this.inner.isResting === true);
  }

  get inFlight(): number {
    return this.inner.inFlight + this.held + this.#answered;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    if (!this.#isOpen) this.#open();
    if (this.passes) this.#target.read(tag, offsetBytes, first, count);
    else this.#take(tag, OPERATION.read, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    if (!this.#isOpen) this.#open();
    if (this.passes) this.#target.write(tag, offsetBytes, first, count);
    else this.#take(tag, OPERATION.write, offsetBytes, first, count);
  }

  flush(tag: number): void {
    if (!this.#isOpen) this.#open();
    if (this.passes) this.#target.flush(tag);
    else this.#take(tag, OPERATION.flush, 0, 0, 0);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    if (!this.#isOpen) this.#open();
    if (this.passes) return this.#target.discard(tag, offsetBytes, lengthBytes, secure);
    this.discardBytes[tag] = lengthBytes;
    this.secure[tag] = secure ? 1 : 0;
    this.#take(tag, OPERATION.discard, offsetBytes, 0, 0);
  }

  submit(): void {
    if (this.held > 0) {
      this.refresh();
      this.release();
    }
    this.#ready = this.#answered;
    this.#isOpen = false;
    this.inner.submit();
  }

  reap(): number {
    if (this.held > 0 && !this.#isOpen) this.#releaseLate();
    const count = this.inner.reap();
    this.#isBare = this.seenCount === 0;
    return this.#isBare ? count : this.#reapSeen(count);
  }

  /** Closes the channel behind it, too. Throws if operations are in flight: their memory cannot be released yet. */
  [Symbol.dispose](): void {
    if (this.inFlight > 0) throw new Error(`Cannot close the I/O channel: operations in flight: ${this.inFlight}`);
    this.inner[Symbol.dispose]();
  }

  /** Decides about an operation that was just queued: {@linkcode start}, {@linkcode answer}, or holding it. */
  protected abstract take(tag: number): void;

  /** Starts or answers the held operations that are due. */
  protected release(): void {}

  /** When {@linkcode release} has something to do; called while operations are held. */
  protected nextMs(): number {
    return Infinity;
  }

  /** Called before each pass, to take over changed options. */
  protected refresh(): void {}

  /** The disk has completed an operation that {@linkcode take} had seen. Returns what the guest is told. */
  protected finish(_tag: number, result: number): number {
    return result;
  }

  /** Queues an operation at the disk. */
  protected start(tag: number): void {
    const offsetBytes = this.offsetBytes[tag]!;
    switch (this.operation[tag]) {
      case OPERATION.read:
        return this.inner.read(tag, offsetBytes, this.first[tag]!, this.count[tag]!);
      case OPERATION.write:
        return this.inner.write(tag, offsetBytes, this.first[tag]!, this.count[tag]!);
      case OPERATION.flush:
        return this.inner.flush(tag);
      default:
        return this.inner.discard(tag, offsetBytes, this.discardBytes[tag]!, this.secure[tag] === 1);
    }
  }

  /** Completes an operation without the disk, once it is submitted. */
  protected answer(tag: number, result: number): void {
    this.#answeredTags[this.#answered] = tag;
    this.#answeredResults[this.#answered++] = result;
  }

  /** Bytes of an operation; 0 for a flush. */
  protected lengthOf(tag: number): number {
    if (this.operation[tag] === OPERATION.discard) return this.discardBytes[tag]!;
    const { lengths } = this.vectors;
    const end = this.first[tag]! + this.count[tag]!;
    let lengthBytes = 0;
    for (let i = this.first[tag]!; i < end; i++) lengthBytes += lengths[i]!;
    return lengthBytes;
  }

  /** Throws RangeError as all channels do. */
  #take(tag: number, operation: number, offsetBytes: number, first: number, count: number): void {
    if (!(tag < this.#seen.length)) {
      throw new RangeError(`Cannot queue tag ${tag}: the depth is ${this.#seen.length}`);
    }
    if (this.#seen[tag] === 1) throw new RangeError(`Cannot queue tag ${tag}: it is in flight`);
    this.#seen[tag] = 1;
    this.seenCount++;
    this.operation[tag] = operation;
    this.offsetBytes[tag] = offsetBytes;
    this.first[tag] = first;
    this.count[tag] = count;
    this.take(tag);
  }

  /** The first operation of a pass takes over changed options. */
  #open(): void {
    this.#isOpen = true;
    this.#adopt();
  }

  #adopt(): void {
    const { inner } = this;
    this.refresh();
    if (!(inner instanceof HoldingChannel)) return;
    inner.#adopt();
    this.#target = inner.passes ? inner.#target : inner;
  }

  /** What starts now has been submitted before. */
  #releaseLate(): void {
    const before = this.held;
    this.refresh();
    this.release();
    if (this.held === before) return;
    this.#ready = this.#answered;
    this.inner.submit();
  }

  #reapSeen(reaped: number): number {
    const { tags, results } = this.inner;
    let count = 0;
    for (; count < reaped; count++) {
      const tag = tags[count]!;
      this.#tags[count] = tag;
      this.#results[count] = this.#seen[tag] === 1 ? this.finish(tag, results[count]!) : results[count]!;
      this.#forget(tag);
    }
    for (let i = 0; i < this.#ready; i++, count++) {
      const tag = this.#answeredTags[i]!;
      this.#tags[count] = tag;
      this.#results[count] = this.#answeredResults[i]!;
      this.#forget(tag);
    }
    // Those that were answered since the last submit wait for the next.
    this.#answeredTags.copyWithin(0, this.#ready, this.#answered);
    this.#answeredResults.copyWithin(0, this.#ready, this.#answered);
    this.#answered -= this.#ready;
    this.#ready = 0;
    return count;
  }

  #forget(tag: number): void {
    this.seenCount -= this.#seen[tag]!;
    this.#seen[tag] = 0;
  }
}
