/**
 * Types of a load: what to issue, on which rings, its progress and its results. Plain data and shared memory, so that a
 * load can run in a Worker.
 */

import type { AbiName } from "../blkif/abi.ts";
import { Histogram, HISTOGRAM_BYTES, type LatencySummary } from "../histogram.ts";
import type { DomId, EvtchnPort } from "../hypervisor.ts";
import type { DiskFacts } from "./disk_facts.ts";
import type { Miscompare } from "./disk_model.ts";
import type { FrontendConnection } from "./frontend.ts";

/** Which requests to issue. */
export interface LoadSpec {
  /** Of the random choices. */
  readonly seed: number;
  /** At random places, or one after the other. */
  readonly pattern: "random" | "sequential";
  /** Share of reads among reads and writes, from 0 to 1. */
  readonly readShare: number;
  /** Sizes to choose from, or a range: multiples of 512, at most what a request of the frontend can hold. */
  readonly blockBytes: readonly number[] | { readonly min: number; readonly max: number };
  /** Most requests in flight. */
  readonly depth: number;
  /** Reads and writes between two flushes; 0: no flushes. */
  readonly flushEvery: number;
  /** One of so many writes is a barrier; 0: none. */
  readonly barrierEvery: number;
  /** Reads and writes between two discards, if the backend offers discards. Default 0: none. */
  readonly discardEvery?: number;
  /** The 512-byte sectors to use. Default the whole disk. */
  readonly area?: { readonly firstSector: number; readonly sectors: number };
  /** Requests to issue. Default unlimited. */
  readonly requests?: number;
  /** Time to issue requests for. Default unlimited. */
  readonly durationMs?: number;
}

/** A general load: half reads, half writes of 512 bytes to 44 KiB, 32 in flight; no flushes. */
export const MIXED_LOAD: LoadSpec = {
  seed: 1,
  pattern: "random",
  readShare: 0.5,
  blockBytes: { min: 512, max: 45056 },
  depth: 32,
  flushEvery: 0,
  barrierEvery: 0,
};

/** One ring and its event channel, in a form that can be posted. */
export interface LoadRing {
  readonly address: number;
  readonly bytes: number;
  readonly port: EvtchnPort;
}

/** The rings, pages and event channels of a load, in a form that can be posted. */
export interface LoadTarget {
  readonly backend: DomId;
  readonly abi: AbiName;
  readonly rings: readonly LoadRing[];
  readonly dataAddress: number;
  /** {@linkcode segments} references per request. */
  readonly dataRefs: Uint32Array;
  /** Most segments per request; a request of more than 11 is indirect. */
  readonly segments: number;
  /** One page per request; 0 and empty if there are no indirect requests. */
  readonly indirectAddress: number;
  readonly indirectRefs: Uint32Array;
  /** Requests that there are pages for, over all rings. */
  readonly requests: number;
  readonly disk: DiskFacts;
}

/** Makes the target of a connection. */
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

/** The results of a load. */
export interface LoadOutcome {
  /** Successful reads. */
  readonly reads: number;
  /** Successful writes, without barriers. */
  readonly writes: number;
  /** Successful write barriers. */
  readonly barriers: number;
  /** Successful flushes. */
  readonly flushes: number;
  /** Successful discards. */
  readonly discards: number;
  /** Bytes of the successful reads. */
  readonly bytesRead: number;
  /** Bytes of the successful writes and barriers. */
  readonly bytesWritten: number;
  /** Failed requests. */
  readonly errors: number;
  /** The same by `<operation> <status>`, for example `write -1`. */
  readonly errorsByKind: Readonly<Record<string, number>>;
  /** Sectors that were read and are right. */
  readonly verifiedSectors: number;
  /** Sectors that were read and that the model knew nothing of. */
  readonly uncheckedSectors: number;
  /** Sectors that were read and are wrong. */
  readonly miscompares: number;
  /** The first of them. */
  readonly firstMiscompare: Miscompare | undefined;
  /** Responses that break the protocol: wrong id or operation, impossible index. */
  readonly protocolErrors: number;
  /** The first one in words. */
  readonly firstProtocolError: string | undefined;
  /** Requests without a response. */
  readonly unanswered: number;
  /** Pushes that the backend had asked to be notified of. */
  readonly notificationsSent: number;
  /** Pushes that the backend had not asked to be notified of. */
  readonly notificationsSaved: number;
  /** From the first request to the last response, in milliseconds. */
  readonly elapsedMs: number;
  /** How long requests took. */
  readonly latency: LatencySummary;
}

/** Float64 counters of {@linkcode LoadProgress}, after the stop flag (int32 at byte 0). */
const COUNTERS = ["requests", "bytes", "errors", "miscompares", "inFlight", "verifiedSectors"] as const;
type Counter = typeof COUNTERS[number];
const HISTOGRAM_AT = 64;

/** A load's counters in shared memory: the driver writes them; other threads read them and ask the driver to stop. */
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

  /** Asks the driver to issue no more requests and to end when all are answered. */
  requestStop(): void {
    Atomics.store(this.#stop, 0, 1);
  }

  /** Asks the driver to end at once, with requests unanswered. */
  requestAbandon(): void {
    Atomics.store(this.#stop, 0, 2);
  }

  get stopRequested(): boolean {
    return Atomics.load(this.#stop, 0) !== 0;
  }

  get abandonRequested(): boolean {
    return Atomics.load(this.#stop, 0) === 2;
  }

  /** The present values. */
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

  /** Called by the driver. */
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
