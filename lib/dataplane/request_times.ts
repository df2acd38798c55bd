/**
 * How long the requests of one queue take, from being taken off the ring to being answered: a time per slot, and
 * histograms in the memory of the counters. Reading the clock costs as much as a tenth of a request, so it is read at most
 * twice per pass: when requests are taken, and when some are answered. If nothing was done between answers and the next
 * taking, both have the same time. Requests that were taken together and are answered in one visit share one entry into the
 * histogram; as long as no others are in flight, they need no look at each of them.
 */

import {
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  STATUS_EOPNOTSUPP,
} from "../blkif/abi.ts";
import type { Histogram } from "../histogram.ts";
import type { Platform } from "../hypervisor.ts";
import { BusyTime, createBusyTime } from "./busy_time.ts";
import type { SlotTable } from "./slot_table.ts";
import { durationsIn, STAT } from "./stats.ts";

/** Times in milliseconds: when this pass took requests; when it answers; when those of the run were taken; then by slot. */
const TAKE_MS = 0;
const ANSWER_MS = 1;
const RUN_MS = 2;
const SLOT_MS = 3;

/** What the times of a queue are made from. */
export interface RequestTimesOptions {
  /** Most requests in flight. */
  readonly slots: number;
  /** The memory of the queue's counters; see stats.ts. */
  readonly stats: SharedArrayBuffer;
  /** Shared by the queues of the device; see busy_time.ts. Absent: the queue is the only one. */
  readonly busy?: SharedArrayBuffer;
  /** That many of them. Absent: 1. */
  readonly busyQueues?: number;
  /** Its clock measures the requests. */
  readonly platform: Pick<Platform, "now" | "readClock">;
}

/** What is known of slots whose requests were taken; see slot_table.ts. */
export type TakenSlots = Pick<SlotTable, "taken" | "responseOperation">;

/** The same of those that are finished. */
export type FinishedSlots = Pick<SlotTable, "finished" | "responseOperation" | "status">;

/** The times of one queue's requests. Disposing it ends the queue's part in the device's busy time. */
export class RequestTimes implements Disposable {
  readonly #readClock: (into: Float64Array, index: number) => void;
  readonly #stats: Float64Array;
  /** By operation. */
  readonly #histograms: readonly (Histogram | undefined)[];
  readonly #busy: BusyTime;
  /** See the indices above; as properties they would be allocated anew whenever they change. */
  readonly #times: Float64Array;
  #isBusy = false;
  /** {@linkcode ANSWER_MS} is of this pass. */
  #isTimed = false;
  /** Nothing was done since. */
  #isFresh = false;
  /** All requests in flight are reads, or all are writes, and were taken together at {@linkcode RUN_MS}. */
  #isUniform = false;
  /** Answered requests of one kind that were taken together, and are not recorded yet. */
  #runLength = 0;
  #runOperation = 0;

  constructor({ slots, stats, busy, busyQueues = 1, platform }: RequestTimesOptions) {
    this.#readClock = platform.readClock?.bind(platform) ?? ((into, index) => void (into[index] = platform.now()));
    this.#stats = new Float64Array(stats);
    this.#times = new Float64Array(SLOT_MS + slots);
    const { read, write, flush, discard } = durationsIn(stats);
    const histograms: (Histogram | undefined)[] = Array(OP_DISCARD + 1).fill(undefined);
    histograms[OP_READ] = read;
    histograms[OP_WRITE] = histograms[OP_WRITE_BARRIER] = write;
    histograms[OP_FLUSH_DISKCACHE] = flush;
    histograms[OP_DISCARD] = discard;
    this.#histograms = histograms;
    this.#busy = new BusyTime(busy ?? createBusyTime(), busyQueues > 1);
  }

  /** Requests are about to be taken. */
  beginTaking(): void {
    const times = this.#times;
    if (this.#isFresh) times[TAKE_MS] = times[ANSWER_MS]!;
    else this.#readClock(times, TAKE_MS);
    if (this.#isBusy) return this.tellApart();
    this.#isBusy = this.#isUniform = true;
    this.#busy.begin(times, TAKE_MS);
  }

  /** The first `count` of the taken slots hold them. One call for all: see {@linkcode answered}. */
  taken({ taken, responseOperation }: TakenSlots, count: number): void {
    const times = this.#times;
    const takenMs = times[TAKE_MS]!;
    if (this.#isUniform) {
      const first = responseOperation[taken[0]!]!;
      let differing = first & ~OP_WRITE; // neither a read nor a write
      for (let i = 1; i < count; i++) differing |= responseOperation[taken[i]!]! ^ first;
      times[RUN_MS] = takenMs;
      this.#runOperation = first;
      if (differing === 0) return;
      this.#isUniform = false;
    }
    for (let i = 0; i < count; i++) times[SLOT_MS + taken[i]!] = takenMs;
  }

  /** The requests in flight do not have all the same time, or not all a duration. */
  tellApart(): void {
    if (!this.#isUniform) return;
    this.#isUniform = false;
    this.#times.fill(this.#times[RUN_MS]!, SLOT_MS);
  }

  /** This pass has done something, and requests are about to be answered. */
  beginAnswering(): void {
    this.#isTimed = this.#isFresh = false;
  }

  /** Time has passed since the last pass. */
  interrupted(): void {
    this.#isFresh = false;
  }

  /**
   * The first `count` of the finished slots are answered. One call for all of a pass: a call per request would be
   * inlined in the loops of the requests' own steps, where it costs several times as much.
   */
  answered(slots: FinishedSlots, count: number): void {
    if (this.#isUniform) this.#runLength += count;
    else this.#answeredApart(slots, count);
  }

  #answeredApart({ finished, responseOperation, status }: FinishedSlots, count: number): void {
    const times = this.#times;
    let runMs = times[RUN_MS]!;
    let runOperation = this.#runOperation;
    let runLength = this.#runLength;
    for (let i = 0; i < count; i++) {
      const slot = finished[i]!;
      if (status[slot] === STATUS_EOPNOTSUPP) continue;
      const takenMs = times[SLOT_MS + slot]!;
      const operation = responseOperation[slot]!;
      if (takenMs !== runMs || operation !== runOperation) {
        this.#runLength = runLength;
        this.settle();
        runLength = 0;
        times[RUN_MS] = runMs = takenMs;
        this.#runOperation = runOperation = operation;
      }
      runLength++;
    }
    this.#runLength = runLength;
  }

  /** No request is in flight any more. */
  idle(): void {
    this.settle();
    if (!this.#isBusy) return;
    this.#isBusy = this.#isUniform = false;
    this.#lookAtClock();
    this.#busy.end(this.#times, ANSWER_MS, this.#stats, STAT.busyNs);
  }

  /** Records what was answered. To be called right after the last pass of a visit. */
  settle(): void {
    if (this.#runLength === 0) return;
    this.#lookAtClock();
    if (this.#runOperation <= OP_DISCARD) {
      this.#histograms[this.#runOperation]?.recordSpan(this.#times, RUN_MS, ANSWER_MS, this.#runLength);
    }
    this.#runLength = 0;
  }

  [Symbol.dispose](): void {
    this.#isTimed = false;
    this.idle();
  }

  #lookAtClock(): void {
    if (this.#isTimed) return;
    this.#isTimed = this.#isFresh = true;
    this.#readClock(this.#times, ANSWER_MS);
  }
}
