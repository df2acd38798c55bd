/**
 * Where a replay gets its requests from: a trace, checked against the disk; or a sweep over the whole disk.
 */

import { OP_DISCARD, OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE } from "../blkif/abi.ts";
import { TRACE_OPERATIONS, type TraceRecord } from "../trace/record.ts";
import type { OrderedTrace } from "../trace/order.ts";
import { SECTOR_BYTES } from "../units.ts";
import type { DiskFacts } from "./disk_facts.ts";
import type { Skipped, SkipReason } from "./replay_types.ts";

/** The ring's operations in the order of TRACE_OPERATIONS. */
export const RING_OPERATIONS: readonly number[] = [OP_READ, OP_WRITE, OP_FLUSH_DISKCACHE, OP_DISCARD];

/** Records that one call skips at most, so that a stop is noticed. */
const MOST_SKIPPED = 10_000;

/** A stream of requests; {@linkcode next} puts the next one into the fields. */
export interface RequestFeed {
  /** Index in {@linkcode RING_OPERATIONS}. */
  readonly operation: number;
  readonly sector: number;
  readonly sectorCount: number;
  /** The request's ring; there may be fewer. */
  readonly ring: number;
  /** When to issue it, in microseconds since the first one. */
  readonly timeUs: number;
  /** Requests so far. */
  readonly count: number;
  /** `later`: nothing yet, call again. */
  next(): "request" | "later" | "end";
}

/** The requests of a trace that the disk can have; the others are counted. */
export class TraceFeed implements RequestFeed {
  operation = 0;
  sector = 0;
  sectorCount = 0;
  ring = 0;
  timeUs = 0;
  count = 0;
  readonly #trace: OrderedTrace;
  readonly #disk: DiskFacts;
  readonly #unit: number;
  readonly #skipped = new Map<SkipReason, Skipped>();
  #beganUs = -1;

  constructor(trace: OrderedTrace, disk: DiskFacts) {
    this.#trace = trace;
    this.#disk = disk;
    this.#unit = disk.logicalSectorBytes / SECTOR_BYTES;
  }

  /** What was skipped so far, in the order of the first ones. */
  get skipped(): Skipped[] {
    return [...this.#skipped.values()];
  }

  next(): "request" | "later" | "end" {
    for (let tried = 0; tried < MOST_SKIPPED; tried++) {
      const record = this.#trace.next();
      if (record === undefined) return this.#trace.ended ? "end" : "later";
      this.count++;
      const reason = this.#unfit(record);
      if (reason === undefined) {
        this.#take(record);
        return "request";
      }
      this.#skip(record, reason);
    }
    return "later";
  }

  #take({ operation, sector, sectorCount, ring }: TraceRecord): void {
    if (this.#beganUs < 0) this.#beganUs = this.#trace.timeUs;
    this.operation = operation;
    this.sector = sector;
    this.sectorCount = RING_OPERATIONS[operation] === OP_FLUSH_DISKCACHE ? 0 : sectorCount;
    this.ring = ring;
    this.timeUs = this.#trace.timeUs - this.#beganUs;
  }

  #unfit({ operation, sector, sectorCount }: TraceRecord): SkipReason | undefined {
    const { sectors, flush, discard, readOnly } = this.#disk;
    const wanted = RING_OPERATIONS[operation];
    if (wanted === OP_FLUSH_DISKCACHE) return flush ? undefined : "not offered";
    if (wanted !== OP_READ && readOnly) return "read-only";
    if (wanted === OP_DISCARD && !discard) return "not offered";
    if (sectorCount === 0) return "empty";
    if (sector + sectorCount > sectors) return "beyond the end";
    return sector % this.#unit === 0 && sectorCount % this.#unit === 0 ? undefined : "not of whole sectors";
  }

  #skip({ operation, sector }: TraceRecord, reason: SkipReason): void {
    const known = this.#skipped.get(reason) ??
      { reason, records: 0, operation: TRACE_OPERATIONS[operation]!, firstSector: sector };
    this.#skipped.set(reason, { ...known, records: known.records + 1 });
  }
}

/** Reads of the whole disk from its beginning to its end. */
export class SweepFeed implements RequestFeed {
  readonly operation = RING_OPERATIONS.indexOf(OP_READ);
  readonly timeUs = 0;
  sector = 0;
  sectorCount = 0;
  ring = 0;
  count = 0;
  readonly #sectors: number;
  readonly #most: number;

  /** Of up to `mostSectors` each. */
  constructor({ sectors }: DiskFacts, mostSectors: number) {
    this.#sectors = sectors;
    this.#most = mostSectors;
  }

  next(): "request" | "end" {
    this.sector += this.sectorCount;
    this.sectorCount = Math.min(this.#most, this.#sectors - this.sector);
    if (this.sectorCount <= 0) return "end";
    this.ring = this.count++;
    return "request";
  }
}
