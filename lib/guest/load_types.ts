/**
 * What a load is told, what it reports while it runs and what it says at the end: plain data that can be posted to a
 * Worker. It must not know how a load is driven.
 */

import type { AbiName } from "../blkif/abi.ts";
import { Histogram, HISTOGRAM_BYTES, type LatencySummary } from "../histogram.ts";
import type { DomId, EvtchnPort } from "../hypervisor.ts";
import type { DiskFacts } from "./disk_facts.ts";
import type { Miscompare } from "./disk_model.ts";
import type { FrontendConnection } from "./frontend.ts";

/** Which requests to make. */
export interface LoadSpec {
  readonly seed: number;
  readonly pattern: "random" | "sequential";
  /** Share of reads among reads and writes, 0 to 1. */
  readonly readShare: number;
  /** Sizes to choose from, or a range; multiples of 512, up to what the frontend has segments for. */
  readonly blockBytes: readonly number[] | { readonly min: number; readonly max: number };
  /** Requests in flight, at most. */
  readonly depth: number;
  /** A flush comes after so many reads and writes; 0: none. */
  readonly flushEvery: number;
  /** Every so many writes one is a barrier; 0: none. */
  readonly barrierEvery: number;
  /** A discard comes after so many reads and writes, where the disk takes any. Default none. */
  readonly discardEvery?: number;
  /** Where: `sectors` 512-byte sectors from `firstSector` on. Default the whole disk. */
  readonly area?: { readonly firstSector: number; readonly sectors: number };
  /** Ends after so many requests. Default never. */
  readonly requests?: number;
  /** Ends after so long. Default never. */
  readonly durationMs?: number;
}

/** Defaults for a {@linkcode LoadSpec}: half reads, half writes of 512 bytes to 44 KiB, 32 in flight. */
export const MIXED_LOAD: LoadSpec = {
  seed: 1,
  pattern: "random",
  readShare: 0.5,
  blockBytes: { min: 512, max: 45056 },
  depth: 32,
  flushEvery: 0,
  barrierEvery: 0,
};

/** One ring and its event channel. */
export interface LoadRing {
  readonly address: number;
  readonly bytes: number;
  readonly port: EvtchnPort;
}

/** The rings, pages and event channels to drive. */
export interface LoadTarget {
  readonly backend: DomId;
  readonly abi: AbiName;
  readonly rings: readonly LoadRing[];
  readonly dataAddress: number;
  /** {@linkcode segments} for each request. */
  readonly dataRefs: Uint32Array;
  /** Most segments of a request; beyond 11 it is an indirect one. */
  readonly segments: number;
  /** One page for each request, if there are indirect ones. */
  readonly indirectAddress: number;
  readonly indirectRefs: Uint32Array;
  /** Requests that there are pages for, on all rings together. */
  readonly requests: number;
  readonly disk: DiskFacts;
}

/** A connection in the form that can be posted. */
export function loadTarget(connection: FrontendConnection): LoadTarget {
  const { backend, abi, rings, dataPages, segments, indirectPages, requests, disk } = connection;
  return {
    backend,
    abi,
    rings: rings.map(({ pages, port }) => ({ address: pages.address, bytes: pages.view.length, port })),
    dataAddress: dataPages.address,
    dataRefs: Uint32Array.from(dataPages.refs),
    segments,
    indirectAddress: indirectPages?.address ?? 0,
    indirectRefs: Uint32Array.from(indirectPages?.refs ?? []),
    requests,
    disk,
  };
}

/** What came of a load. */
export interface LoadOutcome {
  /** Requests answered OKAY, by operation. */
  readonly reads: number;
  readonly writes: number;
  readonly barriers: number;
  readonly flushes: number;
  readonly discards: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  /** Requests answered otherwise: all, and by `<operation> <status>`, such as `write -1`. */
  readonly errors: number;
  readonly errorsByKind: Readonly<Record<string, number>>;
  /** Sectors read and found right; read with nothing known of them; read and found wrong. */
  readonly verifiedSectors: number;
  readonly uncheckedSectors: number;
  readonly miscompares: number;
  readonly firstMiscompare: Miscompare | undefined;
  /** Responses that a frontend would take for a broken backend; the first in words. */
  readonly protocolErrors: number;
  readonly firstProtocolError: string | undefined;
  /** Requests that never were answered. */
  readonly unanswered: number;
  readonly notificationsSent: number;
  /** Pushes for which the backend had not asked to be notified. */
  readonly notificationsSaved: number;
  readonly elapsedMs: number;
  readonly latency: LatencySummary;
}

/** Float64 counters of {@linkcode LoadProgress}; word 0 (an int32) is the stop flag. */
const COUNTERS = ["requests", "bytes", "errors", "miscompares", "inFlight", "verifiedSectors"] as const;
type Counter = typeof COUNTERS[number];
const HISTOGRAM_AT = 64;

/** A load's counters in shared memory: the driver writes, anybody may read meanwhile, and ask it to stop. */
export class LoadProgress {
  /** Of request latencies, in nanoseconds. */
  readonly histogram: Histogram;
  readonly #stop: Int32Array;
  readonly #counters: Float64Array;

  constructor(readonly buffer: SharedArrayBuffer = new SharedArrayBuffer(HISTOGRAM_AT + HISTOGRAM_BYTES)) {
    this.#stop = new Int32Array(buffer, 0, 1);
    this.#counters = new Float64Array(buffer, 8, COUNTERS.length);
    this.histogram = new Histogram(buffer, HISTOGRAM_AT);
  }

  /** Asks the driver to issue nothing more and to end when all is answered. */
  requestStop(): void {
    Atomics.store(this.#stop, 0, 1);
  }

  /** Asks the driver to end at once; what is in flight will never be answered. */
  requestAbandon(): void {
    Atomics.store(this.#stop, 0, 2);
  }

  get stopRequested(): boolean {
    return Atomics.load(this.#stop, 0) !== 0;
  }

  get abandonRequested(): boolean {
    return Atomics.load(this.#stop, 0) === 2;
  }

  /** The counters as they are now. */
  read(): Readonly<Record<Counter, number>> {
    const [requests, bytes, errors, miscompares, inFlight, verifiedSectors] = this.#counters;
    return {
      requests: requests!,
      bytes: bytes!,
      errors: errors!,
      miscompares: miscompares!,
      inFlight: inFlight!,
      verifiedSectors: verifiedSectors!,
    };
  }

  /** The driver's report, in the order of {@linkcode read}'s result. */
  report(requests: number, bytes: number, errors: number, wrong: number, inFlight: number, verified: number): void {
    const counters = this.#counters;
    counters[0] = requests;
    counters[1] = bytes;
    counters[2] = errors;
    counters[3] = wrong;
    counters[4] = inFlight;
    counters[5] = verified;
  }
}
