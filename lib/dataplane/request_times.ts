/**
 * How long the requests of one queue take, from being taken off the ring to being answered: a time per slot, and
 * histograms in the memory of the counters. Reading the clock costs as much as a tenth of a request, so it is read at most
 * twice per pass: when requests are taken, and when some are answered. A pass that directly follows another one takes its
 * requests at the time of that one's answers. Requests that were taken together and are answered in one visit share one
 * entry into the histogram.
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

/** What is known of slots whose requests are finished; see slot_table.ts. */
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
  /** It is of this pass or the one directly before. */
  #isFresh = false;
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
    if (this.#isBusy) return;
    this.#isBusy = true;
    this.#busy.begin(this.#times, TAKE_MS);
  }

  /** These slots hold them: the first `count` of `slots`. One call for all: see {@linkcode answered}. */
  taken(slots: Uint16Array, count: number): void {
    const times = this.#times;
    const takenMs = times[TAKE_MS]!;
    for (let i = 0; i < count; i++) times[SLOT_MS + slots[i]!] = takenMs;
  }

  /** Requests are about to be answered. */
  beginAnswering(): void {
    this.#isTimed = this.#isFresh = false;
  }

  /** Something else was done since the last pass. */
  interrupted(): void {
    this.#isFresh = false;
  }

  /**
   * The first `count` of the finished slots are answered. One call for all of a pass: a call per request would be
   * inlined in the loops of the requests' own steps, where it costs several times as much.
   */
  answered({ finished, responseOperation, status }: FinishedSlots, count: number): void {
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
    this.#isBusy = false;
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
