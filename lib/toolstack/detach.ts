/**
 * Detaches a disk from a guest, whichever backend serves it: finds the disk, asks both ends to close, waits, and removes
 * its nodes.
 */

import { XenblkError } from "../errors.ts";
import type { DomId, Xenstore, XenstoreOperations } from "../hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath, parseBackendPath } from "../xenbus/paths.ts";
import { parseState, stateName, XenbusState } from "../xenbus/states.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { retryConflicts } from "../xenstore.ts";
import { removeDevice } from "./attach.ts";
import { listAddresses } from "./list.ts";
import { requestRemoval } from "./removal.ts";
import { waitFor, type WaitOptions } from "./wait.ts";

/** How a disk is detached. */
export interface DetachOptions extends WaitOptions {
  /** Remove the nodes after the timeout even if the guest still uses the disk: its I/O then fails. Default: false. */
  readonly force?: boolean;
}

/**
 * The disk that a guest has as `vdev` (a name or number), whichever backend serves it. Throws {@linkcode XenblkError}: `usage` if
 * `vdev` is not a virtual device, `not-found` if the guest does not have it; the message lists the disks that it has.
 */
export function findDevice(store: XenstoreOperations, domain: DomId, vdev: string): DeviceAddress {
  const number = parseVdev(vdev);
  const devices = listAddresses(store).filter((device) => device.frontendDomain === domain);
  const found = devices.find((device) => device.vdev === number) ?? knownToLibxl(store, domain, number);
  if (found !== undefined) return found;
  const names = devices.map((device) => formatVdev(device.vdev)).join(", ");
  throw new XenblkError(
    `Cannot find disk ${vdev} of domain ${domain}: it has ${names === "" ? "no disk" : `only ${names}`}`,
    { kind: "not-found", remedy: "see `xenblk list`" },
  );
}

/**
 * Asks for the device's removal, waits until the backend is Closed and removes the nodes. Rejects with
 * {@linkcode XenblkError} (`timeout`) if the guest does not close the disk in time and `force` is not given. The
 * request for removal then stays in the nodes; a later detach completes it.
 */
export async function detachDevice(store: Xenstore, device: DeviceAddress, options: DetachOptions): Promise<void> {
  const path = backendPath(device);
  if (await retryConflicts(() => requestRemoval(store, path), options)) {
    const closed = await waitFor(store, [path], () => isClosed(store, path), options);
    if (closed === undefined && !options.force) throw notInTime(store, device);
  }
  await retryConflicts(() => removeDevice(store, device));
}

function isClosed(store: Xenstore, path: string): true | undefined {
  const state = parseState(store.read(`${path}/state`));
  return state === XenbusState.Closed || state === "gone" ? true : undefined;
}

function notInTime(store: Xenstore, device: DeviceAddress): XenblkError {
  const [backend, frontend] = [backendPath(device), frontendPath(device)]
    .map((path) => parseState(store.read(`${path}/state`)));
  const name = `${formatVdev(device.vdev)} of domain ${device.frontendDomain}`;
  const states = `backend ${stateName(backend!)}, frontend ${stateName(frontend!)}`;
  const guestHolds = frontend === XenbusState.Connected || frontend === XenbusState.Closing;
  return new XenblkError(
    `Cannot detach ${name}: ${
      guestHolds ? "the guest did not close the disk" : "its backend did not answer"
    } in time (${states})`,
    {
      kind: "timeout",
      remedy: guestHolds
        ? "unmount it in the guest and try again, or use --force"
        : `start \`xenblk serve --kind ${device.kind}\` and try again, or use --force`,
    },
  );
}

/** libxl's own record of the disk: it can outlive the backend's directory. */
function knownToLibxl(store: XenstoreOperations, domain: DomId, vdev: number): DeviceAddress | undefined {
  const path = store.read(`/libxl/${domain}/device/vbd/${vdev}/backend`);
  if (path === undefined) return undefined;
  try {
    return parseBackendPath(path, 0 as DomId);
  } catch {
    return undefined; // libxl did not write that
  }
}
