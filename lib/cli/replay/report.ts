/**
 * The results of a replay: numbers by operation for one or two sides, their ratios, and a table for people.
 */

import { Checksums } from "../../guest/disk_content.ts";
import type { ReplayError, ReplayOutcome, Skipped } from "../../guest/replay_types.ts";
import { formatSize } from "../../sizes.ts";
import type { TraceOperation } from "../../trace/record.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { renderTable } from "../table.ts";
import type { SideResult } from "./side.ts";

/** One operation on one side. */
interface OperationReport {
  readonly operation: TraceOperation;
  readonly requests: number;
  readonly errors: number;
  readonly bytes: number;
  readonly iops: number;
  readonly mbPerSecond: number;
  readonly latencyUs: { readonly p50: number; readonly p99: number; readonly max: number };
}

/** One side. */
interface SideReport {
  readonly name: string;
  readonly image: string;
  readonly sizeBytes: number;
  readonly elapsedMs: number;
  readonly operations: readonly OperationReport[];
  readonly records: number;
  readonly split: number;
  readonly skipped: readonly Skipped[];
  readonly firstErrors: readonly ReplayError[];
  readonly latestMs: number;
}

/** B by A, of one operation. Null: one of them is 0. */
interface Ratio {
  readonly operation: TraceOperation;
  readonly iops: number | null;
  readonly p50: number | null;
  readonly p99: number | null;
  readonly max: number | null;
}

/** The result of a replay. */
export interface ReplayReport {
  readonly trace: string;
  readonly speed: number | "max";
  readonly seed: number;
  readonly interrupted: boolean;
  readonly sides: readonly SideReport[];
  readonly ratios: readonly Ratio[];
  /** Whether both disks hold the same afterwards; null: that was not compared. */
  readonly identical: boolean | null;
  /** The first byte of the first 64 KiB that differ, or null. */
  readonly differsFrom: number | null;
  readonly faults: ReplayOutcome["faults"] & Pick<ReplayOutcome, "outOfOrder">;
}

/** What the report is made of. */
export interface ReplayFacts {
  readonly trace: string;
  readonly speed: number;
  readonly seed: number;
  readonly interrupted: boolean;
  readonly results: readonly SideResult[];
}

/** Puts the numbers together. */
export function reportOf({ trace, speed, seed, interrupted, results }: ReplayFacts): ReplayReport {
  const sides = results.map(sideOf);
  const [one, other] = results;
  const difference = one?.checksums === undefined || other?.checksums === undefined || one.sizeBytes !== other.sizeBytes
    ? null
    : new Checksums(one.checksums).firstDifference(new Checksums(other.checksums));
  const { faults, outOfOrder } = one!.outcome;
  return {
    trace,
    speed: speed === 0 ? "max" : speed,
    seed,
    interrupted,
    sides,
    ratios: sides.length < 2 ? [] : ratiosOf(sides[0]!, sides[1]!),
    identical: difference === null ? null : difference === undefined,
    differsFrom: typeof difference === "number" ? difference * SECTOR_BYTES : null,
    faults: { ...faults, outOfOrder },
  };
}

function sideOf({ name, description, sizeBytes, outcome, latencies }: SideResult): SideReport {
  const { records, split, skipped, firstErrors, latestMs, elapsedMs } = outcome;
  const seconds = Math.max(elapsedMs, 0.001) / 1000;
  const operations = outcome.operations.map(({ operation, requests, errors, bytes }, index): OperationReport => {
    const { p50Ns, p99Ns, maxNs } = latencies.histograms[index]!.summary();
    return {
      operation,
      requests,
      errors,
      bytes,
      iops: requests / seconds,
      mbPerSecond: bytes / seconds / 1e6,
      latencyUs: { p50: p50Ns / 1000, p99: p99Ns / 1000, max: maxNs / 1000 },
    };
  });
  return { name, image: description, sizeBytes, elapsedMs, operations, records, split, skipped, firstErrors, latestMs };
}

function ratiosOf(one: SideReport, other: SideReport): Ratio[] {
  return one.operations.map((first, index): Ratio => {
    const second = other.operations[index]!;
    const by = (a: number, b: number): number | null => a > 0 && b > 0 ? b / a : null;
    return {
      operation: first.operation,
      iops: by(first.iops, second.iops),
      p50: by(first.latencyUs.p50, second.latencyUs.p50),
      p99: by(first.latencyUs.p99, second.latencyUs.p99),
      max: by(first.latencyUs.max, second.latencyUs.max),
    };
  });
}

