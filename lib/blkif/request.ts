/**
 * A request after it left the ring: decoded from a private copy into preallocated arrays, and validated against the
 * disk's limits. Decoding refuses nothing; validation decides, and sets where on the disk the request's data is.
 * Nothing is allocated per request, and no 64-bit value loses a bit or wraps. What a log line says of a refusal is in
 * refusal.ts.
 */

import { SECTOR_BYTES, SECTOR_SHIFT } from "../units.ts";
import {
  type AbiLayout,
  DISCARD_SECURE,
  MAX_INDIRECT_PAGES_PER_REQUEST,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  OP_WRITE_BARRIER,
  SECTORS_PER_PAGE,
  SEGMENT_WORDS,
  SEGMENTS_PER_INDIRECT_PAGE,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "./abi.ts";

/** Private memory that requests are copied into, seen as bytes, 16-bit halves and 32-bit words. */
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

/** What {@linkcode RequestSlots} takes for one segment: a grant reference, the first and the last sector. */
export const SEGMENT_BYTES = 6;

/**
 * The decoded requests of one ring, as arrays indexed by slot (a number that the owner chooses, not the request's id).
 */
export class RequestSlots {
  /** BLKIF_OP_* from the wire; for an indirect request, once its segments are decoded, the inner operation. */
  readonly operation: Uint8Array<ArrayBuffer>;
  /** The operation of the response: that of the request, or the inner one of an indirect request. */
  readonly responseOperation: Uint8Array<ArrayBuffer>;
  readonly idLow: Uint32Array<ArrayBuffer>;
  readonly idHigh: Uint32Array<ArrayBuffer>;
  readonly sectorLow: Uint32Array<ArrayBuffer>;
  readonly sectorHigh: Uint32Array<ArrayBuffer>;
  /** From the wire, so it may exceed `maxSegments`; at most `maxSegments` segments are decoded. */
  readonly segmentCount: Uint16Array<ArrayBuffer>;
  /** Place on the disk, exact; set by `validateRequest`. */
  readonly offsetBytes: Float64Array<ArrayBuffer>;
  /** Length of all segments together, 0 without data; set by `validateRequest`. */
  readonly lengthBytes: Uint32Array<ArrayBuffer>;
  /**
   * Where the segments of a slot begin in the next three: set when they are decoded. Single ones are side by side, since
   * most requests have one, and those of a ring then share a few lines of the processor's caches.
   */
  readonly firstSegment: Uint32Array<ArrayBuffer>;
  /** The entries of the next three: see {@linkcode segmentEntries}. */
  readonly segmentEntries: number;
  readonly grefs: Uint32Array;
  readonly firstSector: Uint8Array;
  readonly lastSector: Uint8Array;

  /** Indirect requests: the inner operation from the wire. */
  readonly innerOperation: Uint8Array<ArrayBuffer>;
  /**
   * Indirect requests: the pages with the segments; those of a slot begin at `slot * MAX_INDIRECT_PAGES_PER_REQUEST`.
   */
  readonly indirectGrefs: Uint32Array<ArrayBuffer>;
  /** 1 for an indirect request whose segments are decoded. */
  readonly hasIndirectSegments: Uint8Array<ArrayBuffer>;

  /** Discards: the flag byte from the wire. */
  readonly discardFlag: Uint8Array<ArrayBuffer>;
  readonly discardSectorsLow: Uint32Array<ArrayBuffer>;
  readonly discardSectorsHigh: Uint32Array<ArrayBuffer>;
  /** Discards: length of the whole granules from `offsetBytes` on; set by `validateRequest`. */
  readonly discardBytes: Float64Array<ArrayBuffer>;

  /**
   * `maxSegments` is the room per request, `maxIndirectSegments` how many segments an indirect request may have (0:
   * indirect requests are not supported). Throws RangeError if the latter do not fit. `memory` is for what there is by
   * segment: zeroed, aligned to 4, with {@linkcode SEGMENT_BYTES} for each.
   */
  constructor(
    readonly slots: number,
    readonly maxSegments: number,
    readonly maxIndirectSegments: number = 0,
    { buffer, byteOffset }: Uint8Array = new Uint8Array(segmentEntries(slots, maxSegments) * SEGMENT_BYTES),
  ) {
    const most = Math.min(maxSegments, MAX_INDIRECT_PAGES_PER_REQUEST * SEGMENTS_PER_INDIRECT_PAGE);
    if (maxIndirectSegments > most) {
      throw new RangeError(`Cannot hold ${maxIndirectSegments} segments: at most ${most}`);
    }
    this.operation = new Uint8Array(slots);
    this.responseOperation = new Uint8Array(slots);
    this.idLow = new Uint32Array(slots);
    this.idHigh = new Uint32Array(slots);
    this.sectorLow = new Uint32Array(slots);
    this.sectorHigh = new Uint32Array(slots);
    this.segmentCount = new Uint16Array(slots);
    this.offsetBytes = new Float64Array(slots);
    this.lengthBytes = new Uint32Array(slots);
    const segments = segmentEntries(slots, maxSegments);
    this.segmentEntries = segments;
    this.firstSegment = new Uint32Array(slots);
    this.grefs = new Uint32Array(buffer, byteOffset, segments);
    this.firstSector = new Uint8Array(buffer, byteOffset + 4 * segments, segments);
    this.lastSector = new Uint8Array(buffer, byteOffset + 5 * segments, segments);
    this.innerOperation = new Uint8Array(slots);
    this.indirectGrefs = new Uint32Array(slots * MAX_INDIRECT_PAGES_PER_REQUEST);
    this.hasIndirectSegments = new Uint8Array(slots);
    this.discardFlag = new Uint8Array(slots);
    this.discardSectorsLow = new Uint32Array(slots);
    this.discardSectorsHigh = new Uint32Array(slots);
    this.discardBytes = new Float64Array(slots);
  }
}

/**
 * Entries that are not used are between those of two slots. At a distance of a power of two the first segments of all slots
 * would be in the same few lines of the processor's caches.
 */
const UNUSED_SEGMENTS = 8;

/** How many entries so many slots have: one for a single segment each, and those for several. */
export function segmentEntries(slots: number, maxSegments: number): number {
  return slots * (1 + maxSegments + UNUSED_SEGMENTS);
}

/** Chooses the place of so many segments. */
function placeSegments(slots: RequestSlots, slot: number, count: number): number {
  return slots.firstSegment[slot] = count <= 1 ? slot : slots.slots + slot * (slots.maxSegments + UNUSED_SEGMENTS);
}

/** How many indirect pages `segments` segments need. */
export function indirectPages(segments: number): number {
  return Math.ceil(segments / SEGMENTS_PER_INDIRECT_PAGE);
}

/**
 * Decodes the snapshot at `byteOffset` (a multiple of 4) into a slot, whatever the bytes are. The segments of an
 * indirect request come later: see {@linkcode decodeIndirectSegments}.
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
  slots.hasIndirectSegments[slot] = 0;
  const id = (byteOffset + abi.idOffset) >>> 2;
  slots.idLow[slot] = u32[id]!;
  slots.idHigh[slot] = u32[id + 1]!;
  const sector = (byteOffset + abi.sectorOffset) >>> 2;
  slots.sectorLow[slot] = u32[sector]!;
  slots.sectorHigh[slot] = u32[sector + 1]!;
  if (operation === OP_INDIRECT) return decodeIndirect(snapshot, byteOffset, abi, slots, slot);
  slots.responseOperation[slot] = operation;
  if (operation === OP_DISCARD) return decodeDiscard(snapshot, byteOffset, abi, slots, slot);
  const wireCount = u8[byteOffset + abi.segmentCountOffset]!;
  slots.segmentCount[slot] = wireCount;
  const fitting = slots.maxSegments < MAX_SEGMENTS_PER_REQUEST ? slots.maxSegments : MAX_SEGMENTS_PER_REQUEST;
  const count = wireCount < fitting ? wireCount : fitting; // Math.min would go through floating point
  decodeSegments(snapshot, byteOffset + abi.segmentsOffset, slots, placeSegments(slots, slot, count), count);
}

function decodeSegments(
  snapshot: SnapshotMemory,
  byteOffset: number,
  slots: RequestSlots,
  firstEntry: number,
  count: number,
): void {
  const { u32 } = snapshot;
  const { grefs, firstSector, lastSector } = slots;
  const end = firstEntry + count;
  let word = byteOffset >>> 2;
  for (let entry = firstEntry; entry < end; entry++, word += SEGMENT_WORDS) {
    const sectors = u32[word + 1]!; // the first in its lowest byte, the last in the next; a store keeps one byte
    grefs[entry] = u32[word]!;
    firstSector[entry] = sectors;
    lastSector[entry] = sectors >>> 8;
  }
}

/** The fields that an indirect request has at other places than a direct one. */
function decodeIndirect(
  snapshot: SnapshotMemory,
  byteOffset: number,
  abi: AbiLayout,
  slots: RequestSlots,
  slot: number,
): void {
  const inner = snapshot.u8[byteOffset + abi.indirectOperationOffset]!;
  slots.innerOperation[slot] = inner;
  // A frontend disables its disk if a response has an operation that it did not ask for.
  slots.responseOperation[slot] = inner === OP_WRITE ? OP_WRITE : OP_READ;
  slots.segmentCount[slot] = snapshot.u16[(byteOffset + abi.indirectSegmentCountOffset) >>> 1]!;
  const grefs = (byteOffset + abi.indirectGrefsOffset) >>> 2;
  const entry = slot * MAX_INDIRECT_PAGES_PER_REQUEST;
  for (let i = 0; i < MAX_INDIRECT_PAGES_PER_REQUEST; i++) slots.indirectGrefs[entry + i] = snapshot.u32[grefs + i]!;
}

/** The fields that a discard has at other places than a direct request. */
function decodeDiscard(
  snapshot: SnapshotMemory,
  byteOffset: number,
  abi: AbiLayout,
  slots: RequestSlots,
  slot: number,
): void {
  slots.segmentCount[slot] = 0;
  slots.discardFlag[slot] = snapshot.u8[byteOffset + abi.discardFlagOffset]!;
  const count = (byteOffset + abi.discardSectorCountOffset) >>> 2;
  slots.discardSectorsLow[slot] = snapshot.u32[count]!;
  slots.discardSectorsHigh[slot] = snapshot.u32[count + 1]!;
}

/**
 * Decodes the segments of an indirect request from private copies of its pages, which follow each other at `byteOffset`
 * (a multiple of 4). The request must have been validated once. From then on it is a read or write, possibly with more
 * segments than a direct one can have, and must be validated again.
 */
export function decodeIndirectSegments(
  pages: SnapshotMemory,
  byteOffset: number,
  slots: RequestSlots,
  slot: number,
): void {
  const count = slots.segmentCount[slot]!;
  decodeSegments(pages, byteOffset, slots, placeSegments(slots, slot, count), count);
  slots.operation[slot] = slots.innerOperation[slot]!;
  slots.hasIndirectSegments[slot] = 1;
}

/** What a request is validated against: a subset of a disk's properties. */
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
  /** A multiple of 512. Only whole granules are discarded. */
  readonly granularityBytes: number;
  /** Where the first granule begins: a multiple of 512. */
  readonly alignmentBytes: number;
  /** True: the secure flag is honoured; false: it is ignored. */
  readonly secure: boolean;
}

