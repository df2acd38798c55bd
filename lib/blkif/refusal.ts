/**
 * Why a request was refused, in words for a log line, and the names of operations. Called only for refused or failed
 * requests, so it need not be fast.
 */

import { SECTORS_PER_PAGE } from "./abi.ts";
import { type DiskLimits, mostSegments, type RequestSlots, VERDICT, verdictOf } from "./request.ts";

/** Why `validateRequest` refuses a request, for a log line; empty if it does not. */
export function refusalReason(slots: RequestSlots, slot: number, limits: DiskLimits): string {
  const operation = slots.operation[slot]!;
  const count = slots.segmentCount[slot]!;
  switch (verdictOf(slots, slot, limits)) {
    case VERDICT.operation:
      return `operation ${operationName(operation)} is not supported`;
    case VERDICT.readOnly:
      return `${operationName(operation)} to a read-only disk`;
    case VERDICT.noSegments:
      return `${operationName(operation)} without segments`;
    case VERDICT.segmentCount:
      return `${count} segments, at most ${mostSegments(slots, slot)} are allowed`;
    case VERDICT.segment:
      return describeBadSegment(slots, slot, count);
    case VERDICT.alignment:
      return `not aligned to the disk's ${limits.logicalSectorBytes}-byte sectors`;
    case VERDICT.beyondEnd:
      return `sector ${sectorText(slots, slot)} and its data are beyond the disk's ${limits.sectors} sectors`;
    case VERDICT.innerOperation:
      return `INDIRECT of operation ${operationName(slots.innerOperation[slot]!)}`;
    default:
      return "";
  }
}

function describeBadSegment(slots: RequestSlots, slot: number, count: number): string {
  for (let i = 0; i < count; i++) {
    const first = slots.firstSector[slots.firstSegment[slot]! + i]!;
    const last = slots.lastSector[slots.firstSegment[slot]! + i]!;
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

/** The name of an operation in blkif.h, without its prefix; or its number if it has no name. */
export function operationName(operation: number): string {
  return OPERATION_NAMES[operation] ?? String(operation);
}
