/**
 * The blkif wire format as data: operation codes, statuses, limits, and the layouts of the three ABIs, after Xen's
 * `xen/io/blkif.h`, `ring.h` and `protocols.h`. All integers on the wire are little-endian.
 */

import { PAGE_BYTES, SECTOR_BYTES } from "../units.ts";

/** The values of the frontend's `protocol` node (protocols.h: XEN_IO_PROTO_ABI_*). */
export const ABI_NAMES = ["x86_64-abi", "x86_32-abi", "arm-abi"] as const;
/** One of {@linkcode ABI_NAMES}. */
export type AbiName = (typeof ABI_NAMES)[number];

/** BLKIF_OP_READ: disk to guest. */
export const OP_READ = 0;
/** BLKIF_OP_WRITE: guest to disk. */
export const OP_WRITE = 1;
/** BLKIF_OP_WRITE_BARRIER: a write with a flush before and after; without segments, a flush. */
export const OP_WRITE_BARRIER = 2;
/** BLKIF_OP_FLUSH_DISKCACHE: makes completed writes durable; with segments, a flush followed by a write. */
export const OP_FLUSH_DISKCACHE = 3;
/** BLKIF_OP_RESERVED_1: never supported. */
export const OP_RESERVED = 4;
/** BLKIF_OP_DISCARD: the guest no longer uses a range. */
export const OP_DISCARD = 5;
/** BLKIF_OP_INDIRECT: a read or write whose segments are in granted pages. */
export const OP_INDIRECT = 6;

/** BLKIF_RSP_OKAY. */
export const STATUS_OKAY = 0;
/** BLKIF_RSP_ERROR. */
export const STATUS_ERROR = -1;
/** BLKIF_RSP_EOPNOTSUPP. */
export const STATUS_EOPNOTSUPP = -2;

/** BLKIF_MAX_SEGMENTS_PER_REQUEST: segments in a direct request. */
export const MAX_SEGMENTS_PER_REQUEST = 11;
/** BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST. */
export const MAX_INDIRECT_PAGES_PER_REQUEST = 8;
/** Segments that one indirect page holds. */
export const SEGMENTS_PER_INDIRECT_PAGE = 512;
/** BLKIF_DISCARD_SECURE, bit of a discard request's flag byte. */
export const DISCARD_SECURE = 1;

/** Pages of the largest ring. The protocol has no limit of its own; frontends use at most max-ring-page-order 4. */
export const MAX_RING_PAGES = 16;
/** Sectors of a granted page: `first_sect` and `last_sect` are below this. */
export const SECTORS_PER_PAGE = PAGE_BYTES / SECTOR_BYTES;

/** Bytes before the first slot of a shared ring. */
export const RING_HEADER_BYTES = 64;
/** Index, in 32-bit words, of `req_prod` in the shared ring. */
export const REQ_PROD_WORD = 0;
/** Index, in 32-bit words, of `req_event` in the shared ring. */
export const REQ_EVENT_WORD = 1;
/** Index, in 32-bit words, of `rsp_prod` in the shared ring. */
export const RSP_PROD_WORD = 2;
/** Index, in 32-bit words, of `rsp_event` in the shared ring. */
export const RSP_EVENT_WORD = 3;

/** Bytes of `struct blkif_request_segment`. */
export const SEGMENT_SIZE_BYTES = 8;
/** The same in 32-bit words. */
export const SEGMENT_WORDS = SEGMENT_SIZE_BYTES / 4;

/** Returned instead of a count if the other end's producer index is impossible. */
export const RING_BROKEN = -1;

/** A ring cannot be used: its memory has a wrong size, or its indices are impossible. */
export class RingError extends Error {
  override readonly name = "RingError";
}

/**
 * Sizes and offsets of one ABI, in bytes. Operation, id and sector number are at the same offsets in direct, discard
 * and indirect requests; the handle in direct and discard requests.
 */
