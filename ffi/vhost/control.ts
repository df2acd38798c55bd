/**
 * What the control plane and the channels of one disk tell each other, in shared words: whether the connection serves,
 * is lost or given up, which channel has which virtqueue, and what a daemon did that breaks the protocol.
 *
 * The control plane changes the phase, then raises the descriptors that wake the channels. A virtqueue's lease word says
 * how often the virtqueue was given away, and in its lowest two bits how many parts of a channel use it.
 */

import { XenblkError } from "../../lib/errors.ts";
import { BREACH } from "./virtqueue.ts";

/** What channels may do. */
export const PHASE = {
  /** Use their virtqueues. */
  serving: 0,
  /** Wait: the connection is lost. */
  lost: 1,
  /** Complete everything with an error. */
  failed: 2,
} as const;

/** In the lowest bits the phase, above them the epoch: a channel sees both at once. */
const STATE = 0;
const PHASE_BITS = 2;
const SOCKET = 1;
/** Of {@linkcode BREACH}, the virtqueue, and the value; written before the phase becomes `lost`. */
const BREACH_WORD = 2;
const BREACH_QUEUE = 3;
const BREACH_VALUE = 4;
const HEADER_WORDS = 5;
/** Words of a virtqueue: its lease, the epoch that its channel uses, and the lost epoch that it has let go of, plus 1. */
const QUEUE_WORDS = 3;

/** Lowest bits of a lease: users so far, then closed. A lease of 0 was never given away. */
const USERS = 3;
const CLOSED = 3;

/** The phase in a state; see {@linkcode PHASE}. */
export function phaseOf(state: number): number {
  return state & (1 << PHASE_BITS) - 1;
}

/** The epoch in a state: it counts connections, modulo 2^30. */
export function epochOf(state: number): number {
  return state >>> PHASE_BITS;
}

/** One thread's view of the words. */
export class DeviceControl {
  readonly #words: Int32Array;

