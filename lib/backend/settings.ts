/**
 * How a device is to be served, beyond what its xenstore nodes say: the choices of the command line, and their
 * defaults. Nothing here knows how they are carried out.
 */

import type { AbiName } from "../blkif/abi.ts";
import type { EngineName } from "../storage/disk.ts";
import { BASIC_OFFER, type Offer } from "../xenbus/features.ts";
import { type GrantChoice, offersPersistent } from "./grant_choice.ts";

/** The choices for one device, or for all devices of a backend kind. */
export interface DeviceSettings {
  /** How guest data reaches the disk. */
  readonly grants: GrantChoice;
  /** Most mappings that grant mode `persistent` keeps per ring; absent: the data plane's default. */
  readonly maxPersistentGrants?: number;
  /** Which engine serves the image. */
  readonly engine: EngineName;
  /** Most requests in flight per ring; absent: the ring's slots. */
  readonly maxRequests?: number;
  /** Serve read-only even if the node `mode` allows writing. */
  readonly readOnly: boolean;
  /** The image instead of the one that the node `params` names; for a single device only. */
  readonly image?: string;
  /** The ABI of a frontend that names none. */
  readonly defaultProtocol: AbiName;
}

/**
 * The best grant mode, the fastest engine, the whole ring in flight. A frontend without a `protocol` node is taken for 32-bit
 * on x86, as Linux's blkback does.
 */
export const DEFAULT_SETTINGS: DeviceSettings = {
  grants: "auto",
  engine: "auto",
  readOnly: false,
  defaultProtocol: Deno.build.arch === "aarch64" ? "arm-abi" : "x86_32-abi",
};

/** What is offered to frontends under these settings. */
export function offerOf(settings: DeviceSettings): Offer {
  return { ...BASIC_OFFER, persistent: offersPersistent(settings.grants) };
}
