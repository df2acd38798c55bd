/**
 * Which decoded requests may be carried out: each is checked against the disk's limits, and those that pass have their
 * place on the disk and their length set. 64-bit values are compared without losing a bit or wrapping around. It must
 * not know rings, grants or disks beyond a disk's limits.
 */

import { SECTOR_BYTES } from "../units.ts";
import {
  DISCARD_SECURE,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  SECTORS_PER_PAGE,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "./abi.ts";
import type { RequestSlots } from "./request.ts";

/** What a request is checked against. A disk's properties will do. */
export interface DiskLimits {
  /** Size in 512-byte sectors, at most 2^53. */
  readonly sectors: number;
  readonly readOnly: boolean;
  /** A power of two from 512 to 4096. */
  readonly logicalSectorBytes: number;
  /** Absent: discards are not supported. */
  readonly discard?: DiscardLimits;
}

/** How a disk discards. */
export interface DiscardLimits {
  /** A multiple of 512: what is smaller, or not at a multiple of it, is left as it is. */
  readonly granularityBytes: number;
  /** Where the first granule begins: a multiple of 512. */
  readonly alignmentBytes: number;
  /** The secure flag is honoured; else it is ignored. */
  readonly secure: boolean;
}

const ACCEPTED = 0;
const REFUSED_OPERATION = 1;
const REFUSED_READ_ONLY = 2;
const REFUSED_NO_SEGMENTS = 3;
const REFUSED_SEGMENT_COUNT = 4;
const REFUSED_SEGMENT = 5;
const REFUSED_ALIGNMENT = 6;
const REFUSED_BEYOND_END = 7;
const REFUSED_INNER_OPERATION = 8;

/** At this value of a sector number's upper word it is 2^53, which no disk has. */
const SECTOR_HIGH_LIMIT = 2 ** 21;

/**
 * Checks a decoded request against the disk. STATUS_OKAY: it may be carried out, and `offsetBytes`, `lengthBytes` and,
 * for a discard, `discardBytes` of the slot are set; else the status to answer. An empty WRITE_BARRIER or
 * FLUSH_DISKCACHE is a flush: its sector number means nothing, its length is 0, and a read-only disk allows it. A
 * discard of less than a granule has 0 `discardBytes`. Of an indirect request whose segments are not decoded yet only
 * the rest is checked: STATUS_OKAY then means that they may be fetched, after which it is to be checked again.
 */
export function validateRequest(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  const verdict = check(slots, slot, limits);
  if (verdict === ACCEPTED) return STATUS_OKAY;
  return verdict === REFUSED_OPERATION ? STATUS_EOPNOTSUPP : STATUS_ERROR;
}

/** One of the constants above; sets the slot's place and length when it accepts. */
function check(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  const operation = slots.operation[slot]!;
  if (operation > OP_FLUSH_DISKCACHE) {
    if (operation === OP_INDIRECT) return checkIndirect(slots, slot, limits);
    return operation === OP_DISCARD ? checkDiscard(slots, slot, limits) : REFUSED_OPERATION;
  }
  const count = slots.segmentCount[slot]!;
  if (count === 0) {
    if (operation < OP_WRITE_BARRIER) return REFUSED_NO_SEGMENTS;
    return acceptWithoutData(slots, slot);
  }
  if (operation !== OP_READ && limits.readOnly) return REFUSED_READ_ONLY;
  if (count > mostSegments(slots, slot)) return REFUSED_SEGMENT_COUNT;
  return checkSegments(slots, slot, count, limits);
}

function mostSegments(slots: RequestSlots, slot: number): number {
  if (slots.hasIndirectSegments[slot] === 1 || slots.operation[slot] === OP_INDIRECT) return slots.maxIndirectSegments;
  return slots.maxSegments < MAX_SEGMENTS_PER_REQUEST ? slots.maxSegments : MAX_SEGMENTS_PER_REQUEST;
}

function acceptWithoutData(slots: RequestSlots, slot: number): number {
  slots.offsetBytes[slot] = 0;
  slots.lengthBytes[slot] = 0;
  return ACCEPTED;
}

/** The part of {@linkcode check} for requests with data: segments, alignment, end of the disk. */
function checkSegments(slots: RequestSlots, slot: number, count: number, limits: DiskLimits): number {
  const alignMask = limits.logicalSectorBytes / SECTOR_BYTES - 1;
  let misaligned = slots.sectorLow[slot]! & alignMask;
  let total = 0;
  const end = slot * slots.maxSegments + count;
  for (let entry = end - count; entry < end; entry++) {
    const first = slots.firstSector[entry]!;
    const last = slots.lastSector[entry]!;
    if (first > last || last >= SECTORS_PER_PAGE) return REFUSED_SEGMENT;
    const sectors = last - first + 1;
    misaligned |= (first | sectors) & alignMask;
    total += sectors;
  }
  if (misaligned !== 0) return REFUSED_ALIGNMENT;
  const high = slots.sectorHigh[slot]!;
  if (high >= SECTOR_HIGH_LIMIT) return REFUSED_BEYOND_END;
  // Below 2^53, so exact; and the subtraction cannot wrap as the addition could.
  const sector = high * 2 ** 32 + slots.sectorLow[slot]!;
  if (sector > limits.sectors - total) return REFUSED_BEYOND_END;
  slots.offsetBytes[slot] = sector * SECTOR_BYTES;
  slots.lengthBytes[slot] = total * SECTOR_BYTES;
  return ACCEPTED;
}

/** What can be said of an indirect request without its segments. */
function checkIndirect(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  if (slots.maxIndirectSegments === 0) return REFUSED_OPERATION;
  const inner = slots.innerOperation[slot]!;
  if (inner !== OP_READ && inner !== OP_WRITE) return REFUSED_INNER_OPERATION;
  const count = slots.segmentCount[slot]!;
  if (count === 0) return REFUSED_NO_SEGMENTS;
  if (inner === OP_WRITE && limits.readOnly) return REFUSED_READ_ONLY;
  // What is offered fits the pages that a request can name, so this is the bound of both.
  if (count > slots.maxIndirectSegments) return REFUSED_SEGMENT_COUNT;
  return acceptWithoutData(slots, slot);
}

/** The range of a discard, shrunk inward to whole granules. In constant time, whatever its length. */
function checkDiscard(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  if (limits.readOnly) return REFUSED_READ_ONLY;
  if (limits.discard === undefined) return REFUSED_OPERATION;
  const sectorHigh = slots.sectorHigh[slot]!;
  const countHigh = slots.discardSectorsHigh[slot]!;
  if (sectorHigh >= SECTOR_HIGH_LIMIT || countHigh >= SECTOR_HIGH_LIMIT) return REFUSED_BEYOND_END;
  const sector = sectorHigh * 2 ** 32 + slots.sectorLow[slot]!;
  const count = countHigh * 2 ** 32 + slots.discardSectorsLow[slot]!;
  if (sector > limits.sectors - count) return REFUSED_BEYOND_END;
  const { granularityBytes, alignmentBytes } = limits.discard;
  const granule = Math.max(granularityBytes, limits.logicalSectorBytes) / SECTOR_BYTES;
  const alignment = (alignmentBytes / SECTOR_BYTES) % granule;
  const begin = sector + modulo(alignment - sector, granule);
  const end = sector + count - modulo(sector + count - alignment, granule);
  slots.offsetBytes[slot] = begin * SECTOR_BYTES;
  slots.lengthBytes[slot] = 0;
  slots.discardBytes[slot] = Math.max(0, end - begin) * SECTOR_BYTES;
  return ACCEPTED;
}

/** The remainder that is never negative. */
function modulo(value: number, divisor: number): number {
  const rest = value % divisor;
  return rest < 0 ? rest + divisor : rest;
}

/** Whether an accepted discard is to make its data unrecoverable: asked for, and supported. */
export function isSecureDiscard(slots: RequestSlots, slot: number, limits: DiskLimits): boolean {
  return (slots.discardFlag[slot]! & DISCARD_SECURE) !== 0 && limits.discard?.secure === true;
}

/** Why {@linkcode validateRequest} refused a request, for a log line; empty if it did not. */
export function refusalReason(slots: RequestSlots, slot: number, limits: DiskLimits): string {
  const operation = slots.operation[slot]!;
  const count = slots.segmentCount[slot]!;
  switch (check(slots, slot, limits)) {
    case REFUSED_OPERATION:
      return `operation ${operationName(operation)} is not supported`;
    case REFUSED_READ_ONLY:
      return `${operationName(operation)} to a read-only disk`;
    case REFUSED_NO_SEGMENTS:
      return `${operationName(operation)} without segments`;
    case REFUSED_SEGMENT_COUNT:
      return `${count} segments, at most ${mostSegments(slots, slot)} are allowed`;
    case REFUSED_SEGMENT:
      return describeBadSegment(slots, slot, count);
    case REFUSED_ALIGNMENT:
      return `not aligned to the disk's ${limits.logicalSectorBytes}-byte sectors`;
    case REFUSED_BEYOND_END:
      return `sector ${sectorText(slots, slot)} and its data are beyond the disk's ${limits.sectors} sectors`;
    case REFUSED_INNER_OPERATION:
      return `INDIRECT of operation ${operationName(slots.innerOperation[slot]!)}`;
    default:
      return "";
  }
}

function describeBadSegment(slots: RequestSlots, slot: number, count: number): string {
  for (let i = 0; i < count; i++) {
    const first = slots.firstSector[slot * slots.maxSegments + i]!;
    const last = slots.lastSector[slot * slots.maxSegments + i]!;
    if (first > last || last >= SECTORS_PER_PAGE) {
      return `segment ${i} has sectors ${first} to ${last} of a page that holds 0 to ${SECTORS_PER_PAGE - 1}`;
    }
  }
  return "";
}

function sectorText(slots: RequestSlots, slot: number): string {
  return ((BigInt(slots.sectorHigh[slot]!) << 32n) | BigInt(slots.sectorLow[slot]!)).toString();
}

const OPERATION_NAMES = ["READ", "WRITE", "WRITE_BARRIER", "FLUSH_DISKCACHE", "RESERVED_1", "DISCARD", "INDIRECT"];

/** The name of an operation as in blkif.h without its prefix, or its number if it has none. */
export function operationName(operation: number): string {
  return OPERATION_NAMES[operation] ?? String(operation);
}
