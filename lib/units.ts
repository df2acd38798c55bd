/**
 * The two units that every room counts in: the sector of the wire and of xenstore, and the page of grants and rings.
 * This file imports nothing.
 */

/**
 * Bytes of a sector: the unit of every sector number on the ring and in xenstore, whatever the disk's logical sector
 * size (blkif.h).
 */
export const SECTOR_BYTES = 512;
/** As a number of bits. */
export const SECTOR_SHIFT = 9;

/** Bytes of a page, of a grant and of one page of a ring: XEN_PAGE_SIZE. */
export const PAGE_BYTES = 4096;

const PAGE_SHIFT = 12;

/** How many pages `lengthBytes` bytes occupy, below 2^32. */
export function pagesOf(lengthBytes: number): number {
  return (lengthBytes + PAGE_BYTES - 1) >>> PAGE_SHIFT;
}
