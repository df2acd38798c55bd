/**
 * What a vhost-user-blk export says of its disk: feature bits and the config space (Linux: virtio_blk.h, struct
 * virtio_blk_config; virtio_config.h), and what follows for the disk's properties and for how requests are cut. Pure.
 */

import type { DiskProperties } from "../../lib/storage/disk.ts";
import { PAGE_BYTES, SECTOR_BYTES } from "../../lib/units.ts";
import type { RequestLimits } from "./attachment.ts";

/** Feature bits that are used here, by their numbers. */
export const FEATURE = {
  sizeMax: 1n << 1n,
  segMax: 1n << 2n,
  readOnly: 1n << 5n,
  blockSize: 1n << 6n,
  flush: 1n << 9n,
  topology: 1n << 10n,
  configWce: 1n << 11n,
  multiQueue: 1n << 12n,
  discard: 1n << 13n,
  eventIdx: 1n << 29n,
  protocolFeatures: 1n << 30n,
  version1: 1n << 32n,
} as const;

/** All of them: what is accepted if it is offered. */
export const FEATURES: bigint = Object.values(FEATURE).reduce((all, bit) => all | bit, 0n);

/** The part of the config space that is read: all up to the fields of secure erase. */
export const CONFIG_BYTES = 60;
/** Offset of the field `wce`, the only one that can be written. */
export const WCE_AT = 32;

/** QEMU refuses larger discards; that much is not held against other disks of its process. */
const MOST_DISCARD_BYTES = 16 * 2 ** 20;
const MOST_BLOCK_BYTES = PAGE_BYTES;
const MOST_SECTORS = Math.floor(Number.MAX_SAFE_INTEGER / SECTOR_BYTES);

/** More are not needed, and must fit in the virtqueue together with a header and a status. */
const MOST_SEGMENTS = 256;
const MOST_SEGMENT_BYTES = 2 ** 31;

/** Why grants other than copies cannot be used. */
const COPY_ONLY = "the storage daemon works on memory that it shares with this process, not on the guest's";

/** A disk as its export describes it. */
export interface ExportFacts {
  readonly properties: DiskProperties;
  readonly limits: RequestLimits;
}

/** Throws RangeError, saying what in the config space cannot be. `features`: those that the export offers. */
export function readConfig(config: Uint8Array, features: bigint, mustOnlyRead: boolean): ExportFacts {
  if (config.length < CONFIG_BYTES) {
    throw new RangeError(`a config space of ${config.length} bytes, not ${CONFIG_BYTES}`);
  }
  const view = new DataView(config.buffer, config.byteOffset, config.byteLength);
  const word = (at: number): number => view.getUint32(at, true);
  const has = (bit: bigint): boolean => (features & bit) !== 0n;
  const readOnly = mustOnlyRead || has(FEATURE.readOnly);
  const blockBytes = has(FEATURE.blockSize) ? checkBlock(word(20)) : SECTOR_BYTES;
  const exponent = has(FEATURE.topology) ? view.getUint8(24) : 0;
  const physicalBytes = exponent > 0 && exponent <= 16 ? blockBytes << exponent : Math.max(blockBytes, PAGE_BYTES);
  const mostDiscardBytes = has(FEATURE.discard) && !readOnly ? discardBytes(word(36), word(44), blockBytes) : 0;
  const granularityBytes = Math.max(blockBytes, word(44) * SECTOR_BYTES);
  return {
    properties: {
      sectors: checkSectors(view.getBigUint64(0, true)),
      logicalSectorBytes: blockBytes,
      physicalSectorBytes: physicalBytes,
      readOnly,
      cache: has(FEATURE.flush) ? "writeback" : "writethrough",
      copyOnly: COPY_ONLY,
      ...(mostDiscardBytes > 0 && { discard: { granularityBytes, alignmentBytes: 0, secure: false } }),
    },
    limits: {
      mostSegments: has(FEATURE.segMax) ? Math.min(Math.max(1, word(12)), MOST_SEGMENTS) : 1,
      mostSegmentBytes: has(FEATURE.sizeMax) ? segmentBytes(word(8), blockBytes) : MOST_SEGMENT_BYTES,
      blockBytes,
      mostDiscardBytes,
      flushes: has(FEATURE.flush),
      readOnly,
    },
  };
}

function checkSectors(sectors: bigint): number {
  if (sectors > 0n && sectors <= MOST_SECTORS) return Number(sectors);
  throw new RangeError(`a capacity of ${sectors} sectors`);
}

function checkBlock(bytes: number): number {
  if (bytes >= SECTOR_BYTES && bytes <= MOST_BLOCK_BYTES && (bytes & (bytes - 1)) === 0) return bytes;
  throw new RangeError(`a block size of ${bytes} bytes`);
}

/** Of the field size_max. QEMU offers the feature and says 0: there is no limit. */
function segmentBytes(most: number, blockBytes: number): number {
  if (most === 0) return MOST_SEGMENT_BYTES;
  if (most >= blockBytes) return Math.min(most, MOST_SEGMENT_BYTES);
  throw new RangeError(`segments of at most ${most} bytes, less than a block`);
}

/** Most bytes of a discard, a multiple of the alignment; 0: there can be none. */
function discardBytes(mostSectors: number, alignmentSectors: number, blockBytes: number): number {
  const unit = Math.max(blockBytes, alignmentSectors * SECTOR_BYTES);
  const most = Math.min(mostSectors * SECTOR_BYTES, MOST_DISCARD_BYTES);
  return most - most % unit;
}
