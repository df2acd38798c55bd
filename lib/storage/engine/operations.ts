/**
 * The operations of one channel: those that wait to be started, in order, and the results that wait to be reaped. All
 * arrays are made with the channel. It must not know who carries operations out.
 */

import { OPERATION, type Operation } from "./executor.ts";

/** Bookkeeping by tag; a channel's owner never sees it, only its `tags` and `results`. */
export class OperationTable {
  readonly operation: Uint8Array;
  readonly offsetBytes: Float64Array;
  /** First vector that is not yet started, and how many follow it. */
  readonly first: Uint32Array;
  readonly count: Uint32Array;
  /** Of a discard, which has no vectors; and whether it is a secure one (1). */
  readonly lengthBytes: Float64Array;
  readonly secure: Uint8Array;
  /** See IoChannel. */
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #depth: number;
  readonly #accepted: Uint8Array;
  readonly #waiting: Uint32Array;
  #waitingHead = 0;
  #waitingCount = 0;
  readonly #doneTags: Uint32Array;
  readonly #doneResults: Int32Array;
  #doneCount = 0;
  #inFlight = 0;

  constructor(depth: number) {
    this.#depth = depth;
    this.operation = new Uint8Array(depth);
    this.offsetBytes = new Float64Array(depth);
    this.first = new Uint32Array(depth);
    this.count = new Uint32Array(depth);
    this.lengthBytes = new Float64Array(depth);
    this.secure = new Uint8Array(depth);
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#accepted = new Uint8Array(depth);
    this.#waiting = new Uint32Array(depth);
    this.#doneTags = new Uint32Array(depth);
    this.#doneResults = new Int32Array(depth);
  }

  /** Operations added and not yet taken by {@linkcode reap}. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Operations that are not yet started. */
  get waitingCount(): number {
    return this.#waitingCount;
  }

  /** The operation that is to be started next, or -1. */
  get next(): number {
    return this.#waitingCount === 0 ? -1 : this.#waiting[this.#waitingHead]!;
  }

  /** Queues an operation. Throws RangeError for a tag that is too large or in flight: a bug of the caller. */
  add(tag: number, operation: Operation, offsetBytes: number, first: number, count: number): void {
    this.#accept(tag);
    this.operation[tag] = operation;
    this.offsetBytes[tag] = offsetBytes;
    this.first[tag] = first;
    this.count[tag] = count;
    this.#waiting[(this.#waitingHead + this.#waitingCount++) % this.#depth] = tag;
  }

  /** As {@linkcode add}, for a discard. */
  addDiscard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.add(tag, OPERATION.discard, offsetBytes, 0, 0);
    this.lengthBytes[tag] = lengthBytes;
    this.secure[tag] = secure ? 1 : 0;
  }

  /** An operation that needs no starting: it is complete as soon as it is queued. Throws as {@linkcode add} does. */
  addCompleted(tag: number, result: number): void {
    this.#accept(tag);
    this.complete(tag, result);
  }

  #accept(tag: number): void {
    if (!(tag < this.#depth)) throw new RangeError(`Cannot queue tag ${tag}: the depth is ${this.#depth}`);
    if (this.#accepted[tag] === 1) throw new RangeError(`Cannot queue tag ${tag}: it is in flight`);
    this.#accepted[tag] = 1;
    this.#inFlight++;
  }

  /** The operation {@linkcode next} is started. */
  shift(): void {
    this.#waitingHead = (this.#waitingHead + 1) % this.#depth;
    this.#waitingCount--;
  }

  /** The operation is done, with 0 or a negative errno. */
  complete(tag: number, result: number): void {
    this.#doneTags[this.#doneCount] = tag;
    this.#doneResults[this.#doneCount++] = result;
  }

  /** Moves all results to `tags` and `results`; returns how many. */
  reap(): number {
    const count = this.#doneCount;
    for (let i = 0; i < count; i++) {
      const tag = this.#doneTags[i]!;
      this.tags[i] = tag;
      this.results[i] = this.#doneResults[i]!;
      this.#accepted[tag] = 0;
    }
    this.#doneCount = 0;
    this.#inFlight -= count;
    return count;
  }

  /** Throws if operations are in flight: their memory is not the caller's to give back yet. */
  checkIdle(): void {
    if (this.#inFlight > 0) throw new Error(`Cannot close the I/O channel: operations in flight: ${this.#inFlight}`);
  }
}
