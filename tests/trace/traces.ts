/**
 * Traces for tests: records from a few fields, the bytes of a trace, and what a reader finds in bytes.
 */

import {
  BLOCK_BYTES,
  encodeSession,
  HEADER_BYTES,
  RECORDS_PER_BLOCK,
  sealRecords,
  type TraceSession,
} from "../../lib/trace/format.ts";
import { encodeRecord, RECORD_BYTES, TraceRecord, viewOf } from "../../lib/trace/record.ts";
import { OrderedTrace } from "../../lib/trace/order.ts";
import { type TraceFaults, TraceReader, type TraceSource } from "../../lib/trace/reader.ts";

/** The fields of a record. */
export type RecordFields = Omit<TraceRecord, "copy">;

/** A session of a disk of 1 MiB. */
export const SESSION: TraceSession = { sectors: 2048, logicalSectorBytes: 512, startMs: 1e12, disk: "vbd3/1/51712" };

/** A read of 4 KiB at sector 0, unless the parts say otherwise. */
export function record(parts: Partial<RecordFields> = {}): RecordFields {
  return {
    timeUs: 0,
    operation: 0,
    secure: false,
    ring: 0,
    sector: 0,
    sectorCount: 8,
    errno: 0,
    durationUs: 100,
    ...parts,
  };
}

/** Records as they are in memory and in blocks. */
export function recordBytes(records: readonly RecordFields[]): Uint8Array {
  const bytes = new Uint8Array(records.length * RECORD_BYTES);
  records.forEach((fields, index) =>
    encodeRecord(viewOf(bytes), index * RECORD_BYTES, Object.assign(new TraceRecord(), fields))
  );
  return bytes;
}

/** A block with these records. */
export function recordBlock(records: readonly RecordFields[], lost = 0): Uint8Array {
  const block = new Uint8Array(BLOCK_BYTES);
  block.set(recordBytes(records), HEADER_BYTES);
  sealRecords(block, records.length, lost);
  return block;
}

/** A whole trace of one session. */
export function traceBytes(records: readonly RecordFields[], session = SESSION): Uint8Array {
  const blocks = [encodeSession(session)];
  for (let at = 0; at < records.length; at += RECORDS_PER_BLOCK) {
    blocks.push(recordBlock(records.slice(at, at + RECORDS_PER_BLOCK)));
  }
  return joined(blocks);
}

/** Bytes, one after the other. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((total, { length }) => total + length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Reads bytes in pieces of odd sizes, as a file may. */
export function sourceOf(bytes: Uint8Array): TraceSource {
  let at = 0;
  return {
    readSync: (into) => {
      const piece = bytes.subarray(at, at + Math.min(into.length, 5001));
      into.set(piece);
      at += piece.length;
      return piece.length;
    },
  };
}

/** What a reader finds. */
export interface Found {
  readonly sessions: readonly TraceSession[];
  readonly records: readonly RecordFields[];
  readonly faults: TraceFaults;
}

/** Reads all of a trace. */
export function readAll(bytes: Uint8Array): Found {
  const reader = new TraceReader(sourceOf(bytes), "x.trace");
  const sessions: TraceSession[] = [];
  const records: RecordFields[] = [];
  for (let found = reader.next(); found !== "end"; found = reader.next()) {
    if (found === "session") sessions.push(reader.session!);
    else if (found === "record") records.push({ ...reader.record });
  }
  return { sessions, records, faults: reader.faults };
}

/** Waits until a trace that is being written holds so many records. */
export async function recorded(path: string, records: number): Promise<void> {
  // No event tells of what another thread or process writes.
  while (!(await hasBytes(path)) || readAll(Deno.readFileSync(path)).records.length < records) {
    await new Promise((done) => setTimeout(done, 2));
  }
}

async function hasBytes(path: string): Promise<boolean> {
  return await Deno.stat(path).then(({ size }) => size > 0, () => false);
}

/** Reads all of a trace in order: each record with its time on the whole trace. */
export function readInOrder(bytes: Uint8Array, window?: number): { readonly records: RecordFields[]; late: number } {
  const order = new OrderedTrace(new TraceReader(sourceOf(bytes), "x.trace"), window);
  const records: RecordFields[] = [];
  while (!order.ended) {
    const next = order.next();
    if (next !== undefined) records.push({ ...next, timeUs: order.timeUs });
  }
  return { records, late: order.late };
}
