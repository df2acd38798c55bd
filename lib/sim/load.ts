/**
 * The load driver: one guest's I/O on one ring, as Linux's blkfront would do it, that checks every byte it reads
 * against what it wrote. One thread drives it, turn by turn; nothing is allocated per request, so that it can measure
 * as well. It must not know who backs the ring, nor that Workers exist.
 */

import {
  ABIS,
  MAX_SEGMENTS_PER_REQUEST,
  OP_READ,
  RING_BROKEN,
  RING_PAGE_BYTES,
  SECTOR_SIZE_BYTES,
  STATUS_OKAY,
} from "../blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../blkif/front_ring.ts";
import type { Clock } from "../clock.ts";
import type { EventChannels, Parker, Platform } from "../hypervisor.ts";
import { DIFFERS, type DiskModel, MATCHES, type Miscompare, SECTOR_WORDS } from "./disk_model.ts";
import { FREE_SLOT, LoadSlots, MOST_SECTORS } from "./load_slots.ts";
import type { LoadOutcome, LoadProgress, LoadSpec, LoadTarget } from "./load_types.ts";
import { Random } from "./random.ts";
import { RequestSource } from "./request_source.ts";

const PAGE_WORDS = RING_PAGE_BYTES / 4;
/** Places tried for a request that would overlap one in flight, before it waits for answers. */
const PLACES_TRIED = 8;
/** Share of verified requests whose segments are as irregular as the protocol allows. */
const IRREGULAR_SHARE = 0.25;
const OPERATION_NAMES: readonly string[] = ["read", "write", "barrier", "flush"];

/** What a driver drives. */
export interface LoadEnvironment {
  readonly target: LoadTarget;
  readonly spec: LoadSpec;
  readonly platform: Platform;
  /** The handle that holds the target's port. */
  readonly events: EventChannels;
  /** What the disk holds; absent: nothing is filled in or verified, for measuring. */
  readonly model?: DiskModel;
  readonly progress: LoadProgress;
}

/** See the file's first lines. */
export class LoadDriver {
  readonly #environment: LoadEnvironment;
  readonly #ring: FrontRing;
  readonly #slots: LoadSlots;
  readonly #source: RequestSource;
  readonly #random: Random;
  readonly #model: DiskModel | undefined;
  /** All data pages: those of slot s begin at page 11 * s. */
  readonly #words: Uint32Array;
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  readonly #ports = new Uint32Array(16);
  readonly #limit: number;
  readonly #durationMs: number;

  /** Requests answered OKAY, by operation. */
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
  #notificationsSent = 0;
  #notificationsSaved = 0;
  #beganMs = -1;
  #lastMs = 0;
  /** A request was chosen that waits for others to be answered. */
  #pending = false;

  /** Throws XenblkError (usage) for a load that cannot be. */
  constructor(environment: LoadEnvironment) {
    const { target, spec, platform, model } = environment;
    this.#environment = environment;
    this.#ring = new FrontRing(platform.memory.view(target.ringAddress, target.ringBytes), ABIS[target.abi]);
    this.#slots = new LoadSlots(Math.max(1, Math.min(spec.depth, target.requests, this.#ring.slots)));
    this.#random = new Random(spec.seed);
    this.#source = new RequestSource(spec, target.disk, this.#random, model === undefined);
    this.#model = model;
    const data = platform.memory.view(target.dataAddress, target.dataRefs.length * RING_PAGE_BYTES);
    this.#words = new Uint32Array(data.buffer, data.byteOffset, data.length / 4);
    this.#limit = spec.requests ?? Infinity;
    this.#durationMs = spec.durationMs ?? Infinity;
    this.#fields.handle = 0;
  }

