/**
 * The channel of the filter `throttle`: one ring's operations start when the limits allow it. It needs no description of
 * the options, since a reactor loads it for disks that may get limits.
 */

import type { Platform } from "../../hypervisor.ts";
import type { ChannelOptions, IoChannel } from "../disk.ts";
import { OPERATION } from "../engine/executor.ts";
import { TagLine } from "../tag_line.ts";
import { Budget, Reserved, SIDE, Tally, type ThrottleMemory } from "./budget.ts";
import { HoldingChannel, RECHECK_MS } from "./holding.ts";
import { RESERVATION } from "./token_bucket.ts";

/** How long it takes at most until another thread has let go of a bucket. */
const BUSY_MS = 1;

/** Operations that start one after the other. */
class Lane {
  readonly line: TagLine;
  /** For the first in line. */
  readonly reserved: Reserved = new Reserved();

  constructor(depth: number) {
    this.line = new TagLine(depth);
  }
}

/** One ring's operations, as far as the limits allow. */
export class ThrottledChannel extends HoldingChannel {
  protected override passes = true;
  /** Operations start at once, but take their tokens nevertheless: those that come later wait longer for that. */
  hurries = false;
  readonly #budget: Budget;
  /** What waits: all operations, or, while reads and writes are limited apart, the reads. */
  readonly #lane: Lane;
  /** The writes then. */
  readonly #writes: Lane;
  /** All that waits, if {@linkcode #isCounted}: if the limits are those of when it came. */
  readonly #waiting: Tally = new Tally();
  #isCounted = true;
  /** What is to start. */
  readonly #one: Tally = new Tally();
  /** When to look again. Not a property, which would be allocated anew with each change. */
  readonly #recheckMs = new Float64Array(1);

  /** `rings`: of the disk. */
  constructor(inner: IoChannel, options: ChannelOptions, memory: ThrottleMemory, platform: Platform, rings = 1) {
    super(inner, options);
    this.#budget = new Budget(memory, platform, rings);
    this.#lane = new Lane(options.depth);
    this.#writes = new Lane(options.depth);
    this.refresh();
  }

  /** Reads and writes have limits of their own. */
  get isApart(): boolean {
    return this.#budget.isApart;
  }

  /** Nothing waits here: what is in flight is the disk's. */
  get isEmpty(): boolean {
    return this.held === 0;
  }

  /** None of the operations in flight has come through here: the disk's channel completes them all. */
  get isUnused(): boolean {
    return this.seenCount === 0;
  }

  /** Takes over changed limits, as each pass does in which something waits. */
  adopt(): void {
    this.refresh();
  }

  /**
   * Takes the tokens of operations that are to be queued right at the disk, if there are so many and nothing waits here.
   * False: none was taken, and they have to pass through here.
   */
  admits(reads: number, writes: number, readBytes: number, writtenBytes: number): boolean {
    if (this.held > 0) return false;
    return this.#budget.spend(reads, writes, readBytes, writtenBytes) ||
      this.#earn(reads, writes, readBytes, writtenBytes);
  }

  override [Symbol.dispose](): void {
    this.#unreserve();
    super[Symbol.dispose]();
  }

  protected override take(tag: number): void {
    if (this.operation[tag] === OPERATION.flush) return this.start(tag);
    const side = this.#sideOf(tag);
    (side === SIDE.write && this.#budget.isApart ? this.#writes : this.#lane).line.add(tag);
    this.held++;
    this.#waiting.add(side, 1, this.#limitedBytes(tag));
  }

  protected override refresh(): void {
    if (!this.#budget.refresh()) return;
    this.#unreserve(); // the first in line waits for what the new limits say
    this.#isCounted = this.held === 0;
    this.#adapt();
  }

  protected override release(): void {
    const times = this.#budget.lookAtClock();
    this.#recheckMs[0] = times[RESERVATION.nowMs]! + RECHECK_MS;
    const isReserved = this.#lane.reserved.startMs[0]! >= 0 || this.#writes.reserved.startMs[0]! >= 0;
    const arePaid = !isReserved && this.#isCounted && this.#budget.takeThere(this.#waiting);
    this.#releaseFrom(this.#lane, times, arePaid);
    this.#releaseFrom(this.#writes, times, arePaid);
    if (this.held > 0) return;
    this.#waiting.clear();
    this.#isCounted = true;
    this.#adapt();
  }

  protected override nextMs(): number {
    const one = this.#lane.reserved.startMs[0]!;
    const other = this.#writes.reserved.startMs[0]!;
    return Math.min(this.#recheckMs[0]!, one < 0 ? Infinity : one, other < 0 ? Infinity : other);
  }

  /** `arePaid`: the tokens of all of them are taken. */
  #releaseFrom({ line, reserved }: Lane, times: Float64Array, arePaid: boolean): void {
    for (let tag = line.first; tag >= 0; tag = line.first) {
      if (!arePaid) {
        if (reserved.startMs[0]! < 0 && !this.#reserve(tag, reserved) && !this.hurries) {
          this.#recheckMs[0] = times[RESERVATION.nowMs]! + BUSY_MS;
          break;
        }
        if (reserved.startMs[0]! > times[RESERVATION.nowMs]! && !this.hurries) break;
        reserved.clear();
        this.#waiting.add(this.#sideOf(tag), -1, -this.#limitedBytes(tag));
      }
      line.shift();
      this.held--;
      this.start(tag);
    }
  }

  #earn(reads: number, writes: number, readBytes: number, writtenBytes: number): boolean {
    const budget = this.#budget;
    const one = this.#one;
    one.clear();
    one.add(SIDE.read, reads, readBytes);
    one.add(SIDE.write, writes, writtenBytes);
    budget.lookAtClock();
    return budget.earn(one) && budget.spend(reads, writes, readBytes, writtenBytes);
  }

  /** Operations that come later must not overtake those in line. */
  #adapt(): void {
    this.passes = !this.#budget.isLimited && this.held === 0;
  }

  #sideOf(tag: number): number {
    return this.operation[tag] === OPERATION.read ? SIDE.read : SIDE.write;
  }

  #limitedBytes(tag: number): number {
    return !this.#budget.countsBytes || this.operation[tag] === OPERATION.discard ? 0 : this.lengthOf(tag);
  }

  /** Reserves what the operation needs, for all limits. False: another thread has a bucket. */
  #reserve(tag: number, into: Reserved): boolean {
    this.#one.clear();
    this.#one.add(this.#sideOf(tag), 1, this.#limitedBytes(tag));
    return this.#budget.reserve(this.#one, into);
  }

  #unreserve(): void {
    this.#budget.unreserve(this.#lane.reserved);
    this.#budget.unreserve(this.#writes.reserved);
  }
}
