/**
 * The descriptors of one image, in memory that the control plane, the file threads and the reactors share: one that looks
 * at the image, and one for each channel, so that each channel has an open file description of its own. The table
 * replaces a search of the process's descriptors, which would ask the storage of every image.
 *
 * Only file threads open and close descriptors. A reactor takes one and releases it, without a call that could block.
 */

import { XenblkError } from "../../errors.ts";
import type { LockableImage } from "../../hypervisor.ts";

/** Most descriptors of an image. */
const CAPACITY = 1024;
/** Descriptors given to channels that were never opened; more of them are given to other channels. */
const MOST_ABANDONED = 64;

const USE = 0;
const COUNT = 1;
const HEADER_WORDS = 2;
/** Words of an entry: the descriptor plus 1 (0: none), and its state. */
const ENTRY_WORDS = 2;
const BYTES = (HEADER_WORDS + CAPACITY * ENTRY_WORDS) * Int32Array.BYTES_PER_ELEMENT;

/** The lowest two bits of an entry's state. The bits above count how often it was given to a channel. */
const FREE = 0;
const GIVEN = 1;
const TAKEN = 2;
const STATE_MASK = 3;
const GENERATION = 4;

/** A descriptor as it is given to one channel. Structured-cloneable. */
export interface DescriptorLease {
  /** Its place in the image's table. */
  readonly entry: number;
  /** The state of the entry when it was given. */
  readonly given: number;
}

/** One thread's view of an image's descriptors. */
export class ImageDescriptors {
  readonly #words: Int32Array;
  readonly #path: string;

  /** Memory for the descriptors of an image. */
  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(BYTES);
  }

  /** Of an image that has such memory. */
  constructor({ path, descriptors }: LockableImage) {
    if (descriptors === undefined) throw new TypeError(`Cannot use image ${path}: it has no table of descriptors`);
    this.#words = new Int32Array(descriptors);
    this.#path = path;
  }

  /** The use that all descriptors are locked for, as a number of the locks' own; 0: they are not locked. */
  get lockedUse(): number {
    return Atomics.load(this.#words, USE);
  }

  set lockedUse(use: number) {
    Atomics.store(this.#words, USE, use);
  }

  /** The descriptor that looks at the image, the first that was added. */
  get look(): number {
    return this.#fd(0);
  }

  /** All descriptors. */
  list(): number[] {
    const count = Math.min(Atomics.load(this.#words, COUNT), CAPACITY);
    return Array.from({ length: count }, (_, entry) => this.#fd(entry)).filter((fd) => fd >= 0);
  }

  /** Adds an open descriptor, given to a channel. Throws {@linkcode XenblkError} if there are too many. */
  add(fd: number): DescriptorLease {
    const entry = Atomics.add(this.#words, COUNT, 1);
    if (entry >= CAPACITY) {
      Atomics.sub(this.#words, COUNT, 1);
      throw new XenblkError(`Cannot open image ${this.#path}: it has ${CAPACITY} descriptors already`);
    }
    Atomics.store(this.#words, stateAt(entry), GIVEN);
    Atomics.store(this.#words, stateAt(entry) - 1, fd + 1);
    return { entry, given: GIVEN };
  }

  /**
   * Gives a released descriptor to a channel; undefined: none is free. A channel that is given one may never be opened
   * (its ring may be bad); if there are many such, the first of them is given again, and its old lease is void.
   */
  reuse(): DescriptorLease | undefined {
    const count = Math.min(Atomics.load(this.#words, COUNT), CAPACITY);
    const abandoned: number[] = [];
    // Entry 0 is the one that looks.
    for (let entry = 1; entry < count; entry++) {
      const state = Atomics.load(this.#words, stateAt(entry));
      if ((state & STATE_MASK) === GIVEN) abandoned.push(entry);
      if ((state & STATE_MASK) !== FREE) continue;
      const lease = this.#give(entry, state);
      if (lease !== undefined) return lease;
    }
    if (abandoned.length < MOST_ABANDONED) return undefined;
    const entry = abandoned[0]!;
    return this.#give(entry, Atomics.load(this.#words, stateAt(entry)));
  }

  /** A reactor: the descriptor, its own until {@linkcode release}. Throws {@linkcode XenblkError} if it is not there. */
  take({ entry, given }: DescriptorLease): number {
    const free = given - GIVEN + FREE;
    const at = stateAt(entry);
    // A channel that was closed may be opened again with the same lease, as long as no other has the descriptor.
    const taken = Atomics.compareExchange(this.#words, at, given, given - GIVEN + TAKEN) === given ||
      Atomics.compareExchange(this.#words, at, free, given - GIVEN + TAKEN) === free;
    const fd = this.#fd(entry);
    if (taken && fd >= 0) return fd;
    throw new XenblkError(`Cannot open an I/O channel to image ${this.#path}: another channel has its descriptor`);
  }

  /** A reactor, when the kernel has finished with the descriptor; or whoever was given one that no channel will take. */
  release({ entry, given }: DescriptorLease): void {
    const at = stateAt(entry);
    const generation = given - GIVEN;
    if (Atomics.compareExchange(this.#words, at, generation + TAKEN, generation + FREE) === generation + TAKEN) return;
    Atomics.compareExchange(this.#words, at, given, generation + FREE);
  }

  /** Forgets all descriptors; returns them, to be closed. */
  clear(): number[] {
    const all = this.list();
    for (let entry = Math.min(Atomics.exchange(this.#words, COUNT, 0), CAPACITY) - 1; entry >= 0; entry--) {
      Atomics.store(this.#words, stateAt(entry) - 1, 0);
    }
    return all;
  }

  #give(entry: number, state: number): DescriptorLease | undefined {
    const given = ((state & ~STATE_MASK) + GENERATION + GIVEN) | 0;
    return Atomics.compareExchange(this.#words, stateAt(entry), state, given) === state ? { entry, given } : undefined;
  }

  #fd(entry: number): number {
    return Atomics.load(this.#words, stateAt(entry) - 1) - 1;
  }
}

function stateAt(entry: number): number {
  return HEADER_WORDS + entry * ENTRY_WORDS + 1;
}
