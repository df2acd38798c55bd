/**
 * The properties of a disk and the features of its backend, read from the nodes that a connected backend has published
 * (xen/interface/io/blkif.h).
 */

import { XenblkError } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import { MAX_U32, parseDecimal } from "../xenbus/decimal.ts";
import { INFO_READ_ONLY } from "../xenbus/features.ts";

/** A disk's properties and its backend's features. */
export interface DiskFacts {
  /** In 512-byte sectors, whatever the logical sector size. */
  readonly sectors: number;
  /** The unit of requests. */
  readonly logicalSectorBytes: number;
  /** What guests align to. */
  readonly physicalSectorBytes: number;
  /** The `info` node: VDISK_* bits. */
  readonly info: number;
  /** The guest must not write. */
  readonly readOnly: boolean;
  /** feature-barrier: writes with a flush before and after. */
  readonly barrier: boolean;
  /** feature-flush-cache. */
  readonly flush: boolean;
  /** feature-discard. */
  readonly discard: boolean;
  /** feature-persistent: the backend keeps mappings of grants. */
  readonly persistent: boolean;
  /** Most segments of an indirect request; 0: not supported. */
  readonly maxIndirectSegments: number;
}

/** Reads them. Throws {@linkcode XenblkError} if a required node is missing or a node is not a number. */
export function readDiskFacts(store: Xenstore, backendPath: string): DiskFacts {
  const number = (name: string, maximum: number, missing?: number): number => {
    const text = store.read(`${backendPath}/${name}`);
    const value = text === undefined ? missing : parseDecimal(text, 0, maximum);
    if (value === undefined) {
      throw new XenblkError(`Cannot use backend ${backendPath}: node ${name} ${text ? `says ${text}` : "is missing"}`);
    }
    return value;
  };
  const feature = (name: string): boolean => number(name, MAX_U32, 0) !== 0;
  const info = number("info", MAX_U32);
  const logicalSectorBytes = number("sector-size", MAX_U32, 512);
  return {
    sectors: number("sectors", Number.MAX_SAFE_INTEGER),
    logicalSectorBytes,
    physicalSectorBytes: number("physical-sector-size", MAX_U32, logicalSectorBytes),
    info,
    readOnly: (info & INFO_READ_ONLY) !== 0,
    barrier: feature("feature-barrier"),
    flush: feature("feature-flush-cache"),
    discard: feature("feature-discard"),
    persistent: feature("feature-persistent"),
    maxIndirectSegments: number("feature-max-indirect-segments", MAX_U32, 0),
  };
}
