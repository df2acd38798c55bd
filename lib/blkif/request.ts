/**
 * Requests after they left the ring: raw decoding of a private snapshot into preallocated arrays, and the check that
 * says whether a request may be carried out. Nothing here allocates per request or loses a bit of a 64-bit value.
 * It must not know rings, grants or disks beyond a disk's limits.
 */

import {
  type AbiLayout,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  SECTOR_SIZE_BYTES,
  SECTORS_PER_PAGE,
  SEGMENT_FIRST_SECTOR_OFFSET,
  SEGMENT_LAST_SECTOR_OFFSET,
  SEGMENT_SIZE_BYTES,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "./abi.ts";

/** Private memory that request snapshots are copied into, seen as bytes, halves and words. */
export class SnapshotMemory {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;

  /** `memory` must be private to this process and begin at a multiple of 4 of its buffer. */
  constructor(memory: Uint8Array) {
    this.u8 = memory;
    this.u16 = new Uint16Array(memory.buffer, memory.byteOffset, memory.length >>> 1);
    this.u32 = new Uint32Array(memory.buffer, memory.byteOffset, memory.length >>> 2);
  }
}

/** The requests of one ring that are in flight, as arrays indexed by slot (a number the owner chooses, not the id). */
export class RequestSlots {
  /** BLKIF_OP_* as it was on the wire. */
  readonly operation: Uint8Array<ArrayBuffer>;
  /** What the response must carry: the operation, but for an indirect request its inner one. */
  readonly responseOperation: Uint8Array<ArrayBuffer>;
  readonly handle: Uint16Array<ArrayBuffer>;
  readonly idLow: Uint32Array<ArrayBuffer>;
  readonly idHigh: Uint32Array<ArrayBuffer>;
  readonly sectorLow: Uint32Array<ArrayBuffer>;
  readonly sectorHigh: Uint32Array<ArrayBuffer>;
  /** As it was on the wire: may exceed `maxSegments`, beyond which no segment was decoded. */
  readonly segmentCount: Uint16Array<ArrayBuffer>;
  /** Place on the disk, exact; set by {@linkcode validateRequest} when it returns STATUS_OKAY. */
  readonly offsetBytes: Float64Array<ArrayBuffer>;
  /** Data of all segments together; set by {@linkcode validateRequest} when it returns STATUS_OKAY. 0: a mere flush. */
  readonly lengthBytes: Uint32Array<ArrayBuffer>;
  /** Segment i of a slot is at `slot * maxSegments + i`, here and in the next two. */
  readonly grefs: Uint32Array<ArrayBuffer>;
  readonly firstSector: Uint8Array<ArrayBuffer>;
  readonly lastSector: Uint8Array<ArrayBuffer>;

  constructor(readonly slots: number, readonly maxSegments: number) {
    this.operation = new Uint8Array(slots);
    this.responseOperation = new Uint8Array(slots);
    this.handle = new Uint16Array(slots);
    this.idLow = new Uint32Array(slots);
    this.idHigh = new Uint32Array(slots);
    this.sectorLow = new Uint32Array(slots);
    this.sectorHigh = new Uint32Array(slots);
    this.segmentCount = new Uint16Array(slots);
    this.offsetBytes = new Float64Array(slots);
    this.lengthBytes = new Uint32Array(slots);
    this.grefs = new Uint32Array(slots * maxSegments);
    this.firstSector = new Uint8Array(slots * maxSegments);
    this.lastSector = new Uint8Array(slots * maxSegments);
  }
}

/** What a request is checked against. A disk's properties will do. */
export interface DiskLimits {
  /** Size in 512-byte sectors, at most 2^53. */
  readonly sectors: number;
  readonly readOnly: boolean;
  /** A power of two from 512 to 4096. */
  readonly logicalSectorBytes: number;
}

/**
 * Decodes the snapshot at `byteOffset` (a multiple of 4) into a slot, whatever it holds: no value is refused here.
 * Segments are decoded for requests that carry them directly, so not for DISCARD and INDIRECT.
 */
export function decodeRequest(
  snapshot: SnapshotMemory,
  byteOffset: number,
  abi: AbiLayout,
  slots: RequestSlots,
  slot: number,
): void {
  const u8 = snapshot.u8;
  const u32 = snapshot.u32;
  const operation = u8[byteOffset + abi.operationOffset]!;
  slots.operation[slot] = operation;
  const id = (byteOffset + abi.idOffset) >>> 2;
  slots.idLow[slot] = u32[id]!;
  slots.idHigh[slot] = u32[id + 1]!;
  const sector = (byteOffset + abi.sectorOffset) >>> 2;
  slots.sectorLow[slot] = u32[sector]!;
  slots.sectorHigh[slot] = u32[sector + 1]!;
  if (operation === OP_INDIRECT) {
    decodeIndirect(snapshot, byteOffset, abi, slots, slot);
    return;
  }
  slots.responseOperation[slot] = operation;
  slots.handle[slot] = snapshot.u16[(byteOffset + abi.handleOffset) >>> 1]!;
  const wireCount = operation === OP_DISCARD ? 0 : u8[byteOffset + abi.segmentCountOffset]!;
  slots.segmentCount[slot] = wireCount;
  const fitting = slots.maxSegments < MAX_SEGMENTS_PER_REQUEST ? slots.maxSegments : MAX_SEGMENTS_PER_REQUEST;
  const count = wireCount < fitting ? wireCount : fitting;
  let segment = byteOffset + abi.segmentsOffset;
  let entry = slot * slots.maxSegments;
  for (let i = 0; i < count; i++, entry++, segment += SEGMENT_SIZE_BYTES) {
    slots.grefs[entry] = u32[segment >>> 2]!;
    slots.firstSector[entry] = u8[segment + SEGMENT_FIRST_SECTOR_OFFSET]!;
    slots.lastSector[entry] = u8[segment + SEGMENT_LAST_SECTOR_OFFSET]!;
  }
}

/** The part of an indirect request that lies elsewhere than in a direct one. */
function decodeIndirect(
  snapshot: SnapshotMemory,
  byteOffset: number,
  abi: AbiLayout,
  slots: RequestSlots,
  slot: number,
): void {
  const inner = snapshot.u8[byteOffset + abi.indirectOperationOffset]!;
  // A frontend disables its disk on a response with an operation it cannot have asked for.
  slots.responseOperation[slot] = inner === OP_WRITE ? OP_WRITE : OP_READ;
  slots.handle[slot] = snapshot.u16[(byteOffset + abi.indirectHandleOffset) >>> 1]!;
  slots.segmentCount[slot] = snapshot.u16[(byteOffset + abi.indirectSegmentCountOffset) >>> 1]!;
}

const ACCEPTED = 0;
const REFUSED_OPERATION = 1;
const REFUSED_READ_ONLY = 2;
const REFUSED_NO_SEGMENTS = 3;
const REFUSED_SEGMENT_COUNT = 4;
const REFUSED_SEGMENT = 5;
const REFUSED_ALIGNMENT = 6;
const REFUSED_BEYOND_END = 7;

/** At this value of a sector number's upper word it is 2^53, which no disk has. */
const SECTOR_HIGH_LIMIT = 2 ** 21;

/**
 * Checks a decoded request against the disk. STATUS_OKAY: it may be carried out, and `offsetBytes` and `lengthBytes` of
 * the slot are set; else the status to answer. An empty WRITE_BARRIER or FLUSH_DISKCACHE is a flush: its sector number
 * means nothing, its length is 0, and a read-only disk allows it.
 */
export function validateRequest(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  const verdict = check(slots, slot, limits);
  if (verdict === ACCEPTED) return STATUS_OKAY;
  return verdict === REFUSED_OPERATION ? STATUS_EOPNOTSUPP : STATUS_ERROR;
}

/** One of the constants above; sets the slot's place and length when it accepts. */
function check(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  const operation = slots.operation[slot]!;
  if (operation > OP_FLUSH_DISKCACHE) return REFUSED_OPERATION;
  const count = slots.segmentCount[slot]!;
  if (count === 0) {
    if (operation < OP_WRITE_BARRIER) return REFUSED_NO_SEGMENTS;
    slots.offsetBytes[slot] = 0;
    slots.lengthBytes[slot] = 0;
    return ACCEPTED;
  }
  if (operation !== OP_READ && limits.readOnly) return REFUSED_READ_ONLY;
  if (count > MAX_SEGMENTS_PER_REQUEST || count > slots.maxSegments) return REFUSED_SEGMENT_COUNT;
  return checkRange(slots, slot, count, limits);
}

/** The part of {@linkcode check} for requests with data: segments, alignment, end of the disk. */
function checkRange(slots: RequestSlots, slot: number, count: number, limits: DiskLimits): number {
  const alignMask = limits.logicalSectorBytes / SECTOR_SIZE_BYTES - 1;
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
  slots.offsetBytes[slot] = sector * SECTOR_SIZE_BYTES;
  slots.lengthBytes[slot] = total * SECTOR_SIZE_BYTES;
  return ACCEPTED;
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
      return `${count} segments, at most ${Math.min(MAX_SEGMENTS_PER_REQUEST, slots.maxSegments)} are allowed`;
    case REFUSED_SEGMENT:
      return describeBadSegment(slots, slot, count);
    case REFUSED_ALIGNMENT:
      return `not aligned to the disk's ${limits.logicalSectorBytes}-byte sectors`;
    case REFUSED_BEYOND_END:
      return `sector ${sectorText(slots, slot)} and its data are beyond the disk's ${limits.sectors} sectors`;
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