/** What validation says of a request: accepted, or what is wrong with it. refusal.ts has the words. */
export const VERDICT = {
  accepted: 0,
  /** The operation is unknown, or not offered. */
  operation: 1,
  readOnly: 2,
  noSegments: 3,
  segmentCount: 4,
  segment: 5,
  alignment: 6,
  beyondEnd: 7,
  innerOperation: 8,
} as const;

/** A sector number with this upper word is 2^53 or more, beyond the end of every disk. */
const SECTOR_HIGH_LIMIT = 2 ** 21;

/**
 * Validates a decoded request. Returns STATUS_OKAY if it may be carried out, else the status to answer. When it
 * accepts, it sets the slot's `offsetBytes`, `lengthBytes` and, for a discard, `discardBytes`.
 *
 * An empty WRITE_BARRIER or FLUSH_DISKCACHE is a flush: its sector number means nothing, its length is 0, and a
 * read-only disk allows it. A discard of less than a granule has 0 `discardBytes`. An indirect request is validated
 * twice: before its segments are decoded STATUS_OKAY means that they may be fetched; afterwards it is validated as a
 * read or write.
 */
export function validateRequest(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  const verdict = verdictOf(slots, slot, limits);
  if (verdict === VERDICT.accepted) return STATUS_OKAY;
  return verdict === VERDICT.operation ? STATUS_EOPNOTSUPP : STATUS_ERROR;
}

