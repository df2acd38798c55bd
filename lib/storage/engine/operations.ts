/**
 * What channels of all engines share: the operations in flight by tag, the order in which they are to be started, and
 * the results that wait to be reaped. All arrays are made with the channel. An engine decides how an operation is
 * carried out.
 */

import type { IoChannel } from "../disk.ts";
import { OPERATION, type Operation } from "./executor.ts";

/** In place of an operation: the tag is not in flight, or needs no engine. */
const NOT_IN_FLIGHT = 0xFF;
const REFUSED = 0xFE;

/** The operations of one channel. Its owner sees only `tags` and `results`. */
export class OperationTable {
  /** One of {@linkcode OPERATION} for a tag in flight. */
  readonly operation: Uint8Array;
  readonly offsetBytes: Float64Array;
  /** The first vector that is not done or handed on, and how many there are from there on. */
  readonly first: Uint32Array;
  readonly count: Uint32Array;
  /** Discards: the length, and 1 for a secure one. */
  readonly lengthBytes: Float64Array;
  readonly secure: Uint8Array;
  /** See IoChannel. */
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  readonly #depth: number;
  readonly #waiting: Uint32Array;
  readonly #waitingMask: number;
  #waitingHead = 0;
  #waitingCount = 0;
  readonly #doneTags: Uint32Array;
  readonly #doneResults: Int32Array;
  #doneCount = 0;
  #inFlight = 0;

  constructor(depth: number) {
    this.#depth = depth;
    this.operation = new Uint8Array(depth).fill(NOT_IN_FLIGHT);
    this.offsetBytes = new Float64Array(depth);
    this.first = new Uint32Array(depth);
    this.count = new Uint32Array(depth);
    this.lengthBytes = new Float64Array(depth);
    this.secure = new Uint8Array(depth);
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
    this.#waiting = new Uint32Array(2 ** Math.ceil(Math.log2(depth))); // a division costs ten times as much as a mask
    this.#waitingMask = this.#waiting.length - 1;
    this.#doneTags = new Uint32Array(depth);
    this.#doneResults = new Int32Array(depth);
  }

  /** Operations added and not yet reaped. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** Operations that wait to be started. */
  get waitingCount(): number {
    return this.#waitingCount;
  }

  /** The tag of the operation to be started next, or -1. */
  get next(): number {
    return this.#waitingCount === 0 ? -1 : this.#waiting[this.#waitingHead]!;
  }

  /** Queues an operation. Throws RangeError if the tag is too large or in flight, which is a bug of the caller. */
  add(tag: number, operation: Operation, offsetBytes: number, first: number, count: number): void {
    this.#accept(tag, operation);
    this.offsetBytes[tag] = offsetBytes;
    this.first[tag] = first;
    this.count[tag] = count;
    this.#waiting[(this.#waitingHead + this.#waitingCount++) & this.#waitingMask] = tag;
  }

  /** Like {@linkcode add}, for a discard. */
  addDiscard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.add(tag, OPERATION.discard, offsetBytes, 0, 0);
    this.lengthBytes[tag] = lengthBytes;
    this.secure[tag] = secure ? 1 : 0;
  }

  /** An operation that needs no engine: it has a result at once. Throws like {@linkcode add}. */
  addCompleted(tag: number, result: number): void {
    this.#accept(tag, REFUSED);
    this.complete(tag, result);
  }

  #accept(tag: number, operation: number): void {
    if (!(tag < this.#depth)) throw new RangeError(`Cannot queue tag ${tag}: the depth is ${this.#depth}`);
    if (this.operation[tag] !== NOT_IN_FLIGHT) throw new RangeError(`Cannot queue tag ${tag}: it is in flight`);
    this.operation[tag] = operation;
    this.#inFlight++;
  }

  /** Removes the operation {@linkcode next} from those that wait: it is started. */
  shift(): void {
    this.#waitingHead = (this.#waitingHead + 1) & this.#waitingMask;
    this.#waitingCount--;
  }

  /** The operation is done, with 0 or a negative errno. */
  complete(tag: number, result: number): void {
    this.#doneTags[this.#doneCount] = tag;
    this.#doneResults[this.#doneCount++] = result;
  }

  /** Moves all results to `tags` and `results`; returns how many there are. */
  reap(): number {
    const count = this.#doneCount;
    for (let i = 0; i < count; i++) {
      const tag = this.#doneTags[i]!;
      this.tags[i] = tag;
      this.results[i] = this.#doneResults[i]!;
      this.operation[tag] = NOT_IN_FLIGHT;
    }
    this.#doneCount = 0;
    this.#inFlight -= count;
    return count;
  }

  /** Throws if operations are in flight: their memory cannot be released yet. */
  checkIdle(): void {
    if (this.#inFlight > 0) throw new Error(`Cannot close the I/O channel: operations in flight: ${this.#inFlight}`);
  }
}

/** A channel whose operations wait in a table until submit(). */
export abstract class TableChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  protected readonly table: OperationTable;

  constructor(depth: number) {
    this.table = new OperationTable(depth);
    this.tags = this.table.tags;
    this.results = this.table.results;
  }

  get inFlight(): number {
    return this.table.inFlight;
  }

  read(tag: number, offsetBytes: number, first: number, count: number): void {
    this.table.add(tag, OPERATION.read, offsetBytes, first, count);
  }

  write(tag: number, offsetBytes: number, first: number, count: number): void {
    this.table.add(tag, OPERATION.write, offsetBytes, first, count);
  }

  flush(tag: number): void {
    this.table.add(tag, OPERATION.flush, 0, 0, 0);
  }

  discard(tag: number, offsetBytes: number, lengthBytes: number, secure: boolean): void {
    this.table.addDiscard(tag, offsetBytes, lengthBytes, secure);
  }

  abstract submit(): void;

  reap(): number {
    return this.table.reap();
  }

  /** Throws if operations are in flight. */
  [Symbol.dispose](): void {
    this.table.checkIdle();
  }
}
