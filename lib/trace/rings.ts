/**
 * The way of records from the threads that serve a disk to the thread that writes its trace: one part of shared memory
 * for each channel, with one producer and one consumer. A producer never waits: what finds no room is counted as lost.
 */

import { encodeRecord, RECORD_BYTES, type TraceRecord } from "./record.ts";

/** Most channels of a disk that can record at a time. */
const PARTS = 64;
/** Records of one part: what a ring of 800,000 requests a second completes in 20 ms. Unused memory stays absent. */
const PART_RECORDS = 2 ** 14;
const PART_BYTES = PART_RECORDS * RECORD_BYTES;

/** Control words. Those of parts follow: the owner, and how many records were put and taken so far. */
const STATE = 0;
const SLEEPING = 1;
const LOST = 2;
const OWNERS = 4;
const HEADS = OWNERS + PARTS;
const TAILS = HEADS + PARTS;
const CONTROL_BYTES = 4 * (TAILS + PARTS);

/** What becomes of records: they are written; the writer is to end; it has failed, and nothing is recorded any more. */
const OPEN = 0;
const STOPPING = 1;
const FAILED = 2;

/** The shared memory of a new trace. */
export function createTraceMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(CONTROL_BYTES + PARTS * PART_BYTES);
}

/** Asks the writer to write what is there and to end. */
export function stopTrace(memory: SharedArrayBuffer): void {
  const words = new Int32Array(memory, 0, CONTROL_BYTES / 4);
  Atomics.compareExchange(words, STATE, OPEN, STOPPING);
  Atomics.notify(words, STATE);
  Atomics.store(words, SLEEPING, 0);
  Atomics.notify(words, SLEEPING);
}

/** Puts records of one channel. Its thread alone uses it. */
export class TraceProducer implements Disposable {
  /** Index of the channel's part, in records the number of the ring. */
  readonly ring: number;
  readonly #words: Int32Array;
  readonly #view: DataView;
  #head: number;
  #unpublished = 0;

  private constructor(memory: SharedArrayBuffer, words: Int32Array, part: number) {
    this.ring = part;
    this.#words = words;
    this.#view = new DataView(memory, CONTROL_BYTES + part * PART_BYTES, PART_BYTES);
    this.#head = Atomics.load(words, HEADS + part);
  }

  /** Takes the first free part; undefined if there is none. */
  static open(memory: SharedArrayBuffer): TraceProducer | undefined {
    const words = new Int32Array(memory, 0, CONTROL_BYTES / 4);
    for (let part = 0; part < PARTS; part++) {
      if (Atomics.compareExchange(words, OWNERS + part, 0, 1) === 0) return new TraceProducer(memory, words, part);
    }
    return undefined;
  }

  /** Puts a record; the writer sees it after {@linkcode publish}. */
  put(record: TraceRecord): void {
    const words = this.#words;
    if (Atomics.load(words, STATE) === FAILED) return;
    if (((this.#head - Atomics.load(words, TAILS + this.ring)) | 0) >= PART_RECORDS) {
      Atomics.add(words, LOST, 1);
      return;
    }
    record.ring = this.ring;
    encodeRecord(this.#view, (this.#head & (PART_RECORDS - 1)) * RECORD_BYTES, record);
    this.#head = (this.#head + 1) | 0;
    this.#unpublished++;
  }

  /** Lets the writer have what was put, and wakes it if it sleeps. */
  publish(): void {
    if (this.#unpublished === 0) return;
    this.#unpublished = 0;
    const words = this.#words;
    Atomics.store(words, HEADS + this.ring, this.#head);
    if (Atomics.load(words, SLEEPING) === 0) return;
    Atomics.store(words, SLEEPING, 0);
    Atomics.notify(words, SLEEPING);
  }

  /** Leaves the part to another channel; what was published is written. */
  [Symbol.dispose](): void {
    Atomics.store(this.#words, OWNERS + this.ring, 0);
  }
}

/** Takes the records of all channels: the writer's end. */
export class TraceConsumer {
  readonly #words: Int32Array;
  readonly #parts: readonly Uint8Array[];
  #lost = 0;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory, 0, CONTROL_BYTES / 4);
    this.#parts = Array.from(
      { length: PARTS },
      (_, part) => new Uint8Array(memory, CONTROL_BYTES + part * PART_BYTES, PART_BYTES),
    );
  }

  /** The writer is to end. */
  get isStopping(): boolean {
    return Atomics.load(this.#words, STATE) === STOPPING;
  }

  /** From now on nothing is recorded. */
  fail(): void {
    Atomics.store(this.#words, STATE, FAILED);
  }

  /** Passes on what was published, in pieces of whole records. Returns the number of records. */
  drain(write: (records: Uint8Array) => void): number {
    let total = 0;
    for (let part = 0; part < PARTS; part++) {
      const tail = Atomics.load(this.#words, TAILS + part);
      const count = (Atomics.load(this.#words, HEADS + part) - tail) | 0;
      if (count === 0) continue;
      const begin = tail & (PART_RECORDS - 1);
      const first = Math.min(count, PART_RECORDS - begin);
      const bytes = this.#parts[part]!;
      write(bytes.subarray(begin * RECORD_BYTES, (begin + first) * RECORD_BYTES));
      if (count > first) write(bytes.subarray(0, (count - first) * RECORD_BYTES));
      Atomics.store(this.#words, TAILS + part, (tail + count) | 0);
      total += count;
    }
    return total;
  }

  /** Records that were lost since the last call. */
  takeLost(): number {
    const lost = Atomics.load(this.#words, LOST);
    const count = (lost - this.#lost) >>> 0;
    this.#lost = lost;
    return count;
  }

  /** Sleeps until something is published or the writer is to end. */
  sleep(): void {
    const words = this.#words;
    Atomics.store(words, SLEEPING, 1);
    if (this.#isIdle()) Atomics.wait(words, SLEEPING, 1);
    Atomics.store(words, SLEEPING, 0);
  }

  /** Waits for more to come, so that it is written together; not if the writer is to end. */
  gather(ms: number): void {
    Atomics.wait(this.#words, STATE, OPEN, ms);
  }

  #isIdle(): boolean {
    const words = this.#words;
    if (Atomics.load(words, STATE) !== OPEN) return false;
    for (let part = 0; part < PARTS; part++) {
      if (Atomics.load(words, HEADS + part) !== Atomics.load(words, TAILS + part)) return false;
    }
    return true;
  }
}