  /** All is issued and answered, or nothing more will be: the ring is broken, or the load abandoned. */
  get finished(): boolean {
    if (this.#broken || this.#environment.progress.abandonRequested) return true;
    return this.#slots.inFlight === 0 && this.#beganMs >= 0 && !this.#mayIssue(this.#now());
  }

  /** Milliseconds that a sleep may last at most: until the load's duration is over; -1 if only answers are awaited. */
  get sleepMs(): number {
    const leftMs = this.#beganMs + this.#durationMs - this.#now();
    return leftMs === Infinity || leftMs <= 0 ? -1 : Math.ceil(leftMs);
  }

  /** Takes what was answered and asks for more. True: something was done. */
  step(): boolean {
    const now = this.#now();
    if (this.#beganMs < 0) this.#beganMs = now;
    const answered = this.#takeResponses(now);
    const issued = this.#mayIssue(now) ? this.#issueAll(now) : 0;
    if (issued > 0) this.#push();
    if (answered + issued === 0) return false;
    this.#lastMs = now;
    const bytes = this.#bytesRead + this.#bytesWritten;
    const { progress } = this.#environment;
    progress.report(this.#answered, bytes, this.#errors, this.#miscompares, this.#slots.inFlight, this.#verified);
    return true;
  }

  /** Before sleeping: asks to be notified, and looks again. True: there is something to do, or nothing left to do. */
  rest(): boolean {
    if (this.finished) return true;
    while (this.#environment.events.take(this.#ports) === this.#ports.length);
    return this.#ring.finalCheck();
  }

  /** What came of it so far. */
  outcome(): LoadOutcome {
    const [reads, writes, barriers, flushes] = this.#okay;
    return {
      reads: reads!,
      writes: writes!,
      barriers: barriers!,
      flushes: flushes!,
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
      notificationsSent: this.#notificationsSent,
      notificationsSaved: this.#notificationsSaved,
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

  #takeResponses(now: number): number {
    const count = this.#ring.unconsumedResponses();
    if (count === RING_BROKEN) {
      this.#broken = true;
      this.#protocolError("rsp_prod is ahead of all requests");
      return 0;
    }
    for (let i = 0; i < count; i++) {
      this.#ring.takeResponse(this.#response);
      this.#answer(now);
    }
    return count;
  }

  #answer(now: number): void {
    const { idLow: slot, idHigh: serial, operation, status } = this.#response;
    const slots = this.#slots;
    if (slot >= slots.count || slots.operation[slot] === FREE_SLOT || slots.serial[slot] !== serial) {
      return this.#protocolError(`a response has id ${serial}:${slot}, which is not in flight`);
    }
    const asked = slots.operation[slot]!;
    if (operation !== asked) this.#protocolError(`a ${OPERATION_NAMES[asked]} was answered as operation ${operation}`);
    this.#answered++;
    this.#environment.progress.histogram.record((now - slots.startedMs[slot]!) * 1e6);
    if (status === STATUS_OKAY) this.#succeed(slot, asked);
    else this.#fail(asked, status);
    slots.give(slot);
  }

  #succeed(slot: number, operation: number): void {
    this.#okay[operation]! += 1;
    const count = this.#slots.sectorCount[slot]!;
    if (operation === OP_READ) {
      this.#bytesRead += count * SECTOR_SIZE_BYTES;
      if (this.#model !== undefined) this.#verify(this.#model, slot);
    } else if (count > 0) {
      this.#bytesWritten += count * SECTOR_SIZE_BYTES;
      this.#model?.written(this.#slots.sector[slot]!, count, this.#slots.write[slot]!);
    }
  }

  /** The sectors of a write that failed stay unknown to the model: it may have been carried out in part. */
  #fail(operation: number, status: number): void {
    this.#errors++;
    const kind = `${OPERATION_NAMES[operation]} ${status}`;
    this.#errorsByKind.set(kind, (this.#errorsByKind.get(kind) ?? 0) + 1);
  }

  #verify(model: DiskModel, slot: number): void {
    const slots = this.#slots;
    let sector = slots.sector[slot]!;
    const base = slot * MAX_SEGMENTS_PER_REQUEST;
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

  /** Fills the ring up to the load's depth. Returns how many requests were put. */
  #issueAll(now: number): number {
    let count = 0;
    while (this.#issued < this.#limit && this.#ring.free() > 0) {
      const slot = this.#slots.take();
      if (slot < 0) break;
      if (!this.#choose()) {
        this.#slots.give(slot);
        break;
      }
      this.#issue(slot, now);
      count++;
    }
    return count;
  }

  /** Chooses a request that nothing in flight stands in the way of. False: wait for answers. */
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

  #issue(slot: number, now: number): void {
    const { operation, sector, sectorCount } = this.#source;
    const slots = this.#slots;
    slots.operation[slot] = operation;
    slots.sector[slot] = sector;
    slots.sectorCount[slot] = sectorCount;
    slots.startedMs[slot] = now;
    slots.serial[slot] = this.#issued;
    this.#issued++;
    this.#layOut(slot, sectorCount);
    if (this.#model !== undefined && operation !== OP_READ && sectorCount > 0) this.#fill(this.#model, slot);
    this.#put(slot);
  }

  #layOut(slot: number, sectorCount: number): void {
    const varied = this.#model !== undefined && this.#environment.target.disk.logicalSectorBytes === SECTOR_SIZE_BYTES;
    if (varied && this.#random.chance(IRREGULAR_SHARE)) {
      return this.#slots.layOutIrregular(slot, sectorCount, this.#random);
    }
    const offset = varied ? this.#random.below(Math.min(8, MOST_SECTORS - sectorCount + 1)) : 0;
    this.#slots.layOutRegular(slot, sectorCount, offset);
  }

  #fill(model: DiskModel, slot: number): void {
    const slots = this.#slots;
    const write = model.takeWrite();
    let sector = slots.sector[slot]!;
    slots.write[slot] = write;
    model.writing(sector, slots.sectorCount[slot]!);
    const base = slot * MAX_SEGMENTS_PER_REQUEST;
    for (let i = base; i < base + slots.segmentCount[slot]!; i++) {
      const end = i * PAGE_WORDS + (slots.lastSector[i]! + 1) * SECTOR_WORDS;
      for (let at = i * PAGE_WORDS + slots.firstSector[i]! * SECTOR_WORDS; at < end; at += SECTOR_WORDS) {
        model.fill(this.#words, at, sector++, write);
      }
    }
  }

  #put(slot: number): void {
    const slots = this.#slots;
    const fields = this.#fields;
    const sector = slots.sector[slot]!;
    fields.operation = slots.operation[slot]!;
    fields.idLow = slot;
    fields.idHigh = slots.serial[slot]!;
    fields.sectorLow = sector >>> 0;
    fields.sectorHigh = Math.floor(sector / 0x100000000);
    fields.segmentCount = slots.segmentCount[slot]!;
    const base = slot * MAX_SEGMENTS_PER_REQUEST;
    for (let i = 0; i < fields.segmentCount; i++) {
      fields.grefs[i] = this.#environment.target.dataRefs[base + i]!;
      fields.firstSectors[i] = slots.firstSector[base + i]!;
      fields.lastSectors[i] = slots.lastSector[base + i]!;
    }
    this.#ring.putRequest(fields);
  }

  #push(): void {
    if (this.#ring.push()) {
      this.#notificationsSent++;
      this.#environment.events.notify(this.#environment.target.port);
    } else {
      this.#notificationsSaved++;
    }
  }

  #protocolError(text: string): void {
    this.#protocolErrors++;
    this.#firstProtocolError ??= text;
  }
}

/** Drives a load to its end and sleeps in between: for a thread of its own. */
export function runLoad(driver: LoadDriver, parker: Parker): void {
  while (!driver.finished) {
    if (!driver.step() && !driver.rest()) parker.park(driver.sleepMs);
  }
}

/** Drives a load to its end on a thread that others need too: it sleeps by the clock, so it is slow at small depths. */
export async function runLoadBeside(driver: LoadDriver, clock: Clock): Promise<void> {
  while (!driver.finished) {
    for (let turn = 0; turn < 64 && driver.step(); turn++);
    await clock.sleep(driver.rest() ? 0 : 1);
  }
}
