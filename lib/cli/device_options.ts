/**
 * The options that say how to serve a device, shared by the verbs that serve, and their translation into settings.
 */

import { DEFAULT_MOST_QUEUES, DEFAULT_SETTINGS, type DeviceSettings } from "../backend/settings.ts";
import { DEFAULT_WEIGHT, LEAST_WEIGHT, MOST_WEIGHT } from "../dataplane/fairness.ts";
import { DEFAULT_PERSISTENT_GRANTS } from "../dataplane/types.ts";
import { type AllLimits, readLimits } from "../storage/filter/limits.ts";
import { replacedLimits } from "../storage/filter/throttle.ts";
import { FILTERS } from "../storage/filter/table.ts";
import { MOST_INDIRECT_SEGMENTS, MOST_QUEUES, MOST_RING_PAGE_ORDER } from "../xenbus/features.ts";
import { isBackendKind } from "../xenbus/paths.ts";
import { PLUGIN_OPTIONS } from "./plugin_options.ts";
import {
  choice,
  defaulting,
  type Description,
  flag,
  integer,
  optional,
  type OptionValues,
  repeated,
  size,
  text,
  type Valued,
} from "./options.ts";

/** Longest `--timeout`. */
const MOST_TIMEOUT_S = 86_400;

/** The grant mode. */
export const GRANTS = defaulting(
  choice(
    "How to access guest data: copy it (copy); keep the pages mapped, if the frontend reuses its grants (persistent); " +
      "map the pages of each request in one call (map) or page by page (map-each); auto is copy",
    ["auto", "copy", "persistent", "map", "map-each"],
  ),
  "auto",
);

/** The bound of the cache of mapped pages. */
const MAX_PERSISTENT_GRANTS = defaulting(
  integer("Maximum number of pages per ring that stay mapped with --grants=persistent", 1, 65_536),
  String(DEFAULT_PERSISTENT_GRANTS),
);

/** The storage engine. */
const ENGINE = defaulting(
  choice("Storage engine: auto is qemu for formats other than raw, else uring if the kernel allows it, else file", [
    "auto",
    "uring",
    "file",
    "qemu",
    "memory",
    "null",
  ]),
  "auto",
);

/** When a completed write is durable. */
export const CACHE = optional(
  choice(
    "Bypass the page cache (none), or use it and make data durable on the guest's flushes (writeback), with each " +
      "write (writethrough), or never (unsafe)",
    ["none", "writeback", "writethrough", "unsafe"],
  ),
  "none if the toolstack wrote direct-io-safe=1, else writeback",
);

/** Largest `--workers`. */
const MOST_WORKERS = 64;

/** The number of Workers that serve rings. Texts of defaults are the same on every machine, because docs/cli.md has them. */
export const WORKERS = {
  ...defaulting(
    integer("Maximum number of Workers that serve rings; each starts when it is needed", 1, MOST_WORKERS),
    String(Math.min(navigator.hardwareConcurrency, MOST_WORKERS)),
  ),
  fallbackText: "one per processor",
};

/** Filters in front of the disk. */
export const FILTER = repeated(
  text(
    "FILTER",
    `Put a filter before the disk: ${Object.keys(FILTERS).join(", ")}, or the path of a module; with options, as ` +
      "throttle,iops=500, see docs/filters.md; the first one given is nearest to the guest",
  ),
);

const MOST_IOPS = 1e9;
const MOST_BYTES = 2 ** 50;

function bytes(help: string): Description<number> {
  return { ...size(help, 1, 0, MOST_BYTES), allowed: "a size such as 64K or 10M, or 0" };
}