/** The number of requests that failed, on all sides. */
export function errorsOf({ sides }: ReplayReport): number {
  return sides.flatMap(({ operations }) => operations).reduce((total, { errors }) => total + errors, 0);
}

/** The report for people. */
export function renderReport(report: ReplayReport, terminalColumns = Infinity): string {
  const heads = report.sides.map(({ name, image, sizeBytes, elapsedMs }) =>
    `${name}: ${image} (${formatSize(sizeBytes)}), ${(elapsedMs / 1000).toFixed(2)} s\n`
  );
  const times = report.speed === 1 ? "" : `${report.speed} times `;
  const speed = report.speed === "max" ? "as fast as it goes" : `at ${times}the recorded speed`;
  const notes = [...report.sides.flatMap(notesOf), ...traceNotes(report)].map((note) => `${note}\n`);
  return `${report.trace}, ${speed}, seed ${report.seed}\n${heads.join("")}\n${tableOf(report, terminalColumns)}${
    notes.length === 0 ? "" : "\n"
  }${notes.join("")}`;
}

function tableOf({ sides, ratios }: ReplayReport, terminalColumns: number): string {
  const right = { align: "right" } as const;
  const columns = [
    { heading: "OPERATION" },
    { heading: "" },
    { heading: "REQUESTS", ...right },
    { heading: "IOPS", ...right },
    { heading: "MB/s", ...right, leaveOut: 1 },
    { heading: "p50 µs", ...right, leaveOut: 3 },
    { heading: "p99 µs", ...right },
    { heading: "max µs", ...right, leaveOut: 2 },
    { heading: "ERRORS", ...right },
  ];
  const rows = sides[0]!.operations.flatMap(({ operation }, index) => {
    const each = sides.map(({ name, operations }) => rowOf(name, operations[index]!));
    if (sides.every(({ operations }) => operations[index]!.requests === 0)) return [];
    const ratio = ratios[index];
    return ratio === undefined ? each : [...each, ratioRow(operation, ratio)];
  });
  return renderTable(columns, rows, true, terminalColumns);
}

function rowOf(name: string, { operation, requests, iops, mbPerSecond, latencyUs, errors }: OperationReport): string[] {
  const times = [latencyUs.p50, latencyUs.p99, latencyUs.max].map((us) => us.toFixed(0));
  return [operation, name, String(requests), iops.toFixed(0), mbPerSecond.toFixed(1), ...times, String(errors)];
}

function ratioRow(operation: string, { iops, p50, p99, max }: Ratio): string[] {
  const text = (value: number | null): string => value === null ? "-" : value.toFixed(2);
  return [operation, "B/A", "", text(iops), "", text(p50), text(p99), text(max), ""];
}

function notesOf({ name, split, skipped, firstErrors, latestMs, operations }: SideReport): string[] {
  const notes = skipped.map(({ reason, records, operation, firstSector }) =>
    `${name}: skipped ${requestsText(records)}: ${reason} (first: ${operation} at sector ${firstSector})`
  );
  if (split > 0) notes.push(`${name}: split ${requestsText(split)} too large for the ring`);
  if (latestMs >= 1) notes.push(`${name}: requests were issued up to ${latestMs.toFixed(0)} ms late`);
  if (operations.some(({ errors }) => errors > 0)) {
    const first = firstErrors.map(({ operation, sector, status }) => `${operation} at sector ${sector} (${status})`);
    notes.push(`${name}: requests failed, first: ${first.join(", ")}`);
  }
  return notes;
}

function isDiscard({ operation, requests }: OperationReport): boolean {
  return operation === "discard" && requests > 0;
}

function requestsText(count: number): string {
  return count === 1 ? "1 request" : `${count} requests`;
}

function traceNotes({ faults, identical, differsFrom, interrupted, sides }: ReplayReport): string[] {
  const { lost, damagedBlocks, unknownRecords, cutBytes, outOfOrder, first } = faults;
  const notes: string[] = [];
  const add = (count: number, text: string): void => void (count > 0 && notes.push(`The trace: ${count} ${text}`));
  add(lost, "not recorded, because there was no room");
  add(damagedBlocks + unknownRecords + (cutBytes > 0 ? 1 : 0), `damaged and skipped; first: ${first}`);
  add(outOfOrder, "recorded too late to be put in order");
  if (identical === true) notes.push("Both disks hold the same.");
  if (identical === false) {
    const discarded = sides.some(({ operations }) => operations.some(isDiscard));
    const why = discarded ? " The trace has discards, and discarded sectors may hold anything." : "";
    notes.push(`The disks differ, first in the 64 KiB from byte ${differsFrom} on.${why}`);
  }
  if (interrupted) notes.push("Stopped early.");
  return notes;
}
