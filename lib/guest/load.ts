/**
 * The load driver: issues requests on the rings of one disk, as Linux's blkfront would, and checks every byte that it
 * reads against what it wrote. Its thread steps it. Nothing is allocated per request, so that it can measure as well.
 */

import { PAGE_BYTES, SECTOR_BYTES } from "../units.ts";
import {
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_READ,
  OP_WRITE,
  RING_BROKEN,
  SECTORS_PER_PAGE,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import { ResponseFields } from "../blkif/front_ring.ts";
import type { EventChannels, Parker, Platform } from "../hypervisor.ts";
import { DIFFERS, type DiskModel, MATCHES, type Miscompare, SECTOR_WORDS } from "./disk_model.ts";
import { LoadRings, wordsAt } from "./load_rings.ts";
import { FREE_SLOT, LoadSlots, MOST_DIRECT_SECTORS } from "./load_slots.ts";
import type { LoadOutcome, LoadProgress, LoadSpec, LoadTarget } from "./load_types.ts";
import { Random } from "./random.ts";
import { RequestSource } from "./request_source.ts";

const PAGE_WORDS = PAGE_BYTES / 4;
/** Places tried for a request that overlaps one in flight, before it waits for responses. */
const PLACES_TRIED = 8;
/** Share of verified requests with segments as irregular as the protocol allows. */
const IRREGULAR_SHARE = 0.25;
const OPERATION_NAMES: readonly string[] = ["read", "write", "barrier", "flush", "reserved", "discard"];

/** What a driver works on. */
export interface LoadEnvironment {
  readonly target: LoadTarget;
  readonly spec: LoadSpec;
  readonly platform: Platform;
  /** The handle that the target's ports are bound by. */
  readonly events: EventChannels;
  /** Expected contents of the disk. Absent: data is neither filled in nor verified, for measuring. */
  readonly model?: DiskModel;
  readonly progress: LoadProgress;
}

/**
 * Drives one load. Call {@linkcode step} until {@linkcode finished}, and {@linkcode prepareToSleep} before sleeping.
 */
export class LoadDriver {
  readonly #environment: LoadEnvironment;
  readonly #rings: LoadRings;
  readonly #slots: LoadSlots;
  readonly #source: RequestSource;
  readonly #random: Random;
  readonly #model: DiskModel | undefined;
  readonly #segments: number;
  /** All data pages: those of slot s begin at page `segments * s`. */
  readonly #words: Uint32Array;
  readonly #response = new ResponseFields();
  readonly #limit: number;
  readonly #durationMs: number;

  /** Successful requests, by operation. */
  readonly #okay = new Float64Array(OPERATION_NAMES.length);
  readonly #errorsByKind = new Map<string, number>();
  #issued = 0;
  #answered = 0;
  #errors = 0;
  #bytesRead = 0;
  #bytesWritten = 0;
  #verified = 0;
  #unchecked = 0;
  #miscompares = 0;
  #firstMiscompare: Miscompare | undefined;
  #protocolErrors = 0;
  #firstProtocolError: string | undefined;
  #broken = false;
  #beganMs = -1;
  #lastMs = 0;
  /** The chosen request overlaps others in flight, and waits for their responses. */
  #pending = false;

  /** Throws {@linkcode XenblkError} of kind `usage` if the disk or the segments are too small for the load. */
  constructor(environment: LoadEnvironment) {
    const { target, spec, platform, model } = environment;
    this.#environment = environment;
    this.#rings = new LoadRings(target, platform, environment.events);
    this.#segments = target.segments;
    this.#slots = new LoadSlots(Math.max(1, Math.min(spec.depth, target.requests, this.#rings.slots)), target.segments);
    this.#random = new Random(spec.seed);
    const limits = { mostSectors: target.segments * SECTORS_PER_PAGE, alignToSize: model === undefined };
    this.#source = new RequestSource(spec, target.disk, this.#random, limits);
    this.#model = model;
    this.#words = wordsAt(platform, target.dataAddress, target.dataRefs.length);
    this.#limit = spec.requests ?? Infinity;
    this.#durationMs = spec.durationMs ?? Infinity;
  }

  /** All requests are issued and answered, or none will be any more: the ring is broken, or the load is abandoned. */
  get finished(): boolean {
    if (this.#broken || this.#environment.progress.abandonRequested) return true;
    return this.#slots.inFlight === 0 && this.#beganMs >= 0 && !this.#mayIssue(this.#now());
  }

  /** How long to sleep at most: until the load's duration is over; -1: until a response comes. In milliseconds. */
  get sleepMs(): number {
    const leftMs = this.#beganMs + this.#durationMs - this.#now();
    return leftMs === Infinity || leftMs <= 0 ? -1 : Math.ceil(leftMs);
  }

  /** Takes responses and issues requests. False: there was nothing to do. */
  step(): boolean {
    const now = this.#now();
    if (this.#beganMs < 0) this.#beganMs = now;
    let answered = 0;
    for (let ring = 0; ring < this.#rings.rings.length; ring++) answered += this.#takeResponses(ring, now);
    const issued = this.#mayIssue(now) ? this.#issueAll(now) : 0;
    if (issued > 0) this.#rings.push();
    if (answered + issued === 0) return false;
    this.#lastMs = now;
    const bytes = this.#bytesRead + this.#bytesWritten;
    const { progress } = this.#environment;
    progress.report(this.#answered, bytes, this.#errors, this.#miscompares, this.#slots.inFlight, this.#verified);
    return true;
  }

  /**
   * Before sleeping: asks to be notified, then looks again. True: there is work, or the load is finished: do not sleep.
   */
  prepareToSleep(): boolean {
    if (this.finished) return true;
    return this.#rings.prepareToSleep();
  }

  /** The results so far. */
  outcome(): LoadOutcome {
    const [reads, writes, barriers, flushes, , discards] = this.#okay;
    return {
      reads: reads!,
      writes: writes!,
      barriers: barriers!,
      flushes: flushes!,
      discards: discards!,
      bytesRead: this.#bytesRead,
      bytesWritten: this.#bytesWritten,
      errors: this.#errors,
      errorsByKind: Object.fromEntries(this.#errorsByKind),
      verifiedSectors: this.#verified,
      uncheckedSectors: this.#unchecked,
      miscompares: this.#miscompares,
      firstMiscompare: this.#firstMiscompare,
      protocolErrors: this.#protocolErrors,
      firstProtocolError: this.#firstProtocolError,
      unanswered: this.#slots.inFlight,
      notificationsSent: this.#rings.notificationsSent,
      notificationsSaved: this.#rings.notificationsSaved,
      elapsedMs: Math.max(0, this.#lastMs - this.#beganMs),
      latency: this.#environment.progress.histogram.summary(),
    };
  }

  #now(): number {
    return this.#environment.platform.now();
  }

  #mayIssue(now: number): boolean {
    return this.#issued < this.#limit && now - this.#beganMs < this.#durationMs &&
      !this.#environment.progress.stopRequested;
  }

  #takeResponses(number: number, now: number): number {
    const ring = this.#rings.rings[number]!;
    const count = ring.unconsumedResponses();
    if (count === RING_BROKEN) {
      this.#broken = true;
      this.#protocolError("rsp_prod is ahead of all requests");
      return 0;
    }
    for (let i = 0; i < count; i++) {
      ring.takeResponse(this.#response);
      this.#answer(number, now);
    }
    return count;
  }

  #answer(ring: number, now: number): void {
    const { idLow: slot, idHigh: serial, operation, status } = this.#response;
    const slots = this.#slots;
    const known = slot < slots.count && slots.operation[slot] !== FREE_SLOT && slots.serial[slot] === serial;
    if (!known || slots.ring[slot] !== ring) {
      return this.#protocolError(`a response has id ${serial}:${slot}, which is not in flight`);
    }
    const asked = slots.operation[slot]!;
    if (operation !== asked) this.#protocolError(`a ${OPERATION_NAMES[asked]} was answered as operation ${operation}`);
    this.#answered++;
    this.#environment.progress.histogram.record((now - slots.startedMs[slot]!) * 1e6);
    if (status === STATUS_OKAY) this.#succeed(slot, asked);
    else this.#fail(asked, status);
    slots.release(slot);
  }

  #succeed(slot: number, operation: number): void {
    this.#okay[operation]! += 1;
    const count = this.#slots.sectorCount[slot]!;
    if (operation === OP_READ) {
      this.#bytesRead += count * SECTOR_BYTES;
      if (this.#model !== undefined) this.#verify(this.#model, slot);
    } else if (operation !== OP_DISCARD && count > 0) {
      this.#bytesWritten += count * SECTOR_BYTES;
      this.#model?.written(this.#slots.sector[slot]!, count, this.#slots.write[slot]!);
    }
  }

  /** The model keeps the sectors of a failed write as unknown: it may have been carried out in part. */
  #fail(operation: number, status: number): void {
    this.#errors++;
    const kind = `${OPERATION_NAMES[operation]} ${status}`;
    this.#errorsByKind.set(kind, (this.#errorsByKind.get(kind) ?? 0) + 1);
  }

  #verify(model: DiskModel, slot: number): void {
    const slots = this.#slots;
    let sector = slots.sector[slot]!;
    const base = slot * this.#segments;
    for (let i = base; i < base + slots.segmentCount[slot]!; i++) {
      const end = i * PAGE_WORDS + (slots.lastSector[i]! + 1) * SECTOR_WORDS;
      for (let at = i * PAGE_WORDS + slots.firstSector[i]! * SECTOR_WORDS; at < end; at += SECTOR_WORDS) {
        const result = model.check(this.#words, at, sector);
        if (result === MATCHES) this.#verified++;
        else if (result === DIFFERS) this.#miscompare(model, at, sector);
        else this.#unchecked++;
        sector++;
      }
    }
  }

  #miscompare(model: DiskModel, at: number, sector: number): void {
    this.#miscompares++;
    this.#firstMiscompare ??= model.describe(this.#words, at, sector);
  }

  /** Issues requests up to the load's depth. Returns how many. */
  #issueAll(now: number): number {
    let count = 0;
    while (this.#issued < this.#limit) {
      const ring = this.#rings.nextRing();
      const slot = ring < 0 ? -1 : this.#slots.take();
      if (slot < 0) break;
      if (!this.#choose()) {
        this.#slots.release(slot);
        break;
      }
      this.#issue(slot, ring, now);
      count++;
    }
    return count;
  }

  /** Chooses a request that does not conflict with those in flight. False: wait for responses. */
  #choose(): boolean {
    const source = this.#source;
    if (!this.#pending) source.next();
    this.#pending = false;
    if (this.#model === undefined || source.sectorCount === 0) return true;
    const writes = source.operation !== OP_READ;
    for (let tried = 0; tried < PLACES_TRIED; tried++) {
      if (!this.#slots.conflicts(source.sector, source.sectorCount, writes, OP_READ)) return true;
      if (!source.replace()) break;
    }
    this.#pending = true;
    return false;
  }

  #issue(slot: number, ring: number, now: number): void {
    const { operation, sector, sectorCount } = this.#source;
    const slots = this.#slots;
    slots.operation[slot] = operation;
    slots.ring[slot] = ring;
    slots.sector[slot] = sector;
    slots.sectorCount[slot] = sectorCount;
    slots.startedMs[slot] = now;
    slots.serial[slot] = this.#issued;
    this.#issued++;
    if (operation === OP_DISCARD) {
      this.#model?.discarding(sector, sectorCount);
      return this.#rings.put(slots, slot, false);
    }
    const irregular = this.#layOut(slot, operation, sectorCount);
    if (this.#model !== undefined && operation !== OP_READ && sectorCount > 0) this.#fill(this.#model, slot);
    const mayBeIndirect = operation <= OP_WRITE && this.#rings.canBeIndirect;
    this.#rings.put(
      slots,
      slot,
      slots.segmentCount[slot]! > MAX_SEGMENTS_PER_REQUEST || (irregular && mayBeIndirect),
    );
  }

  /** Lays the request's data out in its pages. True: irregularly, as few guests do. */
  #layOut(slot: number, operation: number, sectorCount: number): boolean {
    const direct = operation > OP_WRITE;
    const varied = this.#model !== undefined && this.#environment.target.disk.logicalSectorBytes === SECTOR_BYTES;
    if (varied && this.#random.chance(IRREGULAR_SHARE)) {
      const most = direct ? MAX_SEGMENTS_PER_REQUEST : this.#segments;
      this.#slots.layOutIrregular(slot, sectorCount, most, this.#random);
      return true;
    }
    const mostSectors = direct ? MOST_DIRECT_SECTORS : this.#segments * SECTORS_PER_PAGE;
    const offset = varied ? this.#random.below(Math.min(8, mostSectors - sectorCount + 1)) : 0;
    this.#slots.layOutRegular(slot, sectorCount, offset);
    return false;
  }

  #fill(model: DiskModel, slot: number): void {
    const slots = this.#slots;
    const write = model.takeWrite();
    let sector = slots.sector[slot]!;
    slots.write[slot] = write;
    model.writing(sector, slots.sectorCount[slot]!);
    const base = slot * this.#segments;
    for (let i = base; i < base + slots.segmentCount[slot]!; i++) {
      const end = i * PAGE_WORDS + (slots.lastSector[i]! + 1) * SECTOR_WORDS;
      for (let at = i * PAGE_WORDS + slots.firstSector[i]! * SECTOR_WORDS; at < end; at += SECTOR_WORDS) {
        model.fill(this.#words, at, sector++, write);
      }
    }
  }

  #protocolError(text: string): void {
    this.#protocolErrors++;
    this.#firstProtocolError ??= text;
  }
}

/** What a thread steps, see {@linkcode LoadDriver}. */
export type SteppedDriver = Pick<LoadDriver, "finished" | "sleepMs" | "step" | "prepareToSleep">;

/** Drives a load to its end, and parks while there is nothing to do: for a thread that does nothing else. */
export function runLoad(driver: SteppedDriver, parker: Parker): void {
  while (!driver.finished) {
    if (!driver.step() && !driver.prepareToSleep()) parker.park(driver.sleepMs);
  }
}
