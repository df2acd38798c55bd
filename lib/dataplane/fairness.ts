/**
 * Whose turn it is among the queues of one reactor: weighted fair queueing by virtual time. What a visit costs, in bytes
 * moved and a constant per request, puts off the time at which its queue is due again: by less, the larger its weight.
 * Guests share the reactor by the largest weight among their busy disks, and the rings of a guest share what it gets. Pure:
 * it reads no clock, and allocates nothing.
 */

/** The weight of a disk that was given none, as in a cgroup's io.weight. */
export const DEFAULT_WEIGHT = 100;
/** The smallest and the largest weight. */
export const LEAST_WEIGHT = 1;
export const MOST_WEIGHT = 1000;

/** A request costs as much as to move so many bytes, beside those that it moves. */
export const REQUEST_COST = 32 * 1024;
/**
 * A bad request or a failure costs so much more: a guest that sends only bad requests must cost its neighbours little.
 */
export const FAULT_COST = 512 * 1024;

/** What a queue that had nothing to do may save up, at the default weight: so many bytes are served ahead of others. */
const MOST_CREDIT = 256 * 1024;
/** Parts of a weight, so that the rings of a disk can share it. */
const PARTS = 64;

/** The weight of a disk, in memory that its reactors look at: a change holds from their next visit on. */
export class Weight {
  /** What its reactors read it from: one 32-bit word. */
  readonly memory: SharedArrayBuffer = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  readonly #words = new Int32Array(this.memory);

  /** Whole, from {@linkcode LEAST_WEIGHT} to {@linkcode MOST_WEIGHT}. */
  constructor(weight = DEFAULT_WEIGHT) {
    this.#words[0] = weight;
  }

  /** As it is now, from 1 to 1000. */
  get value(): number {
    return this.#words[0]!;
  }

  set value(weight: number) {
    Atomics.store(this.#words, 0, weight);
  }
}

/** What the busy rings of a guest weigh together, and the largest weight of their disks: as of the last round, and so far. */
export class GuestShare {
  parts = 0;
  weight = 0;
  nextParts = 0;
  nextWeight = 0;

  /** The guest is gone: it does not count in the round that ends next. */
  forget(): void {
    this.nextParts = this.nextWeight = 0;
  }
}

/** A queue's place in virtual time. */
export class QueueShare {
  /** When it is due. In memory of its own, since a property that is a double may be allocated anew with each change. */
  readonly due = new Float64Array(1);
  /** It was served, or waited, in this round. */
  isActive = false;
  readonly #weight: Int32Array;
  readonly #rings: number;

  /** `weight`: the memory of the disk's, shared by so many rings of it. */
  constructor(readonly guest: GuestShare, weight: SharedArrayBuffer, rings: number) {
    this.#weight = new Int32Array(weight);
    this.#rings = rings;
  }

  /** Of the disk. */
  get weight(): number {
    return this.#weight[0]!;
  }

  /** The ring's part of it. */
  get parts(): number {
    return Math.max(1, Math.floor(this.#weight[0]! * PARTS / this.#rings));
  }
}

const NOW = 0;
const EARLIEST = 1;

/** The virtual time of one reactor. */
export class Fairness {
  /** The present time, and the earliest one at which a queue that waits is due. */
  readonly #times = new Float64Array([0, Infinity]);
  /** Of all guests that were busy in the last round. */
  #weight = DEFAULT_WEIGHT;
  /** Those guests, and those that are in this round: so many of each list, which keep their memory. */
  #last: GuestShare[] = [];
  #lastCount = 0;
  #counted: GuestShare[] = [];
  #countedCount = 0;
  /** Something was done in this look. */
  #served = false;

  /** A queue is served now, before others that have got more. */
  isDue({ due }: QueueShare): boolean {
    return due[0]! <= this.#times[NOW]!;
  }

  /** A queue that has work was passed over. */
  waits(share: QueueShare): void {
    share.isActive = true;
    this.#times[EARLIEST] = Math.min(this.#times[EARLIEST]!, share.due[0]!);
  }

  /** A visit to the queue has cost so much. */
  charge(share: QueueShare, cost: number): void {
    const { guest, due } = share;
    const now = this.#times[NOW]!;
    const { weight, parts } = share;
    const saved = now - MOST_CREDIT;
    const perPart = DEFAULT_WEIGHT / Math.max(guest.weight, weight) * (Math.max(guest.parts, parts) / parts);
    due[0] = Math.max(due[0]!, saved) + cost * perPart;
    this.#times[NOW] = now + cost * DEFAULT_WEIGHT / this.#weight;
    share.isActive = this.#served = true;
  }

  /** Once per queue that is looked at and round, before {@linkcode endRound}. */
  count(share: QueueShare, isBusy: boolean): void {
    if (!share.isActive && !isBusy) return;
    share.isActive = false;
    const { guest, weight } = share;
    if (guest.nextParts === 0) this.#counted[this.#countedCount++] = guest;
    guest.nextParts += share.parts;
    if (weight > guest.nextWeight) guest.nextWeight = weight;
  }

  /** All queues were looked at that have something to do. The guests of the others cost nothing. */
  endRound(): void {
    const last = this.#last;
    for (let i = 0; i < this.#lastCount; i++) last[i]!.parts = last[i]!.weight = 0;
    const counted = this.#counted;
    let sum = 0;
    for (let i = 0; i < this.#countedCount; i++) {
      const share = counted[i]!;
      share.parts = share.nextParts;
      share.weight = share.nextWeight;
      share.nextParts = share.nextWeight = 0;
      sum += share.weight;
    }
    this.#last = counted;
    this.#lastCount = this.#countedCount;
    this.#counted = last;
    this.#countedCount = 0;
    this.#weight = Math.max(sum, LEAST_WEIGHT);
  }

  /** Queues are looked at from now on. */
  beginLook(): void {
    this.#times[EARLIEST] = Infinity;
    this.#served = false;
  }

  /** True: somebody waits. If nobody was served, time goes on to when the first of them is due. */
  endLook(): boolean {
    const earliest = this.#times[EARLIEST]!;
    if (earliest === Infinity) return false;
    if (!this.#served && earliest > this.#times[NOW]!) this.#times[NOW] = earliest;
    return true;
  }
}
