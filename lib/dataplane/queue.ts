/**
 * One ring's loop: the way of a request from the guest's ring to the disk and back, top to bottom in {@linkcode
 * Queue.step}. No threads, no clock, no waiting: a reactor (or a test) calls step() as long as it returns true, and
 * rest() before it sleeps. Nothing is allocated per request. It knows ring, grants and channel only by their interfaces.
 */

import { OP_INDIRECT, OP_READ, OP_WRITE_BARRIER, RING_BROKEN, STATUS_ERROR, STATUS_OKAY } from "../blkif/abi.ts";
import type { BackRing } from "../blkif/back_ring.ts";
import { decodeRequest, type RequestSlots } from "../blkif/request.ts";
import { type DiskLimits, refusalReason, validateRequest } from "../blkif/validate.ts";
import type { IoChannel } from "../storage/disk.ts";
import { errnoText } from "../storage/errno.ts";
import { Answers } from "./answers.ts";
import type { GrantStrategy, KeptGrants } from "./grants.ts";
import type { IndirectPages } from "./indirect_pages.ts";
import type { Journal } from "./journal.ts";
import type { QueueParts } from "./queue_parts.ts";
import { RequestIo } from "./request_io.ts";
import { NO_SLOT, PHASE_TAKEN, SlotStates } from "./slot_states.ts";
import { countRequest, STAT } from "./stats.ts";

/**
 * Bytes of finished reads after which a pass goes on to answer: a guest that has its first answers works, and asks for
 * more, while the other reads are still being copied to it.
 */
const READ_BYTES_PER_PASS = 128 * 1024;

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
  readonly #states: SlotStates;
  readonly #answers: Answers;
  readonly #io: RequestIo;
  /**
   * Slots taken, in the order of the ring; how many of them, from the first on, have room for their data; and how many
   * of those are started. All are 0 once every one is started, and no more are taken before.
   */
  readonly #taken: Uint16Array;
  #takenCount = 0;
  #acquiredCount = 0;
  #startedCount = 0;
  /** Completions that the channel handed over, and how many of them are dealt with. */
  #reapedCount = 0;
  #reapedDone = 0;
  /** The device's latch as it was when the pass began to take requests. */
  #latched = false;
  #state: QueueState = "serving";
  /** Why the ring was stopped, if it was. */
  #broken: string | undefined;
  #finalFlush = false;
  #limits: DiskLimits;

  constructor(parts: QueueParts) {
    this.label = parts.label;
    this.#parts = parts;
    this.#limits = parts.limits;
    this.#ring = parts.ring;
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#indirect = parts.indirect;
    this.#channel = parts.channel;
    this.#stats = new Float64Array(parts.stats);
    this.#journal = parts.journal;
    this.#replay = [...parts.replay ?? []].reverse();
    this.#states = new SlotStates(parts.slots.slots, this.#replay);
    this.#answers = new Answers(parts, this.#states, this.#stats);
    this.#io = new RequestIo(parts, this.#states, this.#answers);
    this.#taken = new Uint16Array(parts.slots.slots);
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
    return this.#states.inUse;
  }

  /** Mappings that the queue keeps while it has nothing to do, if its grant mode has any. */
  get keptGrants(): KeptGrants | undefined {
    return this.#grants.kept;
  }

  /** The disk has become larger. Requests that were judged before stay judged. */
  grow(sectors: number): void {
    this.#limits = { ...this.#limits, sectors };
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
    this.#answers.send(this.#broken !== undefined);
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
    if (this.#reapedDone === this.#reapedCount) {
      this.#reapedDone = 0;
      this.#reapedCount = this.#channel.reap();
    }
    const before = this.#reapedDone;
    const { tags, results } = this.#channel;
    for (let bytes = 0; this.#reapedDone < this.#reapedCount && bytes < READ_BYTES_PER_PASS; this.#reapedDone++) {
      const tag = tags[this.#reapedDone]!;
      const result = results[this.#reapedDone]!;
      if (this.#slots.operation[tag] === OP_READ) bytes += this.#slots.lengthBytes[tag]!;
      if (this.#finalFlush) this.#endDrain(result);
      else this.#io.advance(tag, result);
    }
    return this.#reapedDone - before;
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
      const slot = this.#states.take();
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
    while (this.#replay.length > 0 && this.#states.barrier === NO_SLOT && this.#indirect?.full !== true) {
      this.#decode(this.#replay.pop()!);
      taken++;
    }
    return taken;
  }

  #decode(slot: number): void {
    decodeRequest(this.#journal.snapshot, this.#journal.requestAt(slot), this.#parts.abi, this.#slots, slot);
    this.#states.phase[slot] = PHASE_TAKEN;
    this.#taken[this.#takenCount++] = slot;
    this.#admit(slot);
  }

  #mayTake(): boolean {
    return this.#state === "serving" && this.#states.anyFree && this.#states.barrier === NO_SLOT &&
      this.#broken === undefined && this.#indirect?.full !== true;
  }

  #admit(slot: number): void {
    const status = validateRequest(this.#slots, slot, this.#limits);
    if (status !== STATUS_OKAY) return this.#refuse(slot, status);
    const operation = this.#slots.operation[slot]!;
    if (operation === OP_INDIRECT) return this.#indirect!.add(slot);
    countRequest(this.#stats, operation, status);
    if (operation !== OP_READ && this.#latched) return this.#io.refuseLatched(slot);
    if (operation === OP_WRITE_BARRIER) this.#states.barrier = slot;
    this.#grants.failed[slot] = 0;
  }

  #refuse(slot: number, status: number): void {
    countRequest(this.#stats, this.#slots.responseOperation[slot]!, status);
    this.#parts.complain(refusalReason(this.#slots, slot, this.#limits));
    this.#answers.add(slot, status);
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
    this.#io.failGrants(slot);
  }

  // Room for what the requests carry, in the order of the ring: one that finds none keeps those behind it waiting.
  #acquire(): number {
    const before = this.#acquiredCount;
    for (; this.#acquiredCount < this.#takenCount; this.#acquiredCount++) {
      const slot = this.#taken[this.#acquiredCount]!;
      if (this.#states.phase[slot] !== PHASE_TAKEN || this.#slots.lengthBytes[slot] === 0) continue;
      if (!this.#grants.acquire(slot)) break;
    }
    return this.#acquiredCount - before;
  }

  // Slots to engine. A barrier starts when it is alone.
  #start(): void {
    for (; this.#startedCount < this.#acquiredCount; this.#startedCount++) {
      const slot = this.#taken[this.#startedCount]!;
      if (this.#states.phase[slot] !== PHASE_TAKEN) continue; // it was refused
      if (this.#grants.failed[slot] === 1) this.#io.failGrants(slot);
      else if (slot !== this.#states.barrier) this.#io.start(slot);
    }
    if (this.#startedCount < this.#takenCount) return;
    this.#takenCount = this.#acquiredCount = this.#startedCount = 0;
    const barrier = this.#states.barrier;
    if (barrier !== NO_SLOT && this.#states.phase[barrier] === PHASE_TAKEN && this.#isAlone()) this.#io.start(barrier);
  }

  /**
   * Whether every request before the barrier is finished. Those answered later in this pass count as finished; those
   * still to be taken again after a crash come behind it.
   */
  #isAlone(): boolean {
    return this.inFlight - this.#replay.length - this.#answers.count === 1;
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
      this.#parts.complain(`the last flush failed: ${errnoText(result)}: answered writes may be lost`);
    }
    this.#finalFlush = false;
    this.#state = "drained";
  }
}
