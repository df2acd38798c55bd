/**
 * What a backend publishes about itself and its disk, as lists of node names and values: the features, which also limit
 * what a frontend may ask for, and the disk's properties. Pure.
 */

import { parseDecimal } from "./decimal.ts";

/** A node below the backend's directory and its value. */
export type NodeValue = readonly [name: string, value: string];

/** The most that can be offered: log2 of ring pages, rings of a device, segments of an indirect request. */
export const MOST_RING_PAGE_ORDER = 4;
/** See {@linkcode MOST_RING_PAGE_ORDER}. */
export const MOST_QUEUES = 64;
/** See {@linkcode MOST_RING_PAGE_ORDER}. */
export const MOST_INDIRECT_SEGMENTS = 256;

/** How discards are carried out. */
export interface DiscardOffer {
  /** Discards smaller than this have no effect. */
  readonly granularityBytes: number;
  /** Where the first granule begins. */
  readonly alignmentBytes: number;
  /** The secure flag is honoured. */
  readonly secure: boolean;
}

/** What this backend offers to a frontend. Features that are missing are published as 0 or not at all. */
export interface Offer {
  /** WRITE_BARRIER is carried out. */
  readonly barrier: boolean;
  /** FLUSH_DISKCACHE is carried out. */
  readonly flushCache: boolean;
  /** Pages stay mapped, for frontends that reuse their grants. */
  readonly persistent: boolean;
  /** Log2 of the most pages a ring may have, 0 to {@linkcode MOST_RING_PAGE_ORDER}. */
  readonly maxRingPageOrder: number;
  /** Most rings a device may have, 1 to {@linkcode MOST_QUEUES}. */
  readonly maxQueues: number;
  /** Most segments of an indirect request, up to {@linkcode MOST_INDIRECT_SEGMENTS}; 0: none are accepted. */
  readonly maxIndirectSegments: number;
  /** DISCARD is carried out. */
  readonly discard?: DiscardOffer;
}

/** One ring of one page; barriers and flushes. */
export const BASIC_OFFER: Offer = {
  barrier: true,
  flushCache: true,
  persistent: false,
  maxRingPageOrder: 0,
  maxQueues: 1,
  maxIndirectSegments: 0,
};

/** Bits of the `info` node (blkif.h: VDISK_CDROM, VDISK_REMOVABLE, VDISK_READONLY). */
export const INFO_CDROM = 1;
/** See {@linkcode INFO_CDROM}. */
export const INFO_REMOVABLE = 2;
/** See {@linkcode INFO_CDROM}. */
export const INFO_READ_ONLY = 4;

/**
 * The node that says `r` if the image is only read although the node `mode` is `w`: a filter keeps the guest's writes. So
 * other guests may have the image, too.
 */
export const IMAGE_MODE_NODE = "image-mode";

/** See {@linkcode IMAGE_MODE_NODE}; without it, `mode` holds for the image. */
export function imageModeNodes(isOnlyRead: boolean): NodeValue[] {
  return isOnlyRead ? [[IMAGE_MODE_NODE, "r"]] : [];
}

/** The disk's properties, as published to the frontend. */
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
 * The nodes to publish before InitWait. Without support, indirect segments, several queues and the details of discards
 * have no nodes; the other features are 0.
 */
export function featureNodes(offer: Offer): NodeValue[] {
  const nodes: NodeValue[] = [
    ["feature-barrier", flag(offer.barrier)],
    ["feature-flush-cache", flag(offer.flushCache)],
    ["feature-discard", flag(offer.discard !== undefined)],
    ["feature-persistent", flag(offer.persistent)],
    ["max-ring-page-order", String(offer.maxRingPageOrder)],
    // The deprecated spelling that some frontends still look for.
    ["max-ring-pages", String(2 ** offer.maxRingPageOrder)],
  ];
  if (offer.maxQueues > 1) nodes.push(["multi-queue-max-queues", String(offer.maxQueues)]);
  if (offer.maxIndirectSegments > 0) nodes.push(["feature-max-indirect-segments", String(offer.maxIndirectSegments)]);
  if (offer.discard === undefined) return nodes;
  const { granularityBytes, alignmentBytes, secure } = offer.discard;
  return [
    ...nodes,
    ["discard-granularity", String(granularityBytes)],
    ["discard-alignment", String(alignmentBytes)],
    ["discard-secure", flag(secure)],
  ];
}

/** The nodes that {@linkcode readOffer} reads. */
export const OFFER_NODES: readonly string[] = [
  "discard-granularity",
  "discard-alignment",
  "discard-secure",
  "feature-barrier",
  "feature-flush-cache",
  "feature-persistent",
  "max-ring-page-order",
  "multi-queue-max-queues",
  "feature-max-indirect-segments",
  "feature-discard",
];

/**
 * Reads what is published, perhaps by an earlier backend: a connected frontend relies on it. Nodes that are missing or
 * not valid offer nothing. `read` returns the value of a node below the backend's directory.
 */
export function readOffer(read: (name: string) => string | undefined): Offer {
  const number = (name: string, most: number, missing: number): number =>
    Math.min(parseDecimal(read(name) ?? "", 0, Number.MAX_SAFE_INTEGER) ?? missing, most);
  const offers = (name: string): boolean => read(name) === "1";
  const discard = {
    granularityBytes: number("discard-granularity", Number.MAX_SAFE_INTEGER, 512),
    alignmentBytes: number("discard-alignment", Number.MAX_SAFE_INTEGER, 0),
    secure: offers("discard-secure"),
  };
  return {
    barrier: offers("feature-barrier"),
    flushCache: offers("feature-flush-cache"),
    persistent: offers("feature-persistent"),
    maxRingPageOrder: number("max-ring-page-order", MOST_RING_PAGE_ORDER, 0),
    maxQueues: Math.max(1, number("multi-queue-max-queues", MOST_QUEUES, 1)),
    maxIndirectSegments: number("feature-max-indirect-segments", MOST_INDIRECT_SEGMENTS, 0),
    ...(offers("feature-discard") ? { discard } : {}),
  };
}

/** The nodes to publish, in one transaction, with Connected, and again when the disk grows. */
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
