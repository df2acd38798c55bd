/**
 * What tells one disk from another in an operator's rules: its guest, its virtual device, its backend kind and its image.
 */

import { type DomId, XenstoreError, type XenstoreOperations } from "../hypervisor.ts";
import { describeDomain } from "../toolstack/domains.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import type { DeviceSettings } from "./settings.ts";

/** A disk as rules see it. A member is absent where it is not known. */
export interface DiskIdentity {
  /** The directory below `backend/`, such as `vbd3`. */
  readonly kind: string;
  /** The guest's domid. */
  readonly domain?: DomId;
  /** The guest's name. A domain other than domain 0 may not be allowed to read it. */
  readonly domainName?: string;
  /** The guest's UUID, lower case, with hyphens. */
  readonly domainUuid?: string;
  /** The number of the virtual device. */
  readonly vdev?: number;
  /** The image as the toolstack named it: the node `params`. */
  readonly image?: string;
}

/** The settings of each disk. Called once, when a device appears. */
export type SettingsRule = (disk: DiskIdentity) => DeviceSettings;

/** What xenstore says of a disk now. Throws {@linkcode XenstoreError} if the connection is lost. */
export function identifyDisk(store: XenstoreOperations, address: DeviceAddress): DiskIdentity {
  const { kind, frontendDomain, vdev } = address;
  const image = store.read(`${backendPath(address)}/params`);
  const { name, uuid } = describeGuest(store, frontendDomain);
  return {
    kind,
    domain: frontendDomain,
    vdev,
    ...(name === undefined ? {} : { domainName: name }),
    ...(uuid === undefined ? {} : { domainUuid: uuid }),
    ...(image === undefined || image === "" ? {} : { image }),
  };
}

function describeGuest(store: XenstoreOperations, domain: DomId): ReturnType<typeof describeDomain> {
  try {
    return describeDomain(store, domain);
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "EACCES") return { domain };
    throw error;
  }
}
