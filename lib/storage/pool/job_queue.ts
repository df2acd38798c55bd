/**
 * The shared memory between one reactor and the I/O Workers for one disk: jobs one way, results the other. One producer
 * (the reactor), many consumers (the I/O Workers). Every index goes through Atomics; all else is written before the
 * index that publishes it.
 */

import type { IoVectors } from "../disk.ts";

/** Jobs that a queue holds, waiting and running; a power of two. More wait in their channels. */
export const JOB_SLOTS = 128;
/** Vectors of one job; a longer operation is cut into several jobs. */
export const JOB_VECTORS = 32;
/** Channels of one disk on one reactor. */
export const QUEUE_CHANNELS = 64;

const SLOT_MASK = JOB_SLOTS - 1;

/** Indices of the header's words, each on a cache line of its own. */
const SUBMITTED = 0; // jobs published
const CLAIMED = 16; // jobs that an I/O Worker took
const COMPLETED = 32; // results published
const REAPED = 48; // results that the reactor took
const HEADER_WORDS = 64;

const WORDS = HEADER_WORDS + 7 * JOB_SLOTS + QUEUE_CHANNELS;
const DOUBLES = 2 * JOB_SLOTS + 2 * QUEUE_CHANNELS + JOB_SLOTS * JOB_VECTORS;
const DOUBLES_AT = Math.ceil(WORDS / 2) * 8;
const LENGTHS_AT = DOUBLES_AT + DOUBLES * 8;
const QUEUE_BYTES = LENGTHS_AT + JOB_SLOTS * JOB_VECTORS * 4;

/** One thread's view of a queue. */
export class JobQueue {
  /** By slot: an OPERATION, the channel, the first byte, the number of vectors (from `slot * JOB_VECTORS` on). */
  readonly operation: Int32Array;
  readonly channel: Int32Array;
  readonly offsetBytes: Float64Array;
  readonly vectorCount: Int32Array;
  readonly vectors: IoVectors;
  /** By slot, of a discard, which has no vectors: its bytes, and whether it is a secure one (1). */
  readonly lengthBytes: Float64Array;
  readonly secure: Int32Array;
  /** By channel: its buffers, and a number that tells one channel in this place from the next. */
  readonly buffersAddress: Float64Array;
  readonly buffersLength: Float64Array;
  readonly generation: Int32Array;

  readonly #header: Int32Array;
  readonly #submissions: Int32Array;
  readonly #completions: Int32Array;
  readonly #result: Int32Array;

  /** Memory for a queue, empty. */
  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(QUEUE_BYTES);
  }

  constructor(buffer: SharedArrayBuffer) {
    let at = 0;
    const words = (count: number): Int32Array => new Int32Array(buffer, (at += count * 4) - count * 4, count);
    const doubles = (count: number): Float64Array => new Float64Array(buffer, (at += count * 8) - count * 8, count);
    this.#header = words(HEADER_WORDS);
    this.#submissions = words(JOB_SLOTS);
    this.#completions = words(JOB_SLOTS);
    this.#result = words(JOB_SLOTS);
    this.operation = words(JOB_SLOTS);
    this.channel = words(JOB_SLOTS);
    this.vectorCount = words(JOB_SLOTS);
    this.secure = words(JOB_SLOTS);
    this.generation = words(QUEUE_CHANNELS);
    at = DOUBLES_AT;
    this.offsetBytes = doubles(JOB_SLOTS);
    this.lengthBytes = doubles(JOB_SLOTS);
    this.buffersAddress = doubles(QUEUE_CHANNELS);
    this.buffersLength = doubles(QUEUE_CHANNELS);
    this.vectors = {
      addresses: doubles(JOB_SLOTS * JOB_VECTORS),
      lengths: new Uint32Array(buffer, LENGTHS_AT, JOB_SLOTS * JOB_VECTORS),
    };
  }

  /** The reactor: publishes a slot whose fields are written. */
  submit(slot: number): void {
    const at = Atomics.load(this.#header, SUBMITTED);
    Atomics.store(this.#submissions, at & SLOT_MASK, slot);
    Atomics.store(this.#header, SUBMITTED, (at + 1) | 0);
  }

  /** An I/O Worker: whether there is a job to claim. */
  get hasJobs(): boolean {
    return Atomics.load(this.#header, CLAIMED) !== Atomics.load(this.#header, SUBMITTED);
  }

  /** An I/O Worker: a slot that is now its own to carry out, or -1. */
  claim(): number {
    while (true) {
      const at = Atomics.load(this.#header, CLAIMED);
      if (at === Atomics.load(this.#header, SUBMITTED)) return -1;
      // Read before it is claimed: afterwards the reactor may reuse the entry, as soon as this job is done.
      const slot = Atomics.load(this.#submissions, at & SLOT_MASK);
      if (Atomics.compareExchange(this.#header, CLAIMED, at, (at + 1) | 0) === at) return slot;
    }
  }

  /** An I/O Worker: the job it claimed is done, with 0 or a negative errno. */
  complete(slot: number, result: number): void {
    this.#result[slot] = result;
    const at = Atomics.add(this.#header, COMPLETED, 1);
    Atomics.store(this.#completions, at & SLOT_MASK, slot + 1);
  }

  /** The reactor: a slot that is done and now free, or -1. An entry that is reserved but not yet written ends it. */
  reap(): number {
    const at = Atomics.load(this.#header, REAPED);
    const entry = Atomics.load(this.#completions, at & SLOT_MASK);
    if (entry === 0) return -1;
    Atomics.store(this.#completions, at & SLOT_MASK, 0);
    Atomics.store(this.#header, REAPED, (at + 1) | 0);
    return entry - 1;
  }

  /** The result of a slot that {@linkcode reap} returned, until the slot is submitted again. */
  resultOf(slot: number): number {
    return this.#result[slot]!;
  }
}
