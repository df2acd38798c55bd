/**
 * One ring's loop: the way of a request from the guest's ring to the disk and back, top to bottom in {@linkcode
 * Queue.step}. No threads, no clock, no waiting: a reactor (or a test) calls step() as long as it returns true, and
 * rest() before it sleeps. Nothing is allocated per request. It knows ring, grants and channel only by their interfaces.
 */

import {
  type AbiLayout,
  OP_DISCARD,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  RING_BROKEN,
  SECTOR_SIZE_BYTES,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import type { BackRing } from "../blkif/back_ring.ts";
import { decodeRequest, type RequestSlots } from "../blkif/request.ts";
import { type DiskLimits, isSecureDiscard, operationName, refusalReason, validateRequest } from "../blkif/validate.ts";
import { EOPNOTSUPP, type IoChannel } from "../storage/disk.ts";
import type { GrantStrategy, KeptGrants } from "./grants.ts";
import type { IndirectPages } from "./indirect_pages.ts";
import type { Journal } from "./journal.ts";
import type { Latch } from "./latch.ts";
import { countRequest, countSectors, STAT } from "./stats.ts";

/** What a slot waits for. A free slot has no phase: it is on the free list. */
const PHASE_TAKEN = 1; // for room, for transfer() to fetch its data, then for start()
const PHASE_FLUSH_BEFORE = 2; // for the flush that precedes its data
const PHASE_DATA = 3; // for its read, write or discard
const PHASE_FLUSH_AFTER = 4; // for the flush that follows a barrier's data
const PHASE_FINISHED = 5; // for its response

const NO_SLOT = -1;

/** What a queue is made of; it owns grants, indirect and channel and disposes them. */
export interface QueueParts {
  /** For messages: `vbd3/5/51712 queue 0`. */
  readonly label: string;
  readonly ring: BackRing;
  readonly abi: AbiLayout;
  readonly slots: RequestSlots;
  readonly grants: GrantStrategy;
  /** Absent: the slots have no indirect segments. */
  readonly indirect?: IndirectPages;
  readonly channel: IoChannel;
  readonly limits: DiskLimits;
  /** Holds each request as it was on the ring until it is answered: nothing is ever decoded from the ring (XSA-155). */
  readonly journal: Journal;
  /** Slots with requests that a crashed process took and did not answer, oldest first. */
  readonly replay?: readonly number[];
  /** The counters' memory; see stats.ts. */
  readonly stats: SharedArrayBuffer;
  /** The device's, for all of its queues. */
  readonly latch: Latch;
  /** Tells the frontend to look at the ring. */
  readonly notify: () => void;
  /** Says what went wrong with a guest's request or its I/O; rate-limited by whoever gave it. */
  readonly complain: (line: string) => void;
}

/** Where a queue is in its life. */
export type QueueState =
  /** Takes requests. */
  | "serving"
  /** Takes no more and finishes what is in flight; then flushes. */
  | "draining"
  /** Nothing in flight, all durable: may be disposed. */
  | "drained";

/** One ring of one device; see the file's first lines. */
export class Queue implements Disposable {
  readonly label: string;
  readonly #parts: QueueParts;
  readonly #ring: BackRing;
  readonly #slots: RequestSlots;
  readonly #grants: GrantStrategy;
  readonly #indirect: IndirectPages | undefined;
  readonly #channel: IoChannel;
  readonly #stats: Float64Array;
  readonly #journal: Journal;
  /** What is still to be taken again after a crash, the next one last. */
  readonly #replay: number[];
  readonly #phase: Uint8Array;
  readonly #status: Int8Array;
  readonly #free: Uint16Array;
  #freeCount: number;
  /**
   * Slots taken, in the order of the ring; how many of them, from the first on, have room for their data; and how many
   * of those are started. All are 0 once every one is started, and no more are taken before.
   */
  readonly #taken: Uint16Array;
  #takenCount = 0;
  #acquiredCount = 0;
  #startedCount = 0;
  /** Slots to be answered in this pass. */
  readonly #finished: Uint16Array;
  #finishedCount = 0;
  /** A barrier that waits for earlier requests, or is carried out. Nothing is taken behind it. */
  #barrier = NO_SLOT;
  /** The device's latch as it was when the pass began to take requests. */
  #latched = false;
  #state: QueueState = "serving";
  /** Why the ring was stopped, if it was. */
  #broken: string | undefined;
  #finalFlush = false;

  constructor(parts: QueueParts) {
    this.label = parts.label;
    this.#parts = parts;
    this.#ring = parts.ring;
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#indirect = parts.indirect;
    this.#channel = parts.channel;
    this.#stats = new Float64Array(parts.stats);
    this.#journal = parts.journal;
    this.#replay = [...parts.replay ?? []].reverse();
    const count = parts.slots.slots;
    this.#phase = new Uint8Array(count);
    this.#status = new Int8Array(count);
    this.#free = new Uint16Array(count);
    this.#freeCount = 0;
    for (let slot = count - 1; slot >= 0; slot--) {
      if (!this.#replay.includes(slot)) this.#free[this.#freeCount++] = slot;
    }
    this.#taken = new Uint16Array(count);
    this.#finished = new Uint16Array(count);
  }

  get state(): QueueState {
    return this.#state;
  }

  /** The reason if the frontend broke the ring; the queue then answers nothing more. */
  get broken(): string | undefined {
    return this.#broken;
  }

  /** Requests taken and not yet answered. */
  get inFlight(): number {
    return this.#slots.slots - this.#freeCount;
  }

  /** Mappings that the queue keeps while it has nothing to do, if its grant mode has any. */
  get keptGrants(): KeptGrants | undefined {
    return this.#grants.kept;
  }

  /** One pass along the way of a request. True: there may be more to do at once. */
  step(): boolean {
    this.#stats[STAT.passes]!++;
    const reaped = this.#reap();
    const taken = this.#take();
    this.#fetchSegments();
    const acquired = this.#acquire();
    this.#grants.transfer();
    this.#start();
    this.#channel.submit();
    this.#respond();
    this.#stats[STAT.inFlight] = this.inFlight;
    const flushing = this.#state === "draining" && this.#drain();
    // Behind a request that found room and failed at once there is room that no completion will tell of.
    return reaped > 0 || taken > 0 || (acquired > 0 && this.#takenCount > 0) || flushing;
  }

  /**
   * Before sleeping: asks the frontend to notify from the next request on. True: there is one already, step again.
   * A queue that cannot take (no free slot, no room, a barrier, draining) is woken by its completions instead.
   */
  rest(): boolean {
    if (!this.#mayTake() || this.#takenCount > 0) return false;
    return this.#ring.finalCheck();
  }

  /** Takes no more requests from now on; step() until {@linkcode state} is `drained`. */
  drain(): void {
    if (this.#state === "serving") this.#state = "draining";
  }

  [Symbol.dispose](): void {
    this.#channel[Symbol.dispose]();
    this.#indirect?.[Symbol.dispose]();
    this.#grants[Symbol.dispose]();
  }

  // Engine completions: each slot goes on to its next phase, or is finished.
  #reap(): number {
    const count = this.#channel.reap();
    const { tags, results } = this.#channel;
    for (let i = 0; i < count; i++) {
      if (this.#finalFlush) this.#endDrain(results[i]!);
      else this.#advance(tags[i]!, results[i]!);
    }
    return count;
  }

  #advance(slot: number, result: number): void {
    const phase = this.#phase[slot]!;
    if (result < 0) {
      this.#failed(slot, phase, result);
    } else if (phase !== PHASE_DATA && this.#parts.latch.tripped) {
      // The kernel tells one flush of a failure: that another one succeeds since says nothing of the same data.
      this.#complainLatched(slot);
      this.#finish(slot, STATUS_ERROR);
    } else if (phase === PHASE_FLUSH_BEFORE && this.#slots.lengthBytes[slot] !== 0) {
      this.#startData(slot);
    } else if (phase === PHASE_DATA && this.#slots.operation[slot] === OP_WRITE_BARRIER) {
      this.#startFlush(slot, PHASE_FLUSH_AFTER);
    } else {
      this.#finish(slot, STATUS_OKAY);
    }
  }

  #failed(slot: number, phase: number, errno: number): void {
    if (phase !== PHASE_DATA) this.#parts.latch.trip();
    this.#parts.complain(
      `${operationName(this.#slots.operation[slot]!)} at sector ${
        this.#slots.offsetBytes[slot]! / SECTOR_SIZE_BYTES
      }: ` +
        (phase === PHASE_DATA ? "I/O" : "flush") + ` failed with errno ${-errno}` +
        (phase === PHASE_DATA ? "" : "; writes are refused from now on: check the image's storage, then reattach"),
    );
    this.#finish(slot, errno === EOPNOTSUPP ? STATUS_EOPNOTSUPP : STATUS_ERROR);
  }

  // Ring to slots: copy, decode, validate.
  #take(): number {
    if (this.#takenCount > 0) return 0; // they wait for room, and come first
    this.#latched = this.#parts.latch.tripped;
    if (this.#replay.length > 0) return this.#takeAgain();
    let available = this.#mayTake() ? this.#ring.unconsumed() : 0;
    if (available === RING_BROKEN) {
      this.#break();
      return 0;
    }
    let taken = 0;
    while (available > 0 && this.#mayTake()) {
      const slot = this.#free[--this.#freeCount]!;
      const index = this.#ring.requestConsumer;
      this.#ring.take(this.#journal.snapshot.u8, this.#journal.requestAt(slot));
      this.#journal.taken(slot, index);
      this.#decode(slot);
      taken++;
      available--;
    }
    if (taken > 0) this.#journal.consumed(this.#ring.requestConsumer);
    return taken;
  }

  // After a crash: what the last process had taken, from the journal in place of the ring.
  #takeAgain(): number {
    let taken = 0;
    while (this.#replay.length > 0 && this.#barrier === NO_SLOT && this.#indirect?.full !== true) {
      this.#decode(this.#replay.pop()!);
      taken++;
    }
    return taken;
  }

  #decode(slot: number): void {
    decodeRequest(this.#journal.snapshot, this.#journal.requestAt(slot), this.#parts.abi, this.#slots, slot);
    this.#phase[slot] = PHASE_TAKEN;
    this.#taken[this.#takenCount++] = slot;
    this.#admit(slot);
  }

  #mayTake(): boolean {
    return this.#state === "serving" && this.#freeCount > 0 && this.#barrier === NO_SLOT &&
      this.#broken === undefined && this.#indirect?.full !== true;
  }

  #admit(slot: number): void {
    const status = validateRequest(this.#slots, slot, this.#parts.limits);
    if (status !== STATUS_OKAY) return this.#refuse(slot, status);
    const operation = this.#slots.operation[slot]!;
    if (operation === OP_INDIRECT) return this.#indirect!.add(slot);
    countRequest(this.#stats, operation, status);
    if (operation !== OP_READ && this.#latched) return this.#refuseLatched(slot);
    if (operation === OP_WRITE_BARRIER) this.#barrier = slot;
    this.#grants.failed[slot] = 0;
  }

  #refuse(slot: number, status: number): void {
    countRequest(this.#stats, this.#slots.responseOperation[slot]!, status);
    this.#parts.complain(refusalReason(this.#slots, slot, this.#parts.limits));
    this.#answer(slot, status);
  }

  #refuseLatched(slot: number): void {
    this.#complainLatched(slot);
    this.#answer(slot, STATUS_ERROR);
  }

  #complainLatched(slot: number): void {
    this.#parts.complain(
      `${operationName(this.#slots.operation[slot]!)} refused: an earlier flush of this disk failed`,
    );
  }

  // Indirect requests become reads and writes: their segments are fetched in one call, and then judged.
  #fetchSegments(): void {
    const indirect = this.#indirect;
    if (indirect === undefined || indirect.count === 0) return;
    indirect.fetch();
    for (let i = 0; i < indirect.count; i++) {
      const slot = indirect.slot(i);
      if (indirect.decode(i)) this.#admit(slot);
      else this.#refuseIndirect(slot);
    }
    indirect.clear();
  }

  #refuseIndirect(slot: number): void {
    countRequest(this.#stats, this.#slots.responseOperation[slot]!, STATUS_ERROR);
    this.#failGrants(slot);
  }

  // Room for what the requests carry, in the order of the ring: one that finds none keeps those behind it waiting.
  #acquire(): number {
    const before = this.#acquiredCount;
    for (; this.#acquiredCount < this.#takenCount; this.#acquiredCount++) {
      const slot = this.#taken[this.#acquiredCount]!;
      if (this.#phase[slot] !== PHASE_TAKEN || this.#slots.lengthBytes[slot] === 0) continue;
      if (!this.#grants.acquire(slot)) break;
    }
    return this.#acquiredCount - before;
  }

  // Slots to engine. A barrier starts when it is alone.
  #start(): void {
    for (; this.#startedCount < this.#acquiredCount; this.#startedCount++) {
      const slot = this.#taken[this.#startedCount]!;
      if (this.#phase[slot] !== PHASE_TAKEN) continue; // it was refused
      if (this.#grants.failed[slot] === 1) this.#failGrants(slot);
      else if (slot !== this.#barrier) this.#startFirst(slot);
    }
    if (this.#startedCount < this.#takenCount) return;
    this.#takenCount = this.#acquiredCount = this.#startedCount = 0;
    const barrier = this.#barrier;
    if (barrier !== NO_SLOT && this.#phase[barrier] === PHASE_TAKEN && this.#isAlone()) this.#startFirst(barrier);
  }

  /**
   * Whether every request before the barrier is finished. Those answered later in this pass count as finished; those
   * still to be taken again after a crash come behind it.
   */
  #isAlone(): boolean {
    return this.inFlight - this.#replay.length - this.#finishedCount === 1;
  }

  #startFirst(slot: number): void {
    const operation = this.#slots.operation[slot]!;
    if (operation === OP_READ || operation === OP_WRITE) this.#startData(slot);
    else if (operation === OP_DISCARD) this.#startDiscard(slot);
    else this.#startFlush(slot, PHASE_FLUSH_BEFORE);
  }

  #startData(slot: number): void {
    this.#phase[slot] = PHASE_DATA;
    const first = slot * this.#slots.maxSegments;
    const count = this.#grants.vectorCount[slot]!;
    const offsetBytes = this.#slots.offsetBytes[slot]!;
    if (this.#slots.operation[slot] === OP_READ) this.#channel.read(slot, offsetBytes, first, count);
    else this.#channel.write(slot, offsetBytes, first, count);
  }

  #startDiscard(slot: number): void {
    const lengthBytes = this.#slots.discardBytes[slot]!;
    if (lengthBytes === 0) return this.#finish(slot, STATUS_OKAY); // less than a granule
    this.#phase[slot] = PHASE_DATA;
    const secure = isSecureDiscard(this.#slots, slot, this.#parts.limits);
    this.#channel.discard(slot, this.#slots.offsetBytes[slot]!, lengthBytes, secure);
  }

  #startFlush(slot: number, phase: number): void {
    this.#phase[slot] = phase;
    this.#channel.flush(slot);
  }

  #failGrants(slot: number): void {
    this.#parts.complain(
      `${operationName(this.#slots.operation[slot]!)}: a grant reference is not usable (revoked, foreign or read-only)`,
    );
    if (this.#slots.lengthBytes[slot] !== 0) this.#grants.release(slot, false);
    this.#answer(slot, STATUS_ERROR);
  }

  // I/O is over: the data goes back to the guest (with the next transfer), then the response.
  #finish(slot: number, status: number): void {
    if (this.#slots.lengthBytes[slot] !== 0) this.#grants.release(slot, status === STATUS_OKAY);
    this.#answer(slot, status);
  }

  #answer(slot: number, status: number): void {
    this.#phase[slot] = PHASE_FINISHED;
    this.#status[slot] = status;
    this.#finished[this.#finishedCount++] = slot;
  }

  // Responses, in one push with at most one notification. Storing rsp_prod commits them: a crash before it takes them
  // all back, for the next process to answer.
  #respond(): void {
    const count = this.#finishedCount;
    if (count === 0) return;
    this.#journal.committing(this.#ring.responseProducer + count);
    for (let i = 0; i < count; i++) this.#putResponse(this.#finished[i]!);
    this.#finishedCount = 0;
    if (this.#broken !== undefined) return;
    const wanted = this.#ring.push();
    this.#journal.committed(this.#ring.responseProducer);
    if (wanted) {
      this.#stats[STAT.notificationsSent]!++;
      this.#parts.notify();
    } else {
      this.#stats[STAT.notificationsSaved]!++;
    }
  }

  #putResponse(slot: number): void {
    const slots = this.#slots;
    let status = this.#status[slot]!;
    if (status === STATUS_OKAY && this.#grants.failed[slot] === 1) {
      this.#parts.complain(`${operationName(slots.operation[slot]!)}: the guest's pages could not be given back`);
      status = STATUS_ERROR;
    }
    const operation = slots.responseOperation[slot]!;
    if (status === STATUS_ERROR) this.#stats[STAT.errors]!++;
    else if (status === STATUS_OKAY) this.#countSectors(slot, operation);
    if (this.#broken === undefined) {
      this.#journal.answering(slot, this.#ring.responseProducer);
      this.#ring.putResponse(slots.idLow[slot]!, slots.idHigh[slot]!, operation, status);
    }
    if (slot === this.#barrier) this.#barrier = NO_SLOT;
    this.#free[this.#freeCount++] = slot;
  }

  #countSectors(slot: number, operation: number): void {
    const bytes = operation === OP_DISCARD ? this.#slots.discardBytes[slot]! : this.#slots.lengthBytes[slot]!;
    countSectors(this.#stats, operation, bytes / SECTOR_SIZE_BYTES);
  }

  #break(): void {
    this.#broken = "the frontend's request producer index is impossible (more requests than the ring has slots)";
    this.drain();
  }

  // Draining: once nothing is in flight, one flush makes all that was answered durable.
  #drain(): boolean {
    if (this.inFlight > 0 || this.#finalFlush) return false;
    if (this.#parts.limits.readOnly) {
      this.#state = "drained";
      return false;
    }
    this.#finalFlush = true;
    this.#channel.flush(0);
    this.#channel.submit();
    return true;
  }

  #endDrain(result: number): void {
    if (result < 0) {
      this.#parts.latch.trip();
      this.#parts.complain(`the last flush failed with errno ${-result}: answered writes may be lost`);
    }
    this.#finalFlush = false;
    this.#state = "drained";
  }
}
