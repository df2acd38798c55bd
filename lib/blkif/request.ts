/**
 * Requests after they left the ring: raw decoding of private snapshots into preallocated arrays, whatever they hold.
 * Nothing here allocates per request, loses a bit of a 64-bit value or refuses anything: that is validate.ts's part.
 * It must not know rings, grants or disks.
 */

import {
  type AbiLayout,
  MAX_INDIRECT_PAGES_PER_REQUEST,
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  SEGMENT_FIRST_SECTOR_OFFSET,
  SEGMENT_LAST_SECTOR_OFFSET,
  SEGMENT_SIZE_BYTES,
  SEGMENTS_PER_INDIRECT_PAGE,
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
  /** BLKIF_OP_* as it was on the wire; of an indirect request, once its segments are decoded, the inner operation. */
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
  /** Place on the disk, exact; set by `validateRequest` when it returns STATUS_OKAY. */
  readonly offsetBytes: Float64Array<ArrayBuffer>;
  /** Data of all segments together; set by `validateRequest` when it returns STATUS_OKAY. 0: no data. */
  readonly lengthBytes: Uint32Array<ArrayBuffer>;
  /** Segment i of a slot is at `slot * maxSegments + i`, here and in the next two. */
  readonly grefs: Uint32Array<ArrayBuffer>;
  readonly firstSector: Uint8Array<ArrayBuffer>;
  readonly lastSector: Uint8Array<ArrayBuffer>;

  /** Of an indirect request: what it asks for, as it was on the wire. */
  readonly innerOperation: Uint8Array<ArrayBuffer>;
  /** Of an indirect request: its pages; those of a slot begin at `slot * MAX_INDIRECT_PAGES_PER_REQUEST`. */
  readonly indirectGrefs: Uint32Array<ArrayBuffer>;
  /** 1 for an indirect request whose segments are decoded. */
  readonly hasIndirectSegments: Uint8Array<ArrayBuffer>;

  /** Of a discard: its flag, as it was on the wire. */
  readonly discardFlag: Uint8Array<ArrayBuffer>;
  readonly discardSectorsLow: Uint32Array<ArrayBuffer>;
  readonly discardSectorsHigh: Uint32Array<ArrayBuffer>;
  /** Whole granules to be discarded from `offsetBytes` on; set by `validateRequest` when it returns STATUS_OKAY. */
  readonly discardBytes: Float64Array<ArrayBuffer>;

  /**
   * `maxSegments` is the room per request, and `maxIndirectSegments` what an indirect one may use of it; 0: indirect
   * requests are not supported. Throws RangeError if the room does not suffice.
   */
  constructor(readonly slots: number, readonly maxSegments: number, readonly maxIndirectSegments: number = 0) {
    const most = Math.min(maxSegments, MAX_INDIRECT_PAGES_PER_REQUEST * SEGMENTS_PER_INDIRECT_PAGE);
    if (maxIndirectSegments > most) {
      throw new RangeError(`Cannot hold ${maxIndirectSegments} segments: at most ${most}`);
    }
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
    this.innerOperation = new Uint8Array(slots);
    this.indirectGrefs = new Uint32Array(slots * MAX_INDIRECT_PAGES_PER_REQUEST);
    this.hasIndirectSegments = new Uint8Array(slots);
    this.discardFlag = new Uint8Array(slots);
    this.discardSectorsLow = new Uint32Array(slots);
    this.discardSectorsHigh = new Uint32Array(slots);
    this.discardBytes = new Float64Array(slots);
  }
}

/** Indirect pages that hold so many segments. */
export function indirectPages(segments: number): number {
  return Math.ceil(segments / SEGMENTS_PER_INDIRECT_PAGE);
}

/**
 * Decodes the snapshot at `byteOffset` (a multiple of 4) into a slot, whatever it holds: no value is refused here. The
 * segments of an indirect request are elsewhere: see {@linkcode decodeIndirectSegments}.
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
  slots.handle[slot] = snapshot.u16[(byteOffset + abi.handleOffset) >>> 1]!;
  if (operation === OP_DISCARD) return decodeDiscard(snapshot, byteOffset, abi, slots, slot);
  const wireCount = u8[byteOffset + abi.segmentCountOffset]!;
  slots.segmentCount[slot] = wireCount;
  const fitting = slots.maxSegments < MAX_SEGMENTS_PER_REQUEST ? slots.maxSegments : MAX_SEGMENTS_PER_REQUEST;
  decodeSegments(
    snapshot,
    byteOffset + abi.segmentsOffset,
    slots,
    slot * slots.maxSegments,
    Math.min(wireCount, fitting),
  );
}

function decodeSegments(
  snapshot: SnapshotMemory,
  byteOffset: number,
  slots: RequestSlots,
  firstEntry: number,
  count: number,
): void {
  const { u8, u32 } = snapshot;
  const { grefs, firstSector, lastSector } = slots;
  let segment = byteOffset;
  for (let entry = firstEntry; entry < firstEntry + count; entry++, segment += SEGMENT_SIZE_BYTES) {
    grefs[entry] = u32[segment >>> 2]!;
    firstSector[entry] = u8[segment + SEGMENT_FIRST_SECTOR_OFFSET]!;
    lastSector[entry] = u8[segment + SEGMENT_LAST_SECTOR_OFFSET]!;
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
  slots.innerOperation[slot] = inner;
  // A frontend disables its disk on a response with an operation it cannot have asked for.
  slots.responseOperation[slot] = inner === OP_WRITE ? OP_WRITE : OP_READ;
  slots.handle[slot] = snapshot.u16[(byteOffset + abi.indirectHandleOffset) >>> 1]!;
  slots.segmentCount[slot] = snapshot.u16[(byteOffset + abi.indirectSegmentCountOffset) >>> 1]!;
  const grefs = (byteOffset + abi.indirectGrefsOffset) >>> 2;
  const entry = slot * MAX_INDIRECT_PAGES_PER_REQUEST;
  for (let i = 0; i < MAX_INDIRECT_PAGES_PER_REQUEST; i++) slots.indirectGrefs[entry + i] = snapshot.u32[grefs + i]!;
}

/** The part of a discard that lies elsewhere than in a direct request. */
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
 * Decodes the segments of an indirect request that was found valid so far, from a private copy of its pages, one after
 * another at `byteOffset` (a multiple of 4). From then on it is a read or write with more segments than a direct one
 * can have, still to be validated as such.
 */
export function decodeIndirectSegments(
  pages: SnapshotMemory,
  byteOffset: number,
  slots: RequestSlots,
  slot: number,
): void {
  decodeSegments(pages, byteOffset, slots, slot * slots.maxSegments, slots.segmentCount[slot]!);
  slots.operation[slot] = slots.innerOperation[slot]!;
  slots.hasIndirectSegments[slot] = 1;
}
