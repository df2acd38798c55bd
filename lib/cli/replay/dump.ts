/**
 * Prints a trace as JSON lines, for jq and other programs: a line for each session, each request and the end.
 */

import { eventLoopTurn } from "../../modules.ts";
import { TRACE_VERSION, type TraceSession } from "../../trace/format.ts";
import { TRACE_OPERATIONS, type TraceRecord } from "../../trace/record.ts";
import { openTrace } from "../../trace/reader.ts";
import { SECTOR_BYTES } from "../../units.ts";
import type { Output } from "../output.ts";

/** Steps of the reader after which the lines are written and signals are noticed. */
const STEPS_AT_ONCE = 1000;

/** Prints the whole trace, unless the signal aborts or the reader of the output is gone. Rejects as openTrace throws. */
export async function dumpTrace(path: string, output: Output, signal: AbortSignal): Promise<void> {
  using trace = openTrace(path);
  const { reader } = trace;
  let lines: string[] = [];
  let found = reader.next();
  for (let step = 1; found !== "end"; step++, found = reader.next()) {
    if (found === "session") lines.push(sessionLine(reader.session!));
    else if (found === "record") lines.push(recordLine(reader.record));
    if (step % STEPS_AT_ONCE !== 0) continue;
    output.data(lines.join(""));
    lines = [];
    await eventLoopTurn();
    if (signal.aborted || output.failed) return;
  }
  output.data(lines.join("") + line({ type: "end", ...reader.faults, first: reader.faults.first ?? null }));
}

function sessionLine({ disk, sectors, logicalSectorBytes, startMs }: TraceSession): string {
  return line({
    type: "session",
    version: TRACE_VERSION,
    disk,
    sizeBytes: sectors * SECTOR_BYTES,
    logicalSectorBytes,
    start: new Date(startMs).toISOString(),
  });
}

function recordLine({ timeUs, ring, operation, secure, sector, sectorCount, errno, durationUs }: TraceRecord): string {
  return line({
    type: "request",
    timeUs,
    ring,
    operation: TRACE_OPERATIONS[operation],
    offset: sector * SECTOR_BYTES,
    length: sectorCount * SECTOR_BYTES,
    ...(secure ? { secure } : {}),
    errno,
    durationUs,
  });
}

function line(value: unknown): string {
  return JSON.stringify(value) + "\n";
}
