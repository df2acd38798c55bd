/**
 * The replay driver: issues the requests of a feed on the rings of one disk, at their times or as fast as they are
 * answered. A request that overlaps one in flight, and is not harmless beside it, waits; a flush waits for the writes
 * before it. So the content of the disk afterwards depends on the trace and the seed alone.
 */

import { PAGE_BYTES, SECTOR_BYTES } from "../units.ts";
import {
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_READ,
  OP_WRITE,
  RING_BROKEN,
  SECTORS_PER_PAGE,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import { ResponseFields } from "../blkif/front_ring.ts";
import type { EventChannels, Platform } from "../hypervisor.ts";
import { TRACE_OPERATIONS } from "../trace/record.ts";
import { type Checksums, fillSector } from "./disk_content.ts";
import type { DiskModel } from "./disk_model.ts";
import { LoadRings, wordsAt } from "./load_rings.ts";
import { FREE_SLOT, LoadSlots } from "./load_slots.ts";
import type { LoadProgress, LoadTarget } from "./load_types.ts";
import { type OperationOutcome, type ReplayError, ReplayLatencies } from "./replay_types.ts";
import { type RequestFeed, RING_OPERATIONS } from "./request_feed.ts";

const PAGE_WORDS = PAGE_BYTES / 4;
const SECTOR_WORDS = SECTOR_BYTES / 4;
/** Most sectors of one discard: its count is put as 32 bits. */
const MOST_DISCARDED_SECTORS = 2 ** 31;
/** Errors that are kept, to be shown. */
const MOST_ERRORS = 8;
const US_PER_MS = 1000;

/** What a replay works on. */
export interface ReplayEnvironment {
  readonly target: LoadTarget;
  readonly feed: RequestFeed;
  readonly depth: number;
  /** As in ReplaySpec. */
  readonly speed: number;
  readonly seed: number;
  readonly platform: Platform;
  /** The handle that the target's ports are bound by. */
  readonly events: EventChannels;
  readonly progress: LoadProgress;
  readonly latencies: ReplayLatencies;
  /** Of what is read. Absent: data is not looked at. */
  readonly checksums?: Checksums;
  /** Its sectors that are written or discarded become unknown. */
  readonly model?: DiskModel;
}

/** What the driver itself finds out. */
export interface DriverOutcome {
  readonly operations: readonly OperationOutcome[];
  readonly split: number;
  readonly firstErrors: readonly ReplayError[];
  readonly firstProtocolError: string | undefined;
  readonly unanswered: number;
  readonly elapsedMs: number;
  readonly latestMs: number;
}

/** Drives one replay, as {@linkcode LoadDriver} drives a load. Nothing is allocated per request. */
export class ReplayDriver {
  readonly #environment: ReplayEnvironment;
  readonly #rings: LoadRings;
  readonly #slots: LoadSlots;
  readonly #segments: number;
  /** All data pages: those of slot s begin at page `segments * s`. */
  readonly #words: Uint32Array;
  readonly #mostSectors: number;
  readonly #response = new ResponseFields();
  /** By operation, in the order of TRACE_OPERATIONS. */
  readonly #requests = new Float64Array(RING_OPERATIONS.length);
  readonly #errors = new Float64Array(RING_OPERATIONS.length);
  readonly #bytes = new Float64Array(RING_OPERATIONS.length);
  readonly #firstErrors: ReplayError[] = [];
  #firstProtocolError: string | undefined;
  #broken = false;
  /** What is left of the feed's present request; `#rest` is 0: it is issued whole. Of a flush it is 1. */
  #sector = 0;
  #rest = 0;
  #ended = false;
  /** The present request waits for its time, and for nothing else. */
  #early = false;
  #serial = 0;
  #split = 0;
  #issued = 0;
  #beganMs = -1;
  #lastMs = 0;
  #latestMs = 0;

  constructor(environment: ReplayEnvironment) {
    const { target, depth, platform, events } = environment;
    this.#environment = environment;
    this.#rings = new LoadRings(target, platform, events);
    this.#segments = target.segments;
    this.#slots = new LoadSlots(Math.max(1, Math.min(depth, target.requests, this.#rings.slots)), target.segments);
    this.#words = wordsAt(platform, target.dataAddress, target.dataRefs.length);
    this.#mostSectors = mostSectorsOf(target);
  }

  /** All requests are answered, or none will be any more. */
  get finished(): boolean {
    const { progress } = this.#environment;
    if (this.#broken || progress.abandonRequested) return true;
    return this.#slots.inFlight === 0 && this.#beganMs >= 0 && (this.#ended || progress.stopRequested);
  }

  /** How long to sleep at most: until the next request's time; -1: until a response comes. In milliseconds. */
  get sleepMs(): number {
    return this.#early ? Math.max(0, Math.floor(this.#waitMs(this.#environment.platform.now()))) : -1;
  }

  /** Takes responses and issues requests. False: there was nothing to do. */
  step(): boolean {
    const now = this.#environment.platform.now();
    if (this.#beganMs < 0) this.#beganMs = now;
    let done = 0;
    for (let ring = 0; ring < this.#rings.rings.length; ring++) done += this.#takeResponses(ring, now);
    if (!this.#environment.progress.stopRequested) done += this.#issueAll(now);
    if (done === 0) return false;
    this.#rings.push();
    this.#lastMs = now;
    this.#report();
    return true;
  }

  /** As {@linkcode LoadDriver.prepareToSleep}. */
  prepareToSleep(): boolean {
    return this.finished || this.#rings.prepareToSleep();
  }

  /** The results so far. */
  outcome(): DriverOutcome {
    return {
      operations: TRACE_OPERATIONS.map((operation, index) => ({
        operation,
        requests: this.#requests[index]!,
        errors: this.#errors[index]!,
        bytes: this.#bytes[index]!,
      })),
      split: this.#split,
      firstErrors: this.#firstErrors,
      firstProtocolError: this.#firstProtocolError,
      unanswered: this.#slots.inFlight,
      elapsedMs: Math.max(0, this.#lastMs - this.#beganMs),
      latestMs: this.#latestMs,
    };
  }

  #report(): void {
    const { progress } = this.#environment;
    const sum = (values: Float64Array): number => values[0]! + values[1]! + values[2]! + values[3]!;
    const { inFlight } = this.#slots;
    progress.report(sum(this.#requests), sum(this.#bytes), sum(this.#errors), 0, inFlight, 0);
  }

  /** How long the present request has to wait for its time. */
  #waitMs(now: number): number {
    const { speed, feed } = this.#environment;
    return speed === 0 ? 0 : this.#beganMs + feed.timeUs / US_PER_MS / speed - now;
  }

  /** Issues what can be issued now. Returns how many; also 1 if the feed has not come to a request yet. */
  #issueAll(now: number): number {
    const { feed, speed } = this.#environment;
    this.#early = false;
    for (let count = 0;; count++) {
      if (this.#rest === 0) {
        const found = this.#ended ? "end" : feed.next();
        this.#ended = found === "end";
        if (found !== "request") return found === "later" ? count + 1 : count;
        this.#begin();
      }
      const waitMs = this.#waitMs(now);
      this.#early = waitMs > 0;
      if (this.#early) return count;
      const ring = feed.ring % this.#rings.rings.length;
      if (this.#rings.rings[ring]!.free() === 0) return count;
      const slot = this.#slots.take();
      if (slot < 0) return count;
      if (this.#mustWait()) {
        this.#slots.release(slot);
        return count;
      }
      if (speed > 0) this.#latestMs = Math.max(this.#latestMs, -waitMs);
      this.#issue(slot, ring, now);
    }
  }

  /** Takes the feed's next request. */
  #begin(): void {
    const { sector, sectorCount, operation, count } = this.#environment.feed;
    this.#sector = sector;
    this.#rest = Math.max(1, sectorCount);
    this.#serial = count;
    if (sectorCount > this.#mostOf(operation)) this.#split++;
  }

  #mostOf(operation: number): number {
    return RING_OPERATIONS[operation] === OP_DISCARD ? MOST_DISCARDED_SECTORS : this.#mostSectors;
  }

  /** Whether requests in flight must be answered first. */
  #mustWait(): boolean {
    const slots = this.#slots;
    const operation = RING_OPERATIONS[this.#environment.feed.operation]!;
    if (operation !== OP_FLUSH_DISKCACHE) {
      const length = Math.min(this.#rest, this.#mostOf(this.#environment.feed.operation));
      return slots.conflicts(this.#sector, length, operation !== OP_READ, OP_READ);
    }
    for (let slot = 0; slot < slots.count; slot++) {
      if (slots.operation[slot] === OP_WRITE || slots.operation[slot] === OP_DISCARD) return true;
    }
    return false;
  }

  #issue(slot: number, ring: number, now: number): void {
    const { feed } = this.#environment;
    const slots = this.#slots;
    const operation = RING_OPERATIONS[feed.operation]!;
    const length = operation === OP_FLUSH_DISKCACHE ? 0 : Math.min(this.#rest, this.#mostOf(feed.operation));
    slots.operation[slot] = operation;
    slots.ring[slot] = ring;
    slots.sector[slot] = this.#sector;
    slots.sectorCount[slot] = length;
    slots.startedMs[slot] = now;
    slots.serial[slot] = this.#issued++;
    this.#sector += length;
    this.#rest -= Math.max(1, length);
    if (operation !== OP_DISCARD) slots.layOutRegular(slot, length, 0);
    if (operation === OP_WRITE) this.#fill(slot);
    if (operation === OP_WRITE || operation === OP_DISCARD) {
      this.#environment.model?.writing(slots.sector[slot]!, length);
    }
    this.#rings.put(slots, slot, operation !== OP_DISCARD && slots.segmentCount[slot]! > MAX_SEGMENTS_PER_REQUEST);
  }

  #takeResponses(number: number, now: number): number {
    const ring = this.#rings.rings[number]!;
    const count = ring.unconsumedResponses();
    if (count === RING_BROKEN) {
      this.#broken = true;
      this.#firstProtocolError ??= "rsp_prod is ahead of all requests";
      return 0;
    }
    for (let i = 0; i < count; i++) {
      ring.takeResponse(this.#response);
      this.#answer(number, now);
    }
    return count;
  }

  #answer(ring: number, now: number): void {
    const { idLow: slot, idHigh: serial, status } = this.#response;
    const slots = this.#slots;
    const known = slot < slots.count && slots.operation[slot] !== FREE_SLOT && slots.serial[slot] === serial;
    if (!known || slots.ring[slot] !== ring) {
      this.#firstProtocolError ??= `a response has id ${serial}:${slot}, which is not in flight`;
      return;
    }
    const operation = RING_OPERATIONS.indexOf(slots.operation[slot]!);
    this.#requests[operation]! += 1;
    this.#environment.latencies.histograms[operation]!.record((now - slots.startedMs[slot]!) * 1e6);
    if (status === STATUS_OKAY) {
      this.#bytes[operation]! += slots.sectorCount[slot]! * SECTOR_BYTES;
      const { checksums } = this.#environment;
      if (checksums !== undefined && slots.operation[slot] === OP_READ) this.#sum(checksums, slot);
    } else this.#fail(operation, slots.sector[slot]!, status);
    slots.release(slot);
  }

  #fail(operation: number, sector: number, status: number): void {
    this.#errors[operation]! += 1;
    if (this.#firstErrors.length === MOST_ERRORS) return;
    this.#firstErrors.push({ operation: TRACE_OPERATIONS[operation]!, sector, status });
  }

  /** The data of a slot is contiguous: it is laid out from the beginning of its first page. */
  #fill(slot: number): void {
    const { seed } = this.#environment;
    const at = slot * this.#segments * PAGE_WORDS;
    const sector = this.#slots.sector[slot]!;
    for (let i = 0; i < this.#slots.sectorCount[slot]!; i++) {
      fillSector(this.#words, at + i * SECTOR_WORDS, sector + i, this.#serial, seed);
    }
  }

  #sum(checksums: Checksums, slot: number): void {
    const at = slot * this.#segments * PAGE_WORDS;
    const sector = this.#slots.sector[slot]!;
    for (let i = 0; i < this.#slots.sectorCount[slot]!; i++) {
      checksums.add(this.#words, at + i * SECTOR_WORDS, sector + i);
    }
  }
}

/** Most sectors of a read or write on these rings, in whole logical sectors. */
export function mostSectorsOf({ segments, disk }: LoadTarget): number {
  const unit = disk.logicalSectorBytes / SECTOR_BYTES;
  return Math.max(unit, Math.floor(segments * SECTORS_PER_PAGE / unit) * unit);
}
