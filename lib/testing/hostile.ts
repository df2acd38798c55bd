/**
 * What a hostile or broken guest does, by name: requests that no driver makes. Each must be answered with an error, or
 * not at all, and must not disturb others.
 */

import { OP_INDIRECT, OP_READ, OP_RESERVED, OP_WRITE } from "../blkif/abi.ts";
import type { RawRequest } from "./ring_client.ts";

const PAGE = { first: 0, last: 7 };
/** No machine has so many grants. */
const NO_GRANT = 0xFFFFFFF0;
const MOST_SECTOR = 0xFFFFFFFFFFFFFFFFn;

/** Requests that a backend must refuse. The keys are their names. */
export const HOSTILE_REQUESTS = {
  "unknown operation": { operation: 200 },
  "reserved operation": { operation: OP_RESERVED },
  "no segments": { operation: OP_READ },
  "too many segments": { operation: OP_READ, segments: [PAGE], segmentCount: 255 },
  "segment ends before it begins": { operation: OP_READ, segments: [{ first: 5, last: 2 }] },
  "segment beyond its page": { operation: OP_WRITE, segments: [{ first: 0, last: 200 }] },
  "sector beyond the end": { operation: OP_READ, sector: MOST_SECTOR, segments: [PAGE] },
  "bad grant": { operation: OP_READ, segments: [{ ...PAGE, ref: NO_GRANT }] },
  "bad grant of a write": { operation: OP_WRITE, segments: [{ ...PAGE, ref: NO_GRANT }] },
  "bad indirect grant": { operation: OP_INDIRECT, segments: [PAGE], indirectRef: NO_GRANT },
  "indirect of an indirect": { operation: OP_INDIRECT, innerOperation: OP_INDIRECT, segments: [PAGE] },
  "too many indirect segments": { operation: OP_INDIRECT, segments: [PAGE], segmentCount: 65_535 },
} as const satisfies Readonly<Record<string, RawRequest>>;

/** Name of a hostile request. */
export type HostileRequest = keyof typeof HOSTILE_REQUESTS;
