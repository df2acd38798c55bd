/**
 * Encodes requests on a ring, valid or not: every field of every form takes any value that fits. Written from the wire
 * layout (xen/interface/io/blkif.h) and not with lib/blkif's encoder, so that the two cannot share a mistake.
 */

import type { AbiName } from "../../lib/blkif/abi.ts";

/** A segment: grant reference, first and last sector of the page. */
export interface WireSegment {
  readonly gref: number;
  readonly first: number;
  readonly last: number;
}

/** Fields of every form of request. */
interface WireCommon {
  readonly id: bigint;
  /** u64, in units of 512 bytes. */
  readonly sector: bigint;
  readonly handle?: number;
}

/** READ, WRITE, WRITE_BARRIER, FLUSH_DISKCACHE, or an operation that does not exist. */
export interface DirectRequest extends WireCommon {
  readonly form: "direct";
  readonly operation: number;
  readonly segments: readonly WireSegment[];
  /** The segment count to write; default the number of segments. */
  readonly count?: number;
}

/** DISCARD. */
export interface DiscardRequest extends WireCommon {
  readonly form: "discard";
  readonly flag: number;
  /** u64. */
  readonly sectorCount: bigint;
}

/** INDIRECT: the segments are in granted pages. */
export interface IndirectRequest extends WireCommon {
  readonly form: "indirect";
  /** READ or WRITE, in a valid request. */
  readonly inner: number;
  readonly count: number;
  /** Grants of the pages that hold the segments, at most 8. */
  readonly pages: readonly number[];
  /** Segments to write into those of the pages that are the guest's own. */
  readonly segments: readonly WireSegment[];
}

/** Any request. */
export type WireRequest = DirectRequest | DiscardRequest | IndirectRequest;

/** A response. */
export interface WireAnswer {
  readonly id: bigint;
  readonly operation: number;
  readonly status: number;
}

/** Size of a slot in bytes. */
export function slotBytes(abi: AbiName): number {
  return abi === "x86_32-abi" ? 108 : 112;
}

/** Slots of a ring: the largest power of two that fits after the header. */
export function slotCount(abi: AbiName, pages: number): number {
  return 2 ** Math.floor(Math.log2((4096 * pages - 64) / slotBytes(abi)));
}

/** Offset of `id` in a request; the later fields move with it. */
function idOffset(abi: AbiName): number {
  return abi === "x86_32-abi" ? 4 : 8;
}

/** Writes a request into a slot; bytes that it does not use stay as they are. */
export function writeRequest(slot: DataView, abi: AbiName, request: WireRequest): void {
  const id = idOffset(abi);
  slot.setBigUint64(id, request.id, true);
  slot.setBigUint64(id + 8, request.sector, true);
  switch (request.form) {
    case "direct":
      slot.setUint8(0, request.operation);
      slot.setUint8(1, request.count ?? request.segments.length);
      slot.setUint16(2, request.handle ?? 0, true);
      return request.segments.slice(0, 11).forEach((segment, i) => writeSegment(slot, id + 16 + 8 * i, segment));
    case "discard":
      slot.setUint8(0, 5);
      slot.setUint8(1, request.flag);
      slot.setUint16(2, request.handle ?? 0, true);
      return slot.setBigUint64(id + 16, request.sectorCount, true);
    case "indirect":
      slot.setUint8(0, 6);
      slot.setUint8(1, request.inner);
      slot.setUint16(2, request.count, true);
      slot.setUint16(id + 16, request.handle ?? 0, true);
      return request.pages.slice(0, 8).forEach((gref, i) => slot.setUint32(id + 20 + 4 * i, gref, true));
  }
}

/** Writes an indirect request's segments into its pages; `bytesOf` returns the guest's own pages. */
export function writeLists(request: IndirectRequest, bytesOf: (gref: number) => Uint8Array | undefined): void {
  request.pages.forEach((gref, i) => {
    const bytes = bytesOf(gref);
    if (bytes === undefined) return;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    request.segments.slice(512 * i, 512 * (i + 1)).forEach((segment, at) => writeSegment(view, 8 * at, segment));
  });
}

/** Writes one segment, into a slot or into an indirect page. */
export function writeSegment(view: DataView, offset: number, segment: WireSegment): void {
  view.setUint32(offset, segment.gref, true);
  view.setUint8(offset + 4, segment.first);
  view.setUint8(offset + 5, segment.last);
}

/** The id and operation that the response to the request in this slot must carry. */
export function expectedEcho(slot: DataView, abi: AbiName): { id: bigint; operation: number } {
  const operation = slot.getUint8(0);
  const inner = slot.getUint8(1);
  return { id: slot.getBigUint64(idOffset(abi), true), operation: operation === 6 ? (inner === 1 ? 1 : 0) : operation };
}

/** Reads the response in a slot. */
export function readAnswer(slot: DataView): WireAnswer {
  return { id: slot.getBigUint64(0, true), operation: slot.getUint8(8), status: slot.getInt16(10, true) };
}