/** The limits of a disk, over all its rings. */
const LIMIT_DESCRIPTIONS = {
  "iops": integer("Most reads, writes and discards per second; 0: no limit", 0, MOST_IOPS),
  "read-iops": integer("Most reads per second, in place of --iops; 0: no limit", 0, MOST_IOPS),
  "write-iops": integer("Most writes and discards per second, in place of --iops; 0: no limit", 0, MOST_IOPS),
  "iops-burst": integer(
    "Most of them at once, after a pause, or of each of both; 0: what the limit allows in 0.1 s",
    0,
    MOST_IOPS,
  ),
  "bytes-per-second": bytes("Most bytes read and written per second; 0: no limit"),
  "read-bytes-per-second": bytes("Most bytes read per second, in place of --bytes-per-second; 0: no limit"),
  "write-bytes-per-second": bytes("Most bytes written per second, in place of --bytes-per-second; 0: no limit"),
  "bytes-burst": bytes("Most of them at once, after a pause, or of each of both; 0: what the limit allows in 0.1 s"),
} as const;

type LimitTable = { readonly [K in keyof typeof LIMIT_DESCRIPTIONS]: Valued<number, undefined> };

/** The options of a disk's limits; the texts say what holds where one is not given. */
function limitOptions(otherwise: string, otherBurst: string): LimitTable {
  const all = LIMIT_DESCRIPTIONS;
  return {
    "iops": optional(all.iops, otherwise),
    "read-iops": optional(all["read-iops"], otherwise),
    "write-iops": optional(all["write-iops"], otherwise),
    "iops-burst": optional(all["iops-burst"], otherBurst),
    "bytes-per-second": optional(all["bytes-per-second"], otherwise),
    "read-bytes-per-second": optional(all["read-bytes-per-second"], otherwise),
    "write-bytes-per-second": optional(all["write-bytes-per-second"], otherwise),
    "bytes-burst": optional(all["bytes-burst"], otherBurst),
  };
}

/** Those that change the limits of a disk that is served. */
export const LIMIT_CHANGES = limitOptions("as it is", "as it is");

/**
 * The limits among options; those that were not given are absent. Throws {@linkcode XenblkError} (usage) if reads and
 * writes are limited both together and apart.
 */
export function limitsOf(options: OptionValues<typeof LIMIT_CHANGES>): Partial<AllLimits> {
  const limits: Record<keyof AllLimits, number | undefined> = {
    iops: options.iops,
    readIops: options["read-iops"],
    writeIops: options["write-iops"],
    iopsBurst: options["iops-burst"],
    bytesPerSecond: options["bytes-per-second"],
    readBytesPerSecond: options["read-bytes-per-second"],
    writeBytesPerSecond: options["write-bytes-per-second"],
    bytesBurst: options["bytes-burst"],
  };
  return readLimits(limits, (name) => `--${dashed(name)}`);
}

/** The options that those of these values end, where both come from different places: limits of the other kind. */
export function replacedOptions(named: Iterable<readonly [string, unknown]>): readonly string[] {
  const numbers = [...named].flatMap(([name, value]) => typeof value === "number" ? [[camelCased(name), value]] : []);
  return Object.keys(replacedLimits(Object.fromEntries(numbers))).map(dashed);
}

