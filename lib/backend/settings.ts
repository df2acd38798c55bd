/**
 * How a device is served, beyond what its xenstore nodes say: the choices of the command line, and their defaults.
 * It also says what follows from them for the offer to frontends.
 */

import type { AbiName } from "../blkif/abi.ts";
import type { CacheMode, DiskProperties, EngineName } from "../storage/disk.ts";
import { mergedLimits } from "../storage/filter/limits.ts";
import type { FilterChoice } from "../storage/filter/spec.ts";
import type { ThrottleOptions } from "../storage/filter/table.ts";
import { BASIC_OFFER, MOST_INDIRECT_SEGMENTS, MOST_RING_PAGE_ORDER, type Offer } from "../xenbus/features.ts";
import { type GrantChoice, offersPersistent } from "./grant_choice.ts";

/** The choices for one device, or for all devices of a backend kind. */
export interface DeviceSettings {
  /** How guest data reaches the disk. */
  readonly grants: GrantChoice;
  /** Most mappings that grant mode `persistent` keeps per ring; absent: the data plane's default. */
  readonly maxPersistentGrants?: number;
  /** Which engine serves the image. */
  readonly engine: EngineName;
  /** What stands between a completed write and the medium; absent: as the disk's nodes say. */
  readonly cache?: CacheMode;
  /** The disk's share of a reactor beside others, 1 to 1000; absent: 100. */
  readonly weight?: number;
  /** Most requests in flight per ring; absent: the ring's slots. */
  readonly maxRequests?: number;
  /** Log2 of the most pages that a ring may have, 0 to 4. */
  readonly maxRingPageOrder: number;
  /** Most segments of an indirect request, up to 256; 0: indirect requests are not offered. */
  readonly maxIndirectSegments: number;
  /** Most rings of a device, 1 to 64. */
  readonly maxQueues: number;
  /** Whether discards are offered where the disk takes them; absent: as the device's node discard-enable says. */
  readonly discard?: boolean;
  /** Serve read-only even if the node `mode` allows writing. */
  readonly readOnly: boolean;
  /** The image instead of the one that the node `params` names; for a single device only. */
  readonly image?: string;
  /**
   * Patterns of what the node `params` may name beside local files, and an image's header beside files in the image's own
   * directory; see storage/qemu/allow.ts.
   */
  readonly allowImages: readonly string[];
  /** Limits of the disk, in front of its filters; they can be changed while it is served. Absent: none. */
  readonly limits?: ThrottleOptions;
  /** Filters in front of the disk, as `throttle,iops=500`; the first one is nearest to the guest. */
  readonly filters: readonly FilterChoice[];
  /** The ABI of a frontend that names none. */
  readonly defaultProtocol: AbiName;
}

/** More rings per device gain little: the disk is the limit then. */
export const DEFAULT_MOST_QUEUES = 4;

/**
 * The best grant mode, the fastest engine, the whole ring in flight. On x86 a frontend without a `protocol` node is taken
 * for a 32-bit one, as Linux's blkback does.
 */
export const DEFAULT_SETTINGS: DeviceSettings = {
  grants: "auto",
  engine: "auto",
  maxRingPageOrder: MOST_RING_PAGE_ORDER,
  maxIndirectSegments: MOST_INDIRECT_SEGMENTS,
  maxQueues: Math.min(DEFAULT_MOST_QUEUES, navigator.hardwareConcurrency),
  readOnly: false,
  allowImages: [],
  filters: [],
  defaultProtocol: Deno.build.arch === "aarch64" ? "arm-abi" : "x86_32-abi",
};

/** The settings of a disk with some of its own. Patterns of images are added; each limit counts for itself. */
export function withOwn(
  settings: DeviceSettings,
  own: Partial<DeviceSettings>,
  chosen: Pick<DeviceSettings, "weight" | "limits">,
): DeviceSettings {
  const allowImages = [...settings.allowImages, ...(own.allowImages ?? [])];
  const limits = mergedLimits(settings.limits, own.limits, chosen.limits);
  return { ...settings, ...own, ...chosen, allowImages, limits };
}

/**
 * What is offered to frontends of a disk under these settings; `discardEnable` is what the device's node says. Flushes
 * are not offered if a completed write is durable: then the write itself reports the failure, not a flush.
 */
export function offerOf(
  settings: DeviceSettings,
  disk: Pick<DiskProperties, "cache" | "copyOnly" | "discard" | "mostChannels" | "readOnly">,
  discardEnable: boolean,
): Offer {
  const { maxRingPageOrder, maxIndirectSegments } = settings;
  const maxQueues = Math.min(settings.maxQueues, disk.mostChannels ?? Infinity);
  const persistent = offersPersistent(settings.grants, disk);
  const flushes = disk.cache !== "writethrough";
  const offer = {
    ...BASIC_OFFER,
    barrier: flushes,
    flushCache: flushes,
    persistent,
    maxRingPageOrder,
    maxIndirectSegments,
    maxQueues,
  };
  if (disk.discard === undefined || disk.readOnly || !(settings.discard ?? discardEnable)) return offer;
  return { ...offer, discard: disk.discard };
}

/** The same before the image is open: without discards, which depend on it. */
export function offerBeforeOpening(settings: DeviceSettings): Offer {
  return offerOf(settings, { readOnly: true, ...(settings.cache && { cache: settings.cache }) }, false);
}
