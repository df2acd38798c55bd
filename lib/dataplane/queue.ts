/**
 * One ring's loop: {@linkcode Queue.step} makes one pass over all requests in flight. It decides when a request makes
 * its next step, and in which order; the steps themselves are in request_steps.ts. It has no thread and never
 * waits: a reactor (or a test) calls step() until it returns false, settle() after the last of several passes, and rest()
 * before it sleeps.
 */

import { OP_READ, RING_BROKEN } from "../blkif/abi.ts";
import type { BackRing } from "../blkif/back_ring.ts";
import type { IoChannel } from "../storage/disk.ts";
import { errnoText } from "../storage/errno.ts";
import { REQUEST_COST } from "./fairness.ts";
import type { GrantStrategy, KeptGrants } from "./grants/strategy.ts";
import type { IndirectPages } from "./indirect_pages.ts";
import { type Gate, SOME_WITHOUT_DATA } from "./limiter.ts";
import { type QueueParts, RequestSteps } from "./request_steps.ts";
import type { RequestTimes } from "./request_times.ts";
import { NO_SLOT, PHASE_TAKEN, type SlotTable } from "./slot_table.ts";
import { STAT } from "./stats.ts";

/**
 * After so many bytes of finished reads a pass goes on to answer: the guest gets its first answers, and sends more
 * requests, while other reads are still being copied to it.
 */
const READ_BYTES_PER_PASS = 128 * 1024;
/**
 * After so many bytes of finished reads and started requests a pass starts no more: reads from the page cache and writes
 * are carried out in the reactor's thread, and other guests wait for that.
 */
const BYTES_PER_PASS = 256 * 1024;
/** A barrier's two flushes. */
const BARRIER_COST = 2 * REQUEST_COST;
/** No ring has more. */
const MOST_SLOTS = 512;

/** Where a queue is in its life. */
export type QueueState =
  /** Takes requests. */
  | "serving"
  /** Takes no more, finishes what is in flight, then flushes. */
  | "draining"
  /** Nothing is in flight and everything is durable: the queue may be disposed. */
  | "drained";

/** Serves one ring of one device. */
export class Queue implements Disposable {
  /** Bytes of the reads that the last pass finished and the requests that it started. */
  movedBytes = 0;
  /** Bytes of the requests that got room in the last pass, or {@linkcode SOME_WITHOUT_DATA}. */
  #dataBytes = 0;
  /** What the last pass cost: see fairness.ts. */
  cost = 0;
  readonly #parts: QueueParts;
  readonly #ring: BackRing;
  readonly #slots: SlotTable;
  readonly #grants: GrantStrategy;
  #channel: IoChannel;
  #gate: Gate | undefined;
  readonly #indirect: IndirectPages | undefined;
  readonly #stats: Float64Array;
  readonly #steps: RequestSteps;
  readonly #times: RequestTimes;
  /** The channel that handed over completions, and how many of them are dealt with. */
  #reaped: IoChannel;
  #reapedCount = 0;
  #reapedDone = 0;
  #state: QueueState = "serving";
  /** Why the ring was stopped, if it was. */
  #broken: string | undefined;
  #finalFlush = false;
  #paused = false;
  /** Once paused and idle, it flushes. */
  #wantsFlush = false;

  constructor(parts: QueueParts) {
    this.#parts = parts;
    this.#ring = parts.ring;
    this.#slots = parts.slots;
    this.#grants = parts.grants;
    this.#channel = this.#reaped = parts.channel;
    this.#gate = parts.gate;
    this.#indirect = parts.indirect;
    this.#stats = new Float64Array(parts.stats);
    this.#steps = new RequestSteps(parts);
    this.#times = parts.times;
  }

  get state(): QueueState {
    return this.#state;
  }

  /** From now on operations go there, between two passes. The channel completes what is in flight, too. */
  set way({ channel, gate }: Pick<QueueParts, "channel" | "gate">) {
    this.#channel = this.#steps.channel = channel;
    this.#gate = gate;
  }

  /** The reason if the frontend broke the ring; the queue then answers nothing more. */
  get broken(): string | undefined {
    return this.#broken;
  }

  /** Requests taken and not yet answered. */
  get inFlight(): number {
    return this.#slots.inUse;
  }

