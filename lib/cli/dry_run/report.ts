/**
 * The result of a dry run:
 * as numbers, as a table for people, and as a verdict.
 */

import { Histogram } from "../../histogram.ts";
import type { LoadOutcome } from "../../guest/load_types.ts";
import type { ImageVerdict } from "../../guest/verify_image.ts";
import { formatSize } from "../../sizes.ts";
import type { LoadResult } from "./guest.ts";
import { renderTable } from "../table.ts";
import { wrap } from "../text.ts";

/** One phase of a run: the loads of all guests together. */
export interface PhaseResult {
  readonly name: string;
  readonly requests: number;
  readonly bytes: number;
  readonly elapsedMs: number;
  readonly mbPerSecond: number;
  readonly iops: number;
  readonly latencyUs: { readonly p50: number; readonly p90: number; readonly p99: number; readonly p999: number };
  readonly verifiedSectors: number;
  readonly errors: number;
}

/** The result of a run. */
export interface DryRunResult {
  readonly image: string;
  readonly sizeBytes: number;
  readonly guests: number;
  readonly abi: string;
  readonly grants: string;
  readonly seed: number;
  readonly interrupted: boolean;
  readonly phases: readonly PhaseResult[];
  /** The number of sectors of the image files that were compared with the models after the run. */
  readonly imageSectorsVerified: number;
  /** The first error; undefined if there is none. */
  readonly fault: string | undefined;
}

/** Adds up the loads of a phase that took `elapsedMs` from its start to its end. */
export function phaseOf(
  name: string,
  loads: readonly LoadResult[],
  elapsedMs: number,
): PhaseResult {
  const sum = (value: (outcome: LoadOutcome) => number): number =>
    loads.reduce((total, { outcome }) => total + value(outcome), 0);
  const latency = new Histogram();
  for (const { histogram } of loads) latency.add(histogram);
  const requests = sum(({ reads, writes, barriers, flushes, discards, errors }) =>
    reads + writes + barriers + flushes + discards + errors
  );
  const bytes = sum(({ bytesRead, bytesWritten }) => bytesRead + bytesWritten);
  const seconds = Math.max(elapsedMs, 0.001) / 1000;
  const us = (share: number): number => latency.percentile(share) / 1000;
  return {
    name,
    requests,
    bytes,
    elapsedMs,
    mbPerSecond: bytes / seconds / 1e6,
    iops: requests / seconds,
    latencyUs: { p50: us(0.5), p90: us(0.9), p99: us(0.99), p999: us(0.999) },
    verifiedSectors: sum(({ verifiedSectors }) => verifiedSectors),
    errors: sum(({ errors }) => errors),
  };
}

/** The first error of the loads and the images, in words, or undefined. */
export function faultOf(
  outcomes: readonly LoadOutcome[],
  verdicts: readonly (ImageVerdict | undefined)[],
): string | undefined {
  const failed = failuresOf(outcomes);
  return outcomes.map((outcome) => faultOfLoad(outcome, failed)).find((fault) => fault !== undefined) ??
    verdicts.map(faultOfImage).find((fault) => fault !== undefined);
}

/** The failed requests of all loads, as the table counts them. */
function failuresOf(outcomes: readonly LoadOutcome[]): string {
  const counts = new Map<string, number>();
  for (const [kind, count] of outcomes.flatMap(({ errorsByKind }) => Object.entries(errorsByKind))) {
    counts.set(kind, (counts.get(kind) ?? 0) + count);
  }
  const texts = [...counts].map(([kind, count]) => `${count} ${kind.replace(" ", " (status ")})`);
  return `requests failed: ${texts.join(", ")}`;
}

function faultOfLoad(outcome: LoadOutcome, failed: string): string | undefined {
  const { firstMiscompare, firstProtocolError, errors, unanswered } = outcome;
  if (firstMiscompare !== undefined) {
    const { sector, expected, got } = firstMiscompare;
    return `sector ${sector} read back as ${got}, expected ${expected} (${outcome.miscompares} sectors differ)`;
  }
  if (firstProtocolError !== undefined) return `the backend broke the protocol: ${firstProtocolError}`;
  if (errors > 0) return failed;
  return unanswered > 0 ? `${unanswered} requests were never answered` : undefined;
}

function faultOfImage(verdict: ImageVerdict | undefined): string | undefined {
  if (verdict?.firstMiscompare === undefined) return undefined;
  const { sector, expected, got } = verdict.firstMiscompare;
  return `sector ${sector} of the image file holds ${got}, expected ${expected} (${verdict.miscompares} sectors differ)`;
}

/** The result as a table, and a line about what was verified. */
export function renderResult(result: DryRunResult, terminalColumns = Infinity): string {
  const right = { align: "right" } as const;
  const columns = [
    { heading: "PHASE" },
    { heading: "REQUESTS", ...right },
    { heading: "MB/s", ...right },
    { heading: "IOPS", ...right, leaveOut: 4 },
    { heading: "p50 µs", ...right, leaveOut: 3 },
    { heading: "p90 µs", ...right, leaveOut: 2 },
    { heading: "p99 µs", ...right, leaveOut: 5 },
    { heading: "p99.9 µs", ...right, leaveOut: 1 },
    { heading: "VERIFIED SECTORS", ...right, leaveOut: 6 },
    { heading: "ERRORS", ...right },
  ];
  const rows = result.phases.map((phase) => {
    const { p50, p90, p99, p999 } = phase.latencyUs;
    return [
      phase.name,
      String(phase.requests),
      phase.mbPerSecond.toFixed(1),
      phase.iops.toFixed(0),
      ...[p50, p90, p99, p999].map((us) => us.toFixed(0)),
      String(phase.verifiedSectors),
      String(phase.errors),
    ];
  });
  const table = renderTable(columns, rows, true, terminalColumns);
  const [head, verdict] = [headline(result), verdictLine(result)].map((line) => wrap(line, 0, terminalColumns));
  return `${head!.join("\n")}\n\n${table}\n${verdict!.join("\n")}\n`;
}

/** The run's parameters in one line. */
function headline({ image, sizeBytes, guests, abi, grants, seed }: DryRunResult): string {
  const who = guests === 1 ? "one guest" : `${guests} guests`;
  return `${image} (${formatSize(sizeBytes)}), ${who}, ${abi}, grants ${grants}, seed ${seed}`;
}

function verdictLine(result: DryRunResult): string {
  const { fault, interrupted, imageSectorsVerified, phases } = result;
  const early = interrupted ? "Stopped early. " : "";
  if (fault !== undefined) return `${early}Failed.`;
  const read = phases.reduce((total, { verifiedSectors }) => total + verifiedSectors, 0);
  if (read === 0 && imageSectorsVerified === 0) return `${early}Done; nothing was verified.`;
  const image = imageSectorsVerified === 0 ? "" : `, ${imageSectorsVerified} sectors of the image file compared`;
  return `${early}Verified: ${read} sectors read back correctly${image}.`;
}