function dashed(name: string): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** The name of the setting of an option. */
export function camelCased(name: string): string {
  return name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** How one disk is served: a configuration file can set these for disks that it names. */
export const DISK_OPTIONS = {
  "read-only": flag("Serve read-only, even if the device's nodes allow writes", "r"),
  "engine": ENGINE,
  "cache": CACHE,
  "grants": GRANTS,
  "max-persistent-grants": MAX_PERSISTENT_GRANTS,
  "weight": defaulting(
    integer(
      "The disk's share of the thread that serves it, against the weights of disks of other guests there; it counts " +
        "only while they have requests that wait",
      LEAST_WEIGHT,
      MOST_WEIGHT,
    ),
    String(DEFAULT_WEIGHT),
  ),
  ...limitOptions("no limit", "0"),
  "max-requests": optional(
    integer("Maximum number of requests in flight per ring, up to the slots of the ring", 1, 512),
  ),
  "max-ring-page-order": defaulting(
    integer("Maximum size of a ring: log2 of its pages", 0, MOST_RING_PAGE_ORDER),
    String(DEFAULT_SETTINGS.maxRingPageOrder),
  ),
  "max-indirect-segments": defaulting(
    integer(
      "Maximum number of segments (pages) of an indirect request; 0: no indirect requests, so 11 segments at most",
      0,
      MOST_INDIRECT_SEGMENTS,
    ),
    String(DEFAULT_SETTINGS.maxIndirectSegments),
  ),
  "queues": {
    ...defaulting(integer("Maximum number of rings per disk", 1, MOST_QUEUES), String(DEFAULT_SETTINGS.maxQueues)),
    fallbackText: `one per processor, at most ${DEFAULT_MOST_QUEUES}`,
  },
  "discard": optional(
    choice("Offer discards if the image supports them", ["on", "off"]),
    "as the disk's nodes say",
  ),
  "allow-image": repeated({
    ...text(
      "PATTERN",
      "Allow images that match: stores, json: and plugin: that xenstore names, and backing files outside an image's own " +
        "directory; * is any text without a slash, ** any text",
    ),
  }),
  "filter": FILTER,
  "default-protocol": {
    ...defaulting(
      choice("ABI of a frontend that writes no protocol node", ["x86_32-abi", "x86_64-abi", "arm-abi"]),
      DEFAULT_SETTINGS.defaultProtocol,
    ),
    fallbackText: "arm-abi on ARM, else x86_32-abi",
  },
} as const;

/** Options of verbs that serve devices. Those that are not {@linkcode DISK_OPTIONS} concern the whole process. */
export const DEVICE_OPTIONS = {
  ...DISK_OPTIONS,
  "workers": WORKERS,
  "no-balance": flag(
    "Leave each ring with the Worker that it began with; without this, a ring moves from a Worker that is full to one " +
      "that has room",
  ),
  "no-journal": flag(
    "Keep no journals: a crash of the process loses the requests in flight; this saves a few percent of CPU time " +
      "per request at most",
  ),
  "daemon-per-disk": flag(
    "Serve each disk of a format other than raw by a storage daemon of its own, not one per guest",
  ),
  "daemon-user": optional(
    text("USER", "Run storage daemons as this user, who must be able to open the images; not as root"),
  ),
  "no-write-log": flag(
    "Keep no log of the writes that a storage daemon has not flushed: if it dies, the disk fails for good",
  ),
  ...PLUGIN_OPTIONS,
} as const;

/** The time limit of the verbs that wait for a guest. */
export const TIMEOUT = defaulting(
  integer("How long to wait for the guest to connect or to close the disk", 1, MOST_TIMEOUT_S, "SECONDS"),
  "60",
);

/** The backend kind. */
export const KIND = {
  ...text("KIND", "Backend kind: the directory below backend/ in xenstore"),
  allowed: "a word of letters, digits, _ and -",
  parse: (value: string): string | undefined => isBackendKind(value) ? value : undefined,
};

/** The settings that the options express. */
export function settingsOf(options: OptionValues<typeof DISK_OPTIONS>, image?: string): DeviceSettings {
  const maxRequests = options["max-requests"];
  const limits = limitsOf(options);
  return {
    grants: options.grants,
    maxPersistentGrants: options["max-persistent-grants"],
    engine: options.engine,
    ...(options.cache === undefined ? {} : { cache: options.cache }),
    weight: options.weight,
    ...(Object.keys(limits).length === 0 ? {} : { limits }),
    ...(maxRequests === undefined ? {} : { maxRequests }),
    maxRingPageOrder: options["max-ring-page-order"],
    maxIndirectSegments: options["max-indirect-segments"],
    maxQueues: options.queues,
    ...(options.discard === undefined ? {} : { discard: options.discard === "on" }),
    readOnly: options["read-only"],
    ...(image === undefined ? {} : { image }),
    allowImages: options["allow-image"],
    filters: options.filter,
    defaultProtocol: options["default-protocol"],
  };
}