/** As {@linkcode validateRequest}, but returns a {@linkcode VERDICT}, which tells what is wrong with the request. */
export function verdictOf(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  const operation = slots.operation[slot]!;
  if (operation > OP_FLUSH_DISKCACHE) {
    if (operation === OP_INDIRECT) return checkIndirect(slots, slot, limits);
    return operation === OP_DISCARD ? checkDiscard(slots, slot, limits) : VERDICT.operation;
  }
  const count = slots.segmentCount[slot]!;
  if (count === 0) {
    if (operation < OP_WRITE_BARRIER) return VERDICT.noSegments;
    return acceptWithoutData(slots, slot);
  }
  if (operation !== OP_READ && limits.readOnly) return VERDICT.readOnly;
  if (count > mostSegments(slots, slot)) return VERDICT.segmentCount;
  return checkSegments(slots, slot, count, limits);
}

/** Segments that the request may have, by its kind. */
export function mostSegments(slots: RequestSlots, slot: number): number {
  if (slots.hasIndirectSegments[slot] === 1 || slots.operation[slot] === OP_INDIRECT) return slots.maxIndirectSegments;
  return slots.maxSegments < MAX_SEGMENTS_PER_REQUEST ? slots.maxSegments : MAX_SEGMENTS_PER_REQUEST;
}

