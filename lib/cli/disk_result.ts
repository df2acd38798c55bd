/**
 * What `--json` prints of a disk that a verb has changed: its names as `list --json` has them.
 */

import type { FoundDisk } from "../toolstack/detach.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";

/** A disk by all its names. */
export interface NamedDisk extends DeviceAddress {
  /** The virtual device's name, such as `xvda`. */
  readonly name: string;
  /** The guest's name; absent if it has none. */
  readonly domainName?: string;
}

/** The names of a disk that was looked up. */
export function namedDisk({ guest, device }: FoundDisk): NamedDisk {
  const domainName = guest.name === undefined ? {} : { domainName: guest.name };
  return { ...device, name: formatVdev(device.vdev), ...domainName };
}
