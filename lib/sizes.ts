/**
 * Sizes as people write and read them: `64M`, `1.0 GiB`.
 * Units are powers of 1024.
 */

import { XenblkError } from "./errors.ts";
import { SECTOR_BYTES } from "./units.ts";

const UNITS = ["", "K", "M", "G", "T", "P"];

/**
 * Bytes of a size such as `4096`, `64M`, `1G` or `1GiB` (K, M, G, T and P are powers of 1024).
 * Throws {@linkcode XenblkError} (usage) for any other text, and for 2^53 bytes and above.
 */
export function parseSize(text: string): number {
  const match = /^(\d+)([KMGTP]?)(?:i?B)?$/i.exec(text.trim());
  const bytes = match === null ? NaN : Number(match[1]) * 1024 ** UNITS.indexOf(match[2]!.toUpperCase());
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new XenblkError(`Cannot read size ${text}: it is not a number of bytes below 2^53`, {
    kind: "usage",
    remedy: "write it like 4096, 64M or 1G",
  });
}

/** The same for the size of a disk. Throws {@linkcode XenblkError} (usage) for what is none, too. */
export function parseDiskSize(text: string): number {
  const bytes = parseSize(text);
  if (bytes > 0 && bytes % SECTOR_BYTES === 0) return bytes;
  throw new XenblkError(`Cannot use size ${text}: it is not a multiple of ${SECTOR_BYTES} bytes above 0`, {
    kind: "usage",
  });
}

/** A size for people: `512 B`, `1.0 GiB`. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return unit === 0 ? `${value} B` : `${value.toFixed(1)} ${UNITS[unit]}iB`;
}