  /** Requests taken and not yet answered, and those on the ring. */
  get unanswered(): number {
    return this.inFlight + Math.max(0, this.#ring.unconsumed());
  }

  /** Mappings that the queue keeps between requests, if its grant mode keeps any. */
  get keptGrants(): KeptGrants | undefined {
    return this.#grants.kept;
  }

  /** There are mappings or buffers that are released when they are not used for long. */
  get keepsMemory(): boolean {
    return (this.#grants.kept?.count ?? 0) > 0 || (this.#grants.bufferedBytes ?? 0) > 0;
  }

  /** Releases those that were not used since the last round of calls. True: there is more, call again. */
  releaseIdle(): boolean {
    if (this.#grants.kept?.releaseIdle()) return true;
    this.#grants.releaseBuffers?.();
    return false;
  }

  /** The disk has become larger. Requests that were validated before keep their verdict. */
  grow(sectors: number): void {
    this.#steps.grow(sectors);
  }

  /** There is a request on the ring that can be taken now; or the ring is broken, which a pass finds out. */
  get hasRequest(): boolean {
    return this.#slots.takenCount === 0 && this.#mayTake() && this.#ring.unconsumed() !== 0;
  }

  /**
   * One pass: every request that can makes its next step. Takes `most` new ones at most. True: call again, there may be
   * more to do at once.
   */
  step(most = MOST_SLOTS): boolean {
    this.#stats[STAT.passes]!++;
    const reaped = this.#reap();
    const taken = this.#take(most);
    this.#steps.fetchSegments();
    const acquired = this.#acquire();
    this.#grants.transfer();
    if (this.#gate !== undefined && acquired > 0) this.#passGate(this.#gate, acquired);
    this.#start(acquired);
    this.#channel.submit();
    const isEmpty = reaped === 0 && taken === 0 && acquired === 0;
    if (!isEmpty || this.#slots.finishedCount > 0) {
      this.#times.beginAnswering();
      this.#steps.answer(this.#broken !== undefined);
    }
    // Not in answer(): the compiler would inline this there, and have no room left for what each request needs.
    if (this.inFlight === 0) this.#times.idle();
    this.#stats[STAT.inFlight] = this.inFlight;
    const flushing = (this.#state === "draining" || this.#wantsFlush) && this.#flushLast();
    // What was started may be complete already, and a request that failed at once has left room behind: nothing announces
    // either.
    return !isEmpty || flushing;
  }

  /**
   * Before sleeping: asks the frontend to notify us of its next request. True: there is one already, step again.
   * A queue that cannot take requests (no free slot, no room, a barrier, draining) needs no notification: a completion
   * of its own wakes it.
   */
  rest(): boolean {
    this.settle();
    if (!this.#mayTake() || this.#slots.takenCount > 0) return false;
    return this.#ring.finalCheck();
  }

  /** After the last pass of a visit: records how long the requests took that it answered. */
  settle(): void {
    this.#times.settle();
  }

  /** The reactor has slept, or visited other queues, since the last pass. */
  interrupted(): void {
    this.#times.interrupted();
  }

  /** Takes no more requests from now on; call step() until {@linkcode state} is `drained`. */
  drain(): void {
    if (this.#state === "serving") this.#state = "draining";
  }

  /** Takes no more requests until {@linkcode resume}; those in flight are finished, and then, if asked for, flushed. */
  pause(flush = false): void {
    this.#paused = true;
    this.#wantsFlush = flush;
  }

  /** Takes requests again: call step(). */
  resume(): void {
    this.#paused = false;
    this.#wantsFlush = false;
  }

  /** Nothing is in flight, no flush either, and none is due. */
  get isQuiet(): boolean {
    return this.inFlight === 0 && !this.#finalFlush && !this.#wantsFlush;
  }

  /** It is to flush once nothing is in flight, or does: no request counts for that. */
  get isEnding(): boolean {
    return this.#state === "draining" || this.#finalFlush || this.#wantsFlush;
  }

  [Symbol.dispose](): void {
    this.#times[Symbol.dispose]();
    this.#channel[Symbol.dispose]();
    this.#indirect?.[Symbol.dispose]();
    this.#grants[Symbol.dispose]();
  }

  /** Advances the requests that the engine has completed something for. */
  #reap(): number {
    if (this.#reapedDone === this.#reapedCount) {
      this.#reapedDone = 0;
      this.#reaped = this.#channel;
      this.#reapedCount = this.#channel.reap();
    }
    const before = this.#reapedDone;
    const { tags, results } = this.#reaped;
    const { operation, lengthBytes } = this.#slots;
    let bytes = 0;
    for (; this.#reapedDone < this.#reapedCount && bytes < READ_BYTES_PER_PASS; this.#reapedDone++) {
      const slot = tags[this.#reapedDone]!;
      const result = results[this.#reapedDone]!;
      if (operation[slot] === OP_READ) bytes += lengthBytes[slot]!;
      if (this.#finalFlush) this.#endLastFlush(result);
      else this.#steps.advance(slot, result);
    }
    this.cost = this.movedBytes = bytes;
    return this.#reapedDone - before;
  }

  /** Takes requests off the ring, as many as there are slots for. */
  #take(most: number): number {
    if (this.#slots.takenCount > 0) return 0; // those that wait for room come first
    if (this.#slots.replay.length > 0) return this.#takeAgain();
    let available = this.#mayTake() ? this.#ring.unconsumed() : 0;
    if (available === RING_BROKEN) {
      this.#break();
      return 0;
    }
    if (available > most) available = most;
    if (available > 0) this.#times.beginTaking();
    let taken = 0;
    while (available > 0 && this.#hasRoom()) {
      this.#steps.take();
      taken++;
      available--;
    }
    if (taken > 0) {
      this.#times.taken(this.#slots, taken);
      this.#parts.journal.consumed(this.#ring.requestConsumer);
      this.cost += taken * REQUEST_COST;
    }
    return taken;
  }

  /** After a crash: takes what the last process left unanswered, from the journal instead of the ring. */
  #takeAgain(): number {
    const { replay } = this.#slots;
    this.#times.beginTaking();
    let taken = 0;
    while (replay.length > 0 && this.#slots.barrier === NO_SLOT && this.#indirect?.full !== true) {
      this.#steps.admit(replay.pop()!);
      taken++;
    }
    this.#times.taken(this.#slots, taken);
    return taken;
  }

  #mayTake(): boolean {
    const mayTake = this.#state === "serving" && !this.#paused && !this.#finalFlush;
    return mayTake && this.#broken === undefined && this.#hasRoom();
  }

  /** One more request can be taken. */
  #hasRoom(): boolean {
    return this.#slots.anyFree && this.#slots.barrier === NO_SLOT && this.#indirect?.full !== true;
  }

  /**
   * Gets room for the requests' data, in the order of the ring: one that finds none keeps those behind it waiting. Goes on
   * until the pass has moved its bytes.
   */
  #acquire(): number {
    const slots = this.#slots;
    const { taken, takenCount, acquiredCount, phase, lengthBytes } = slots;
    let leftBytes = BYTES_PER_PASS - this.movedBytes;
    let next = acquiredCount;
    let allHaveData = true;
    for (; next < takenCount && leftBytes > 0; next++) {
      const slot = taken[next]!;
      const isRefused = phase[slot] !== PHASE_TAKEN;
      if (!isRefused && !this.#steps.acquire(slot)) break;
      const length = lengthBytes[slot]!;
      if (isRefused || length === 0) allHaveData = false;
      leftBytes -= length;
    }
    const acquiredBytes = BYTES_PER_PASS - leftBytes - this.movedBytes;
    this.#dataBytes = allHaveData ? acquiredBytes : SOME_WITHOUT_DATA;
    this.cost += acquiredBytes;
    this.movedBytes = BYTES_PER_PASS - leftBytes;
    slots.acquiredCount = next;
    return next - acquiredCount;
  }

  /** Where the requests go that got room in this pass, with all their later steps: a barrier keeps others from coming. */
  #passGate(gate: Gate, acquired: number): void {
    const { acquiredCount } = this.#slots;
    const channel = gate.open(this.#slots, acquiredCount - acquired, acquiredCount, this.#dataBytes);
    if (channel !== this.#steps.channel) this.#steps.channel = channel;
    if (gate.channel !== this.#channel) this.#channel = gate.channel;
  }

  /** Starts the requests that got room in this pass. A barrier starts once it is alone. */
  #start(acquired: number): void {
    const slots = this.#slots;
    for (let i = slots.acquiredCount - acquired; i < slots.acquiredCount; i++) {
      const slot = slots.taken[i]!;
      if (slots.phase[slot] !== PHASE_TAKEN) continue; // it was refused
      if (slot !== slots.barrier) this.#steps.start(slot);
    }
    if (slots.acquiredCount < slots.takenCount) return;
    slots.takenCount = slots.acquiredCount = 0;
    const { barrier } = slots;
    if (barrier === NO_SLOT || slots.phase[barrier] !== PHASE_TAKEN || !this.#isAlone()) return;
    this.#steps.start(barrier);
    this.cost += BARRIER_COST;
  }

  /**
   * Whether every request before the barrier is finished. Those that are answered later in this pass count as finished;
   * those that are still to be replayed come after it.
   */
  #isAlone(): boolean {
    return this.inFlight - this.#slots.replay.length - this.#slots.finishedCount === 1;
  }

  #break(): void {
    this.#broken = "the frontend's request producer index is impossible (more requests than the ring has slots)";
    this.drain();
  }

  /** Once nothing is in flight, one flush makes everything that was answered durable. */
  #flushLast(): boolean {
    if (this.inFlight > 0 || this.#finalFlush) return false;
    if (this.#parts.limits.readOnly) {
      this.#isFlushed();
      return false;
    }
    this.#finalFlush = true;
    this.#channel.flush(0);
    this.#channel.submit();
    return true;
  }

  #endLastFlush(result: number): void {
    if (result < 0) {
      this.#parts.latch.trip();
      this.#parts.complain(`the last flush failed: ${errnoText(result)}: answered writes may be lost`);
    }
    this.#finalFlush = false;
    this.#isFlushed();
  }

  #isFlushed(): void {
    this.#wantsFlush = false;
    if (this.#state === "draining") this.#state = "drained";
  }
}
