/**
 * The trace format, version 1 (docs/trace.md): blocks of 4096 bytes, each with its own checksum. A session block says
 * which disk is traced from when on; blocks of records follow. All numbers are little-endian.
 */

import { crc32 } from "node:zlib";
import { XenblkError } from "../errors.ts";
import { SECTOR_BYTES } from "../units.ts";
import { MOST_48, RECORD_BYTES, TWO_32, viewOf } from "./record.ts";

/** Bytes of a block: what is read, checked and written at a time. */
export const BLOCK_BYTES = 4096;
/** Bytes of a block's header. */
export const HEADER_BYTES = 32;
/** Most records of a block. */
export const RECORDS_PER_BLOCK: number = (BLOCK_BYTES - HEADER_BYTES) / RECORD_BYTES;
/** The version of the format that this program writes, and the only one that it reads. */
export const TRACE_VERSION = 1;

/** "xbtr", as a little-endian number. */
const MAGIC = 0x72746278;
const SESSION = 1;
const RECORDS = 2;
/** Where a block's header has its fields. */
const AT = { magic: 0, version: 4, kind: 5, count: 6, checksum: 8, lost: 12 } as const;
const MOST_DISK_CHARACTERS = 256;

/** What was traced, from when on. */
export interface TraceSession {
  /** Of the disk, in 512-byte sectors. */
  readonly sectors: number;
  /** The disk's smallest unit of I/O. */
  readonly logicalSectorBytes: number;
  /** When it began: milliseconds since 1970 (UTC). */
  readonly startMs: number;
  /** The device's label, such as `vbd3/5/51712`, or what the disk is called. */
  readonly disk: string;
}

/** Makes the block of a session. Throws {@linkcode XenblkError} if it does not fit. */
export function encodeSession(session: TraceSession): Uint8Array {
  const { sectors, logicalSectorBytes, startMs } = session;
  const disk = [...session.disk].slice(0, MOST_DISK_CHARACTERS).join("");
  const text = new TextEncoder().encode(JSON.stringify({ sectors, logicalSectorBytes, startMs, disk }));
  const block = new Uint8Array(BLOCK_BYTES);
  block.set(text, HEADER_BYTES);
  sealBlock(block, SESSION, text.length, 0);
  return block;
}

/** Completes the header of a block of records: how many it has, and how many were lost after them. */
export function sealRecords(block: Uint8Array, count: number, lost: number): void {
  sealBlock(block, RECORDS, count, lost);
}

function sealBlock(block: Uint8Array, kind: number, count: number, lost: number): void {
  const view = viewOf(block);
  view.setUint32(AT.magic, MAGIC, true);
  view.setUint8(AT.version, TRACE_VERSION);
  view.setUint8(AT.kind, kind);
  view.setUint16(AT.count, count, true);
  view.setUint32(AT.lost, Math.min(lost, TWO_32 - 1), true);
  view.setUint32(AT.checksum, checksumOf(block), true);
}

/** What a block is. `damaged`: nothing in it can be used, for that reason. */
export type Block =
  | { readonly kind: "session"; readonly session: TraceSession }
  | { readonly kind: "records"; readonly count: number; readonly lost: number }
  | { readonly kind: "damaged"; readonly why: string };

/** Checks a block, and reads its header. */
export function decodeBlock(block: Uint8Array): Block {
  const view = viewOf(block);
  if (view.getUint32(AT.magic, true) !== MAGIC) return damaged("it does not begin with xbtr");
  const version = view.getUint8(AT.version);
  if (version !== TRACE_VERSION) {
    return damaged(`it is of version ${version} of the format, and this program reads version ${TRACE_VERSION}`);
  }
  if (view.getUint32(AT.checksum, true) !== checksumOf(block)) return damaged("its checksum is wrong");
  const [kind, count] = [view.getUint8(AT.kind), view.getUint16(AT.count, true)];
  if (kind === SESSION) {
    if (count > BLOCK_BYTES - HEADER_BYTES) return damaged(`its text of ${count} bytes does not fit into it`);
    const session = sessionOf(block.subarray(HEADER_BYTES, HEADER_BYTES + count));
    return session === undefined ? damaged("it describes no session") : { kind: "session", session };
  }
  if (kind !== RECORDS) return damaged(`its kind ${kind} is unknown`);
  if (count > RECORDS_PER_BLOCK) return damaged(`it claims ${count} records, and ${RECORDS_PER_BLOCK} fit`);
  return { kind: "records", count, lost: view.getUint32(AT.lost, true) };
}

function sessionOf(text: Uint8Array): TraceSession | undefined {
  let value: Partial<TraceSession> | null;
  try {
    value = JSON.parse(new TextDecoder().decode(text));
  } catch {
    return undefined;
  }
  const { sectors, logicalSectorBytes, startMs, disk } = value ?? {};
  const isUnit = isWhole(logicalSectorBytes, 2 ** 20) && logicalSectorBytes % SECTOR_BYTES === 0;
  if (!isWhole(sectors, MOST_48) || !isUnit || logicalSectorBytes === 0) return undefined;
  // The most that a Date can hold.
  if (!isWhole(startMs, 8.64e15) || typeof disk !== "string" || disk.length > 2 * MOST_DISK_CHARACTERS) {
    return undefined;
  }
  return { sectors, logicalSectorBytes, startMs, disk };
}

function isWhole(value: unknown, most: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= most;
}

function damaged(why: string): Block {
  return { kind: "damaged", why };
}

/** CRC-32 of the whole block without the four bytes of the checksum. */
function checksumOf(block: Uint8Array): number {
  return crc32(block.subarray(AT.checksum + 4), crc32(block.subarray(0, AT.checksum))) >>> 0;
}

/** An error that names a trace. */
export function cannotRead(name: string, why: string, remedy?: string): XenblkError {
  return new XenblkError(`Cannot read trace ${name}: ${why}`, remedy === undefined ? {} : { remedy });
}
