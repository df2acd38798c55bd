/**
 * The options that say how a device is served, shared by the verbs that serve, and how they become settings. It must
 * not know what serving does with them.
 */

import { DEFAULT_SETTINGS, type DeviceSettings } from "../backend/settings.ts";
import { DEFAULT_PERSISTENT_GRANTS } from "../dataplane/types.ts";
import { MOST_INDIRECT_SEGMENTS, MOST_QUEUES, MOST_RING_PAGE_ORDER } from "../xenbus/features.ts";
import { isBackendKind } from "../xenbus/paths.ts";
import { choice, defaulting, flag, integer, optional, type OptionValues, text } from "./options.ts";

/** Most time that `--timeout` allows. */
const MOST_TIMEOUT_S = 86_400;

/** How guest data reaches the disk. */
export const GRANTS = defaulting(
  choice(
    "How guest data is reached: copied, through pages that stay mapped where the frontend reuses its grants, mapped " +
      "in one call a request, or page by page; auto is copy",
    ["auto", "copy", "persistent", "map", "map-each"],
  ),
  "auto",
);

/** How many mappings are kept. */
const MAX_PERSISTENT_GRANTS = defaulting(
  integer("Most pages per ring that stay mapped with --grants=persistent", 1, 65_536),
  String(DEFAULT_PERSISTENT_GRANTS),
);

/** What serves the image. */
const ENGINE = defaulting(
  choice("Storage engine: auto is uring where the kernel allows io_uring, else file", [
    "auto",
    "uring",
    "file",
    "memory",
    "null",
  ]),
  "auto",
);

/** What stands between a completed write and the medium. */
const CACHE = optional(
  choice(
    "Past the page cache (none); through it, made durable by the guest's flushes (writeback), with each write " +
      "(writethrough), or never (unsafe). Without it: none where the toolstack wrote direct-io-safe=1, else writeback",
    ["none", "writeback", "writethrough", "unsafe"],
  ),
);

/** How many Workers serve rings. */
export const WORKERS = defaulting(
  integer("Most Workers that serve rings; they start as rings come", 1, 64),
  String(navigator.hardwareConcurrency),
);

/** Options of verbs that serve devices. */
export const DEVICE_OPTIONS = {
  "read-only": flag("Serve read-only, whatever the device's nodes say", "r"),
  "engine": ENGINE,
  "cache": CACHE,
  "grants": GRANTS,
  "max-persistent-grants": MAX_PERSISTENT_GRANTS,
  "max-requests": optional(integer("Most requests in flight per ring, at most the ring's slots", 1, 512)),
  "max-ring-page-order": defaulting(
    integer("Log2 of the most pages that a ring may have", 0, MOST_RING_PAGE_ORDER),
    String(DEFAULT_SETTINGS.maxRingPageOrder),
  ),
  "max-indirect-segments": defaulting(
    integer("Most segments, of a page each, that one request may have; 0 leaves it at 11", 0, MOST_INDIRECT_SEGMENTS),
    String(DEFAULT_SETTINGS.maxIndirectSegments),
  ),
  "queues": defaulting(integer("Most rings of a disk", 1, MOST_QUEUES), String(DEFAULT_SETTINGS.maxQueues)),
  "discard": optional(
    choice("Whether discards are offered where the image takes them; absent: as the disk's nodes say", ["on", "off"]),
  ),
  "workers": WORKERS,
  "no-journal": flag(
    "Keep no journals: requests that are in flight when the process crashes are then lost; it saves a few percent of a " +
      "request's processor time at most",
  ),
  "default-protocol": defaulting(
    choice("ABI of a frontend that names none", ["x86_32-abi", "x86_64-abi", "arm-abi"]),
    DEFAULT_SETTINGS.defaultProtocol,
  ),
} as const;

/** How long the guest may take. */
export const TIMEOUT = defaulting(
  integer("Time that the guest has to connect or let go", 1, MOST_TIMEOUT_S, "SECONDS"),
  "60",
);

/** The kind that is served and attached where nothing else is said. */
export const DEFAULT_KIND = "vbd3";

/** Which directory of `backend/` is served. */
export const KIND = {
  ...text("KIND", "Backend kind: the directory below backend/ in xenstore"),
  allowed: "a word of letters, digits, _ and -",
  parse: (value: string): string | undefined => isBackendKind(value) ? value : undefined,
};

/** The settings that the options stand for. */
export function settingsOf(options: OptionValues<typeof DEVICE_OPTIONS>, image?: string): DeviceSettings {
  const maxRequests = options["max-requests"];
  return {
    grants: options.grants,
    maxPersistentGrants: options["max-persistent-grants"],
    engine: options.engine,
    ...(options.cache === undefined ? {} : { cache: options.cache }),
    ...(maxRequests === undefined ? {} : { maxRequests }),
    maxRingPageOrder: options["max-ring-page-order"],
    maxIndirectSegments: options["max-indirect-segments"],
    maxQueues: options.queues,
    ...(options.discard === undefined ? {} : { discard: options.discard === "on" }),
    readOnly: options["read-only"],
    ...(image === undefined ? {} : { image }),
    defaultProtocol: options["default-protocol"],
  };
}
