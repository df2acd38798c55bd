/**
 * A CD-ROM drive without a disc: a disk of no sectors. A frontend shows a drive of size 0; every read is beyond its end
 * and fails. When a disc is put in, the frontend is told the size as after a resize.
 */

import type { Disk, DiskRequest } from "../storage/disk.ts";
import { nullAttachment } from "../storage/engine/null.ts";
import { SECTOR_BYTES } from "../units.ts";
import { NO_DISC } from "./description.ts";

/** Opens a drive without a disc, too. */
export function withEmptyDrive(
  openDisk: (request: DiskRequest) => Promise<Disk>,
): (request: DiskRequest) => Promise<Disk> {
  return (request) => {
    const isEmpty = request.format === NO_DISC.format && request.target === NO_DISC.target;
    return isEmpty ? Promise.resolve(emptyDrive()) : openDisk(request);
  };
}

/** An empty drive. */
export function emptyDrive(): Disk {
  const sizes = { logicalSectorBytes: SECTOR_BYTES, physicalSectorBytes: SECTOR_BYTES };
  return {
    properties: { sectors: 0, ...sizes, readOnly: true },
    description: "no disc",
    attachment: () => Promise.resolve(nullAttachment(true)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
