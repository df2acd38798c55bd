/**
 * The disks that the verbs of `snapshot` name, and what the operator has to change where a toolstack keeps their images'
 * names.
 */

import { deviceLabel } from "../../backend/journals.ts";
import type { ControlClient } from "../../control/client.ts";
import { XenblkError } from "../../errors.ts";
import type { XenstoreOperations } from "../../hypervisor.ts";
import { findDisk, type FoundDisk } from "../../toolstack/detach.ts";
import { listDevices, resolveGuest } from "../../toolstack/list.ts";
import { formatVdev, parseVdev } from "../../xenbus/vdev.ts";
import { clientOfServing } from "../through_socket.ts";
import type { Operand } from "../verb.ts";

/** The operand DOMAIN. */
export const DOMAIN: Operand = { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true };

/** The operand VDEV of verbs for one disk. */
export const VDEV: Operand = {
  name: "VDEV",
  help: "the virtual device, such as xvdb",
  required: true,
  check: parseVdev,
};

/** The permissions of verbs that ask the serving process. */
export const PERMISSIONS = "--allow-ffi --allow-env --allow-net, and --allow-read and --allow-write of /run/xenblk.";

/** All disks that the guest writes to. Throws {@linkcode XenblkError} (`not-found`) if there is none. */
export function writableDisks(store: XenstoreOperations, domain: string): FoundDisk[] {
  const guest = resolveGuest(store, domain);
  const disks = listDevices(store, guest.domain).filter(({ readOnly, cdrom }) => !readOnly && !cdrom);
  if (disks.length > 0) {
    return disks.map(({ frontendDomain, backendDomain, kind, vdev }) => ({
      guest,
      device: { frontendDomain, backendDomain, kind, vdev },
    }));
  }
  throw new XenblkError(`Cannot take a snapshot of domain ${domain}: it has no disk that it writes to`, {
    kind: "not-found",
    remedy: "see `xenblk list`",
  });
}

/** The disks of a list such as `xvda,xvdb`. Throws {@linkcode XenblkError}. */
export function namedDisks(store: XenstoreOperations, domain: string, vdevs: string): FoundDisk[] {
  return vdevs.split(",").map((vdev) => findDisk(store, domain, vdev));
}

/** The process that serves all of these disks. Throws {@linkcode XenblkError} if it is not one process. */
export async function clientOfAll(disks: readonly FoundDisk[], verb: string): Promise<ControlClient> {
  const client = await clientOfServing(disks[0]!, verb);
  const { devices } = await client.call("status", {});
  const other = disks.find(({ device }) => !devices.some(({ label }) => label === deviceLabel(device)));
  if (other === undefined) return client;
  client[Symbol.dispose]();
  throw new XenblkError(`Cannot ${verb} them together: another process serves ${formatVdev(other.device.vdev)}`, {
    remedy: "do it for one disk at a time; or have one `xenblk serve` serve all disks of the guest",
  });
}
