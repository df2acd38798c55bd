/**
 * Parses request sizes as a user writes them:
 * a list such as `4K,16K`, or a range such as `512-44K`.
 */

import { SECTOR_BYTES } from "../../units.ts";
import type { LoadSpec } from "../../guest/load_types.ts";
import { parseSize } from "../../sizes.ts";
import { MOST_INDIRECT_SEGMENTS } from "../../xenbus/features.ts";

/** The largest direct request: eleven pages. */
const MOST_DIRECT_BYTES = 11 * 4096;
/** The largest indirect request that this backend offers. */
const MOST_BYTES = MOST_INDIRECT_SEGMENTS * 4096;

/** The sizes, or undefined if the text is not a list or range of sizes that a request can have. */
export function parseBlockSizes(text: string): LoadSpec["blockBytes"] | undefined {
  const range = /^([^-,]+)-([^-,]+)$/.exec(text);
  if (range === null) {
    const sizes = text.split(",").map(blockSize);
    return sizes.every((size) => size !== undefined) ? sizes : undefined;
  }
  const [min, max] = [blockSize(range[1]!), blockSize(range[2]!)];
  return min !== undefined && max !== undefined && min <= max ? { min, max } : undefined;
}

function blockSize(text: string): number | undefined {
  try {
    const bytes = parseSize(text);
    return bytes % SECTOR_BYTES === 0 && bytes >= SECTOR_BYTES && bytes <= MOST_BYTES ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** The most segments that one of these requests can need, wherever its data begins in a page. */
export function segmentsFor(blockBytes: LoadSpec["blockBytes"]): number {
  const most = "max" in blockBytes ? blockBytes.max : Math.max(...blockBytes);
  if (most <= MOST_DIRECT_BYTES) return MOST_DIRECT_BYTES / 4096;
  return Math.min(Math.ceil(most / 4096) + 1, MOST_INDIRECT_SEGMENTS);
}
