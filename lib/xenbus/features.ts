/**
 * What a backend publishes about itself and its disk, as lists of node names and values: the features, which also limit
 * what a frontend may ask for, and the disk's properties. Pure; it must not know how nodes are written.
 */

/** A node below the backend's directory and its value. */
export type NodeValue = readonly [name: string, value: string];

/** What this backend can do for a frontend. What is not there is published as 0 or not at all, never promised. */
export interface Offer {
  /** WRITE_BARRIER is carried out. */
  readonly barrier: boolean;
  /** FLUSH_DISKCACHE is carried out. */
  readonly flushCache: boolean;
  /** Pages that the frontend grants again and again stay mapped. */
  readonly persistent: boolean;
  /** Log2 of the most pages a ring may have, 0 to 4. */
  readonly maxRingPageOrder: number;
  /** Most rings a device may have; at least 1. */
  readonly maxQueues: number;
}

/** One ring of one page; barriers and flushes. */
export const BASIC_OFFER: Offer = {
  barrier: true,
  flushCache: true,
  persistent: false,
  maxRingPageOrder: 0,
  maxQueues: 1,
};

/** Bits of the `info` node (blkif.h: VDISK_CDROM, VDISK_REMOVABLE, VDISK_READONLY). */
export const INFO_CDROM = 1;
/** See {@linkcode INFO_CDROM}. */
export const INFO_REMOVABLE = 2;
/** See {@linkcode INFO_CDROM}. */
export const INFO_READ_ONLY = 4;

/** What the frontend is told of the disk. */
export interface DiskDescription {
  /** Size in 512-byte sectors, whatever the logical sector size. */
  readonly sectors: number;
  readonly logicalSectorBytes: number;
  readonly physicalSectorBytes: number;
  readonly readOnly: boolean;
  readonly cdrom: boolean;
  readonly removable: boolean;
}

const flag = (value: boolean): string => value ? "1" : "0";

/**
 * The nodes to be there before the backend goes to InitWait. Features that are absent by the protocol when there is no
 * support (indirect segments, several queues) are left out; the others are said to be 0.
 */
export function featureNodes(offer: Offer): NodeValue[] {
  const nodes: NodeValue[] = [
    ["feature-barrier", flag(offer.barrier)],
    ["feature-flush-cache", flag(offer.flushCache)],
    ["feature-discard", "0"],
    ["feature-persistent", flag(offer.persistent)],
    ["max-ring-page-order", String(offer.maxRingPageOrder)],
    // The deprecated spelling that some frontends still look for.
    ["max-ring-pages", String(2 ** offer.maxRingPageOrder)],
  ];
  if (offer.maxQueues > 1) nodes.push(["multi-queue-max-queues", String(offer.maxQueues)]);
  return nodes;
}

/** The nodes to be written, in one transaction, before the backend goes to Connected, and again when the disk grows. */
export function diskNodes(disk: DiskDescription): NodeValue[] {
  const info = (disk.cdrom ? INFO_CDROM : 0) | (disk.removable ? INFO_REMOVABLE : 0) |
    (disk.readOnly ? INFO_READ_ONLY : 0);
  return [
    ["sectors", String(disk.sectors)],
    ["info", String(info)],
    ["sector-size", String(disk.logicalSectorBytes)],
    ["physical-sector-size", String(disk.physicalSectorBytes)],
  ];
}