function acceptWithoutData(slots: RequestSlots, slot: number): number {
  slots.offsetBytes[slot] = 0;
  slots.lengthBytes[slot] = 0;
  return VERDICT.accepted;
}

/** Requests with data: segments, alignment, end of the disk. */
function checkSegments(slots: RequestSlots, slot: number, count: number, limits: DiskLimits): number {
  const alignMask = (limits.logicalSectorBytes >>> SECTOR_SHIFT) - 1;
  let misaligned = slots.sectorLow[slot]! & alignMask;
  let total = 0;
  const end = slots.firstSegment[slot]! + count;
  for (let entry = end - count; entry < end; entry++) {
    const first = slots.firstSector[entry]!;
    const last = slots.lastSector[entry]!;
    if (first > last || last >= SECTORS_PER_PAGE) return VERDICT.segment;
    const sectors = last - first + 1;
    misaligned |= (first | sectors) & alignMask;
    total += sectors;
  }
  if (misaligned !== 0) return VERDICT.alignment;
  const high = slots.sectorHigh[slot]!;
  if (high >= SECTOR_HIGH_LIMIT) return VERDICT.beyondEnd;
  // Below 2^53, so exact; and the subtraction cannot wrap as the addition could.
  const sector = high * 2 ** 32 + slots.sectorLow[slot]!;
  if (sector > limits.sectors - total) return VERDICT.beyondEnd;
  slots.offsetBytes[slot] = sector * SECTOR_BYTES;
  slots.lengthBytes[slot] = total * SECTOR_BYTES;
  return VERDICT.accepted;
}

/** An indirect request before its segments are fetched. */
function checkIndirect(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  if (slots.maxIndirectSegments === 0) return VERDICT.operation;
  const inner = slots.innerOperation[slot]!;
  if (inner !== OP_READ && inner !== OP_WRITE) return VERDICT.innerOperation;
  const count = slots.segmentCount[slot]!;
  if (count === 0) return VERDICT.noSegments;
  if (inner === OP_WRITE && limits.readOnly) return VERDICT.readOnly;
  // The segments that we offer fit into the pages that a request can name, so this also bounds the pages.
  if (count > slots.maxIndirectSegments) return VERDICT.segmentCount;
  return acceptWithoutData(slots, slot);
}

/** Shrinks the range of a discard to whole granules. Takes constant time, whatever its length. */
function checkDiscard(slots: RequestSlots, slot: number, limits: DiskLimits): number {
  if (limits.readOnly) return VERDICT.readOnly;
  if (limits.discard === undefined) return VERDICT.operation;
  const sectorHigh = slots.sectorHigh[slot]!;
  const countHigh = slots.discardSectorsHigh[slot]!;
  if (sectorHigh >= SECTOR_HIGH_LIMIT || countHigh >= SECTOR_HIGH_LIMIT) return VERDICT.beyondEnd;
  const sector = sectorHigh * 2 ** 32 + slots.sectorLow[slot]!;
  const count = countHigh * 2 ** 32 + slots.discardSectorsLow[slot]!;
  if (sector > limits.sectors - count) return VERDICT.beyondEnd;
  const { granularityBytes, alignmentBytes } = limits.discard;
  const granule = Math.max(granularityBytes, limits.logicalSectorBytes) / SECTOR_BYTES;
  const alignment = (alignmentBytes / SECTOR_BYTES) % granule;
  const begin = sector + modulo(alignment - sector, granule);
  const end = sector + count - modulo(sector + count - alignment, granule);
  slots.offsetBytes[slot] = begin * SECTOR_BYTES;
  slots.lengthBytes[slot] = 0;
  slots.discardBytes[slot] = Math.max(0, end - begin) * SECTOR_BYTES;
  return VERDICT.accepted;
}

/** The remainder, never negative. */
function modulo(value: number, divisor: number): number {
  const rest = value % divisor;
  return rest < 0 ? rest + divisor : rest;
}

/** Whether an accepted discard must make its data unrecoverable: the guest asked for it, and the disk supports it. */
export function isSecureDiscard(slots: RequestSlots, slot: number, limits: DiskLimits): boolean {
  return (slots.discardFlag[slot]! & DISCARD_SECURE) !== 0 && limits.discard?.secure === true;
}