export interface AbiLayout {
  readonly name: AbiName;
  /** `struct blkif_request`; also the distance from one ring slot to the next. */
  readonly requestSizeBytes: number;
  /** `struct blkif_request_discard`. */
  readonly discardSizeBytes: number;
  /** `struct blkif_request_indirect`. */
  readonly indirectSizeBytes: number;
  /** `struct blkif_response`. */
  readonly responseSizeBytes: number;
  /** `operation`, u8. */
  readonly operationOffset: number;
  /** `nr_segments` of a direct request, u8. */
  readonly segmentCountOffset: number;
  /** `handle` of a direct or discard request, u16. */
  readonly handleOffset: number;
  /** `id`, u64. */
  readonly idOffset: number;
  /** `sector_number`, u64. */
  readonly sectorOffset: number;
  /** `seg[0]`; each is {@linkcode SEGMENT_SIZE_BYTES}. */
  readonly segmentsOffset: number;
  /** `flag` of a discard request, u8. */
  readonly discardFlagOffset: number;
  /** `nr_sectors` of a discard request, u64. */
  readonly discardSectorCountOffset: number;
  /** `indirect_op`, u8. */
  readonly indirectOperationOffset: number;
  /** `nr_segments` of an indirect request, u16. */
  readonly indirectSegmentCountOffset: number;
  /** `handle` of an indirect request, u16. */
  readonly indirectHandleOffset: number;
  /** `indirect_grefs[0]`, u32 each. */
  readonly indirectGrefsOffset: number;
  /** `id` of a response, u64. */
  readonly responseIdOffset: number;
  /** `operation` of a response, u8. */
  readonly responseOperationOffset: number;
  /** `status` of a response, i16. */
  readonly responseStatusOffset: number;
}

/** Sizes in bytes that differ between the ABIs. */
interface AbiSizes {
  readonly request: number;
  readonly discard: number;
  readonly indirect: number;
  readonly response: number;
}

/**
 * Makes a layout. The ABIs differ only in the alignment of a u64, which is 4 bytes on i386 and 8 on the others: it
 * decides whether there is a gap between `handle` and `id`, and how structs are padded. One function makes all layouts
 * so that V8 gives them the same hidden class.
 */
function layout(name: AbiName, idOffset: number, sizes: AbiSizes): AbiLayout {
  return Object.freeze({
    name,
    requestSizeBytes: sizes.request,
    discardSizeBytes: sizes.discard,
    indirectSizeBytes: sizes.indirect,
    responseSizeBytes: sizes.response,
    operationOffset: 0,
    segmentCountOffset: 1,
    handleOffset: 2,
    idOffset,
    sectorOffset: idOffset + 8,
    segmentsOffset: idOffset + 16,
    discardFlagOffset: 1,
    discardSectorCountOffset: idOffset + 16,
    indirectOperationOffset: 1,
    indirectSegmentCountOffset: 2,
    indirectHandleOffset: idOffset + 16,
    indirectGrefsOffset: idOffset + 20,
    responseIdOffset: 0,
    responseOperationOffset: 8,
    responseStatusOffset: 10,
  });
}

const SIZES_64: AbiSizes = { request: 112, discard: 32, indirect: 64, response: 16 };
const SIZES_32: AbiSizes = { request: 108, discard: 28, indirect: 64, response: 12 };

/** The layouts by the name that a frontend publishes. ARM has the layout of x86_64. */
export const ABIS: Readonly<Record<AbiName, AbiLayout>> = Object.freeze({
  "x86_64-abi": layout("x86_64-abi", 8, SIZES_64),
  "x86_32-abi": layout("x86_32-abi", 4, SIZES_32),
  "arm-abi": layout("arm-abi", 8, SIZES_64),
});

/** Slots of a ring of `pages` pages, at least 1: the largest power of two that fits (ring.h: __RING_SIZE). */
export function ringSlots(abi: AbiLayout, pages: number): number {
  const fitting = Math.floor((pages * PAGE_BYTES - RING_HEADER_BYTES) / abi.requestSizeBytes);
  return 2 ** (31 - Math.clz32(fitting));
}

/** Slots of the ring in this memory; throws {@linkcode RingError} unless it is whole, page-aligned pages. */
export function slotsOfMemory(memory: Uint8Array, abi: AbiLayout): number {
  const pages = memory.length / PAGE_BYTES;
  if (!Number.isInteger(pages) || pages === 0) {
    throw new RingError(`Cannot use ring memory of ${memory.length} bytes: not a whole number of pages`);
  }
  if (memory.byteOffset % 4 !== 0) {
    throw new RingError(`Cannot use ring memory at offset ${memory.byteOffset} of its buffer: not aligned`);
  }
  return ringSlots(abi, pages);
}

/** Difference of two free-running u32 ring indices, as a u32. Either may be given as an i32 or a u32. */
export function indexDifference(later: number, earlier: number): number {
  return (later - earlier) >>> 0;
}
