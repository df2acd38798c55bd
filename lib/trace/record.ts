/**
 * One record of a trace: 32 bytes for each request, little-endian (docs/trace.md).
 */

/** Bytes of a record. */
export const RECORD_BYTES = 32;
export const TWO_32 = 2 ** 32;
/** The most of a number of 48 bits. */
export const MOST_48: number = 2 ** 48 - 1;

/** An operation of a record. */
export type TraceOperation = "read" | "write" | "flush" | "discard";

/** The operations of records by number; those that a filter sees. A barrier is a flush, a write and a flush. */
export const TRACE_OPERATIONS: readonly TraceOperation[] = ["read", "write", "flush", "discard"];

/** A block, or any bytes, as numbers. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** One request, as the disk's filter saw it. One object is reused for many. */
export class TraceRecord {
  /** When it was submitted: microseconds since the session began. */
  timeUs = 0;
  /** Index in {@linkcode TRACE_OPERATIONS}. */
  operation = 0;
  /** Of a discard: unrecoverable. */
  secure = false;
  /** Which of the disk's rings. */
  ring = 0;
  /** First 512-byte sector; 0 for a flush. */
  sector = 0;
  /** 512-byte sectors; 0 for a flush. */
  sectorCount = 0;
  /** 0 if it succeeded, else the errno. */
  errno = 0;
  /** From submission to completion, in microseconds; at most 2^32 - 1. */
  durationUs = 0;

  /** Takes the fields of another record. */
  copy(other: TraceRecord): void {
    this.timeUs = other.timeUs;
    this.operation = other.operation;
    this.secure = other.secure;
    this.ring = other.ring;
    this.sector = other.sector;
    this.sectorCount = other.sectorCount;
    this.errno = other.errno;
    this.durationUs = other.durationUs;
  }
}

/** Writes a record at byte `at`. Numbers that do not fit become the largest that do. */
export function encodeRecord(view: DataView, at: number, record: TraceRecord): void {
  putWide(view, at, record.timeUs);
  view.setUint8(at + 6, record.operation);
  view.setUint8(at + 7, record.secure ? 1 : 0);
  putWide(view, at + 8, record.sector);
  view.setUint16(at + 14, record.ring, true);
  putWide(view, at + 16, record.sectorCount);
  view.setUint16(at + 22, record.errno, true);
  view.setUint32(at + 24, Math.min(Math.max(0, record.durationUs), TWO_32 - 1), true);
  view.setUint32(at + 28, 0, true);
}

/** Reads the record at byte `at`. False: its operation is unknown. */
export function decodeRecord(view: DataView, at: number, record: TraceRecord): boolean {
  record.timeUs = takeWide(view, at);
  record.operation = view.getUint8(at + 6);
  record.secure = (view.getUint8(at + 7) & 1) !== 0;
  record.sector = takeWide(view, at + 8);
  record.ring = view.getUint16(at + 14, true);
  record.sectorCount = takeWide(view, at + 16);
  record.errno = view.getUint16(at + 22, true);
  record.durationUs = view.getUint32(at + 24, true);
  return record.operation < TRACE_OPERATIONS.length;
}

/** A number of 48 bits. */
function putWide(view: DataView, at: number, value: number): void {
  const kept = Math.min(Math.max(0, Math.floor(value)), MOST_48);
  view.setUint32(at, kept % TWO_32, true);
  view.setUint16(at + 4, Math.floor(kept / TWO_32), true);
}

function takeWide(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint16(at + 4, true) * TWO_32;
}