  /** Memory for a disk with so many virtqueues. */
  static allocate(queues: number): SharedArrayBuffer {
    const memory = new SharedArrayBuffer((HEADER_WORDS + queues * QUEUE_WORDS) * Int32Array.BYTES_PER_ELEMENT);
    // None is given away.
    const words = new Int32Array(memory);
    for (let queue = 0; queue < queues; queue++) words[HEADER_WORDS + queue * QUEUE_WORDS] = CLOSED;
    return memory;
  }

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /** Phase and epoch, see {@linkcode phaseOf} and {@linkcode epochOf}. */
  get state(): number {
    return Atomics.load(this.#words, STATE);
  }

  get phase(): number {
    return phaseOf(this.state);
  }

  /** Counts connections: rings lie in the area of the epoch's parity. */
  get epoch(): number {
    return epochOf(this.state);
  }

  /** Connection number `epoch` serves. */
  serve(epoch: number): void {
    Atomics.store(this.#words, STATE, epoch << PHASE_BITS | PHASE.serving);
  }

  /** The disk is given up. */
  fail(): void {
    Atomics.store(this.#words, STATE, this.epoch << PHASE_BITS | PHASE.failed);
  }

  /** The connection's descriptor, the same for all connections of the disk. */
  get socket(): number {
    return Atomics.load(this.#words, SOCKET);
  }

  set socket(fd: number) {
    Atomics.store(this.#words, SOCKET, fd);
  }

  /** Makes the phase `lost` if it is `serving`. False: it is another one. */
  lose(): boolean {
    const { state } = this;
    const lost = epochOf(state) << PHASE_BITS | PHASE.lost;
    return phaseOf(state) === PHASE.serving && Atomics.compareExchange(this.#words, STATE, state, lost) === state;
  }

  /** A channel reports what the daemon did; like {@linkcode lose}. */
  accuse(queue: number, breach: number, value: number): boolean {
    if (this.phase !== PHASE.serving) return false;
    Atomics.store(this.#words, BREACH_QUEUE, queue);
    Atomics.store(this.#words, BREACH_VALUE, value);
    Atomics.store(this.#words, BREACH_WORD, breach);
    return this.lose();
  }

  /** What a channel has reported, for people, and forgets it. */
  takeAccusation(): string | undefined {
    const breach = Atomics.exchange(this.#words, BREACH_WORD, 0);
    const queue = Atomics.load(this.#words, BREACH_QUEUE);
    const value = Atomics.load(this.#words, BREACH_VALUE) >>> 0;
    const where = `it broke the rules of virtqueue ${queue}`;
    switch (breach) {
      case BREACH.index:
        return `${where}: it reports ${value} completions at once, more than there are requests`;
      case BREACH.descriptor:
        return `${where}: it reports the completion of descriptor ${value}, which begins no request`;
      case BREACH.length:
        return `${where}: it reports that it wrote ${value} bytes, more than the request has room for`;
      case BREACH.error:
        return "it reports an I/O error";
      default:
        return undefined;
    }
  }

  /** Whether a virtqueue can be given away, once it is stopped: it was closed, or never given away. */
  isClosed(queue: number): boolean {
    return (this.#lease(queue) & USERS) === CLOSED;
  }

  /** Whether a channel, or its memory, is open. */
  isUsed(queue: number): boolean {
    const users = this.#lease(queue) & USERS;
    return users !== CLOSED && users > 0;
  }

  /** Gives a closed virtqueue away. The result names this lease. */
  give(queue: number): number {
    const lease = ((this.#lease(queue) | USERS) + 1) | 0;
    Atomics.store(this.#words, this.#at(queue), lease);
    return lease;
  }

  /** Closes a virtqueue that was given away but not opened. False: it was opened, or is closed. */
  withdraw(queue: number): boolean {
    const lease = this.#lease(queue);
    return (lease & USERS) === 0 && this.#exchange(queue, lease, lease | CLOSED);
  }

  /** One more part of a channel uses the virtqueue, until disposed. Throws {@linkcode XenblkError} if the lease is over. */
  join(queue: number, lease: number, name: string): Disposable {
    for (;;) {
      const seen = this.#lease(queue);
      const users = seen & USERS;
      if (seen - users !== lease || users >= CLOSED - 1) {
        throw new XenblkError(
          `Cannot open an I/O channel to ${name}: the disk is closed, or another channel has its place`,
        );
      }
      if (this.#exchange(queue, seen, seen + 1)) return { [Symbol.dispose]: () => this.#leave(queue) };
    }
  }

  /** The epoch that the virtqueue's channel has followed to. */
  followed(queue: number): number {
    return Atomics.load(this.#words, this.#at(queue) + 1);
  }

  /** The virtqueue's channel uses the area of this epoch, and no longer looks at the other one. */
  follow(queue: number, epoch: number): void {
    Atomics.store(this.#words, this.#at(queue) + 1, epoch);
  }

  /** The channel takes no more completions of this epoch, which is lost, and its owner has dealt with the last. */
  pause(queue: number, epoch: number): void {
    Atomics.store(this.#words, this.#at(queue) + 2, epoch + 1);
  }

  /** Whether the channel has paused in the current epoch. */
  isPaused(queue: number): boolean {
    return Atomics.load(this.#words, this.#at(queue) + 2) === this.epoch + 1;
  }

  /** The last user closes the lease for ever. */
  #leave(queue: number): void {
    for (;;) {
      const seen = this.#lease(queue);
      if (this.#exchange(queue, seen, (seen & USERS) === 1 ? seen | CLOSED : seen - 1)) return;
    }
  }

  #lease(queue: number): number {
    return Atomics.load(this.#words, this.#at(queue));
  }

  #exchange(queue: number, before: number, after: number): boolean {
    return Atomics.compareExchange(this.#words, this.#at(queue), before, after) === before;
  }

  #at(queue: number): number {
    return HEADER_WORDS + queue * QUEUE_WORDS;
  }
}
