/**
 * Types of a replay: what to issue from a trace, and its results. Plain data and shared memory, so that a replay can run in
 * a Worker.
 */

import { Histogram, HISTOGRAM_BYTES } from "../histogram.ts";
import type { TraceOperation } from "../trace/record.ts";
import type { TraceFaults } from "../trace/reader.ts";

/** The requests of a trace, and how fast they are issued. */
export interface ReplaySpec {
  readonly kind: "trace";
  /** The path of the trace. */
  readonly trace: string;
  /** How many times as fast as recorded; 0: as fast as the disk goes. */
  readonly speed: number;
  /** Decides what is written. */
  readonly seed: number;
  /** Most requests in flight. */
  readonly depth: number;
}

/** Reads the whole disk once, for checksums of its content. */
export interface SweepSpec {
  readonly kind: "sweep";
  readonly depth: number;
  /** Of {@linkcode checksumMemory}. */
  readonly checksums: SharedArrayBuffer;
}

/** What became of the requests of one operation. */
export interface OperationOutcome {
  /** Which one. */
  readonly operation: TraceOperation;
  /** Answered ones, also those that failed. */
  readonly requests: number;
  /** Failed ones. */
  readonly errors: number;
  /** Of those that succeeded. */
  readonly bytes: number;
}

/** Why a record was not replayed. */
export type SkipReason = "beyond the end" | "not of whole sectors" | "not offered" | "read-only" | "empty";

/** Records of the trace that are no requests to this disk. */
export interface Skipped {
  /** What is wrong with them. */
  readonly reason: SkipReason;
  /** How many they are. */
  readonly records: number;
  /** The first one's operation. */
  readonly operation: TraceOperation;
  /** The first one's place. */
  readonly firstSector: number;
}

/** A request that failed. */
export interface ReplayError {
  /** What it was. */
  readonly operation: TraceOperation;
  /** Its first sector. */
  readonly sector: number;
  /** As answered: -1 is an error, -2 an operation that is not supported. */
  readonly status: number;
}

/** The results of a replay. */
export interface ReplayOutcome {
  /** In the order read, write, flush, discard. */
  readonly operations: readonly OperationOutcome[];
  /** Records that were read from the trace. */
  readonly records: number;
  /** Records that were larger than a request, and issued as several. */
  readonly split: number;
  /** By reason. */
  readonly skipped: readonly Skipped[];
  /** The first requests that failed. */
  readonly firstErrors: readonly ReplayError[];
  /** The first response that breaks the protocol, in words. */
  readonly firstProtocolError: string | undefined;
  /** Requests without a response. */
  readonly unanswered: number;
  /** From the first request to the last response. */
  readonly elapsedMs: number;
  /** How long after its time a request was issued, at most; 0 for a replay that is not bound to times. */
  readonly latestMs: number;
  /** Records that could not be brought into the order of their times. */
  readonly outOfOrder: number;
  /** What is wrong with the trace. */
  readonly faults: TraceFaults;
}

/** Latencies by operation in shared memory, in the order of TRACE_OPERATIONS. */
export class ReplayLatencies {
  readonly histograms: readonly Histogram[];

  constructor(readonly buffer: SharedArrayBuffer = new SharedArrayBuffer(4 * HISTOGRAM_BYTES)) {
    this.histograms = [0, 1, 2, 3].map((operation) => new Histogram(buffer, operation * HISTOGRAM_BYTES));
  }
}
