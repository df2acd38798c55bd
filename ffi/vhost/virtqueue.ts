/**
 * A split virtqueue with EVENT_IDX, the driver's side (Linux: virtio_ring.h; the rules are those of VIRTIO 1.2, 2.7). The
 * device's process can write to all of its memory at any time: what decides anything here is private, and everything that
 * is read from the ring is checked.
 */

import { viewOf } from "../linux/memory.ts";
import { AVAIL_AT, BASE_HIGH, DESCRIPTORS_AT, QUEUE_SIZE, RING_BYTES, USED_AT } from "./layout.ts";

/** Flags of a descriptor. */
export const VRING_DESC_F_NEXT = 1;
export const VRING_DESC_F_WRITE = 2;

/** In place of a descriptor, from {@linkcode Virtqueue.take}: nothing is done, or what the device wrote is impossible. */
const NOTHING = -1;
export const IMPOSSIBLE = -2;

const MASK = QUEUE_SIZE - 1;
const INDEX_MASK = 0xFFFF;
const DESCRIPTOR_WORDS = 4;
/** Places in struct vring_avail and struct vring_used, in 16-bit words, and of the elements of the latter in 32-bit words. */
const INDEX = 1;
const ENTRIES = 2;
const USED_EVENT = ENTRIES + QUEUE_SIZE;
const AVAIL_EVENT = ENTRIES + 4 * QUEUE_SIZE;
const ELEMENTS = 1;
const ELEMENT_WORDS = 2;

/** What a device did that no device may do. */
export const BREACH = { index: 1, descriptor: 2, length: 3, error: 4 } as const;

/** One virtqueue in memory that is zeroed. Nothing is allocated after construction. */
export class Virtqueue {
  /** Of {@linkcode BREACH}, once {@linkcode take} has returned IMPOSSIBLE; and the value that was read. */
  breach = 0;
  breachValue = 0;
  readonly #descriptors: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #elements: Uint32Array;
  /** By descriptor: the next one of its chain, or of the free ones. The chains in the ring are only written. */
  readonly #next = new Uint16Array(QUEUE_SIZE);
  /** By first descriptor of a chain: its last one, how many there are (0: it is not in flight), and bytes to be written. */
  readonly #last = new Uint16Array(QUEUE_SIZE);
  readonly #count = new Uint16Array(QUEUE_SIZE);
  readonly #writable = new Float64Array(QUEUE_SIZE);
  #free = 0;
  #freeCount = QUEUE_SIZE;
  #chains = 0;
  /** The chain that is being made: its last descriptor, its number of them, and bytes to be written. */
  #openLast = 0;
  #openCount = 0;
  #openWritable = 0;
  /** Index behind the last chain, and behind the last one that was published. */
  #availIndex = 0;
  #published = 0;
  /** Index of the next element to be taken, and the device's as last read. */
  #usedIndex = 0;
  #ready = 0;

  constructor(address: number) {
    const { buffer } = viewOf(address, RING_BYTES);
    this.#descriptors = new Uint32Array(buffer, DESCRIPTORS_AT, QUEUE_SIZE * DESCRIPTOR_WORDS);
    this.#avail = new Uint16Array(buffer, AVAIL_AT, USED_EVENT + 1);
    this.#used = new Uint16Array(buffer, USED_AT, AVAIL_EVENT + 1);
    this.#elements = new Uint32Array(buffer, USED_AT, ELEMENTS + ELEMENT_WORDS * QUEUE_SIZE);
    for (let i = 0; i < QUEUE_SIZE; i++) this.#next[i] = (i + 1) & MASK;
  }

  /** Descriptors that no chain has. */
  get freeCount(): number {
    return this.#freeCount;
  }

  /** Begins a chain; there must be room for all of it. Returns the number of its first descriptor. */
  begin(): number {
    this.#openCount = 0;
    this.#openWritable = 0;
    return this.#free;
  }

  /** Adds memory to the chain, by its offset; every descriptor but the last one has the flag NEXT. */
  add(offsetBytes: number, lengthBytes: number, flags: number): void {
    const descriptor = this.#free;
    const next = this.#next[descriptor]!;
    const at = descriptor * DESCRIPTOR_WORDS;
    const words = this.#descriptors;
    words[at] = offsetBytes;
    words[at + 1] = BASE_HIGH;
    words[at + 2] = lengthBytes;
    words[at + 3] = flags | (next << 16);
    this.#free = next;
    this.#openLast = descriptor;
    this.#openCount++;
    if ((flags & VRING_DESC_F_WRITE) !== 0) this.#openWritable += lengthBytes;
  }

  /** Ends the chain that begins with that descriptor, and makes it available with the next {@linkcode publish}. */
  end(head: number): void {
    this.#last[head] = this.#openLast;
    this.#count[head] = this.#openCount;
    this.#writable[head] = this.#openWritable;
    this.#freeCount -= this.#openCount;
    this.#chains++;
    this.#avail[ENTRIES + (this.#availIndex & MASK)] = head;
    this.#availIndex = (this.#availIndex + 1) & INDEX_MASK;
  }

  /** Shows the device all chains that were ended. True: it wants to be notified (vring_need_event). */
  publish(): boolean {
    const before = this.#published;
    const index = this.#availIndex;
    if (index === before) return false;
    Atomics.store(this.#avail, INDEX, index);
    this.#published = index;
    const event = Atomics.load(this.#used, AVAIL_EVENT);
    return ((index - event - 1) & INDEX_MASK) < ((index - before) & INDEX_MASK);
  }

  /** Frees the next chain that the device is done with. Returns its first descriptor, NOTHING or IMPOSSIBLE. */
  take(): number {
    if (this.#usedIndex === this.#ready && !this.#look()) return this.breach === 0 ? NOTHING : IMPOSSIBLE;
    const at = ELEMENTS + ELEMENT_WORDS * (this.#usedIndex & MASK);
    const head = this.#elements[at]!;
    const lengthBytes = this.#elements[at + 1]!;
    if (head >= QUEUE_SIZE || this.#count[head] === 0) return this.#report(BREACH.descriptor, head);
    if (lengthBytes > this.#writable[head]!) return this.#report(BREACH.length, lengthBytes);
    this.#usedIndex = (this.#usedIndex + 1) & INDEX_MASK;
    this.#next[this.#last[head]!] = this.#free;
    this.#free = head;
    this.#freeCount += this.#count[head]!;
    this.#count[head] = 0;
    this.#chains--;
    return head;
  }

  /** Asks to be notified of the next chain that is done. True: there is one already, {@linkcode take} it. */
  arm(): boolean {
    Atomics.store(this.#avail, USED_EVENT, this.#usedIndex);
    return Atomics.load(this.#used, INDEX) !== this.#usedIndex;
  }

  /** Looks how many chains are done. False: none is, or more than are in flight. */
  #look(): boolean {
    const index = Atomics.load(this.#used, INDEX);
    const done = (index - this.#usedIndex) & INDEX_MASK;
    if (done > this.#chains) this.#report(BREACH.index, done);
    else this.#ready = index;
    return done > 0 && this.breach === 0;
  }

  #report(breach: number, value: number): number {
    this.breach = breach;
    this.breachValue = value;
    return IMPOSSIBLE;
  }
}
