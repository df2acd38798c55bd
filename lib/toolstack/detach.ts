/**
 * Detaches a disk from a guest, whichever backend serves it: finds the disk, asks both ends to close, waits, and removes
 * its nodes.
 */

import { XenblkError } from "../errors.ts";
import type { DomId, Xenstore, XenstoreOperations } from "../hypervisor.ts";
import {
  backendPath,
  type DeviceAddress,
  frontendPath,
  libxlPath,
  parseBackendPath,
  parseDomId,
} from "../xenbus/paths.ts";
import { parseState, stateName, XenbusState } from "../xenbus/states.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { retryConflicts } from "../xenstore.ts";
import { removeDevice } from "./attach.ts";
import { describeDomain, type DomainInfo, domainLabel } from "./domains.ts";
import { frontendSays } from "./frontend_says.ts";
import { listAddresses, resolveGuest } from "./list.ts";
import { requestRemoval } from "./removal.ts";
import { waitFor, type WaitOptions } from "./wait.ts";

/** How a disk is detached. */
export interface DetachOptions extends WaitOptions {
  /** Remove the nodes after the timeout even if the guest still uses the disk: its I/O then fails. Default: false. */
  readonly force?: boolean;
}

/** A disk, and the guest that has it. */
export interface FoundDisk {
  readonly guest: DomainInfo;
  readonly device: DeviceAddress;
}

/**
 * The disk that a guest has as `vdev` (a name or number), whichever backend serves it. `domain` is the guest's name, UUID
 * or domid; the domid of a guest that is gone will do if nodes of its disk are left. Throws {@linkcode XenblkError}:
 * `usage` if `vdev` is not a virtual device, `not-found` if there is no such guest or disk; the message lists the disks.
 */
export function findDisk(store: XenstoreOperations, domain: string, vdev: string): FoundDisk {
  parseVdev(vdev);
  const guest = resolveGuest(store, domain);
  return { guest, device: findDevice(store, guest.domain, vdev) };
}

/** The same for a guest that is known by its domid. */
export function findDevice(store: XenstoreOperations, domain: DomId, vdev: string): DeviceAddress {
  const number = parseVdev(vdev);
  const devices = listAddresses(store).filter((device) => device.frontendDomain === domain);
  const found = devices.find((device) => device.vdev === number) ?? findLeftOver(store, domain, number);
  if (found !== undefined) return found;
  const names = devices.map((device) => formatVdev(device.vdev)).join(", ");
  throw new XenblkError(
    `Cannot find disk ${vdev} of domain ${domain}: it has ${names === "" ? "no disk" : `only ${names}`}`,
    { kind: "not-found", remedy: "see `xenblk list`" },
  );
}

/**
 * A disk of which only a part of the nodes exists: libxl's, the frontend's, or a backend directory that names no
 * frontend. What the frontend's nodes say is not used: the guest can write them.
 */
function findLeftOver(store: XenstoreOperations, domain: DomId, vdev: number): DeviceAddress | undefined {
  const device = knownToLibxl(store, domain, vdev) ?? namelessBackend(store, domain, vdev);
  if (device !== undefined) return device;
  const place = { frontendDomain: domain, vdev };
  const exists = [frontendPath(place), libxlPath(place)].some((path) => store.read(path) !== undefined);
  return exists ? { ...place, backendDomain: 0 as DomId, kind: DISK_KINDS[0] } : undefined;
}

/**
 * Asks for the device's removal, waits until the backend is Closed and removes the nodes. Rejects with
 * {@linkcode XenblkError} (`timeout`) if the guest does not close the disk in time and `force` is not given. The
 * request for removal then stays in the nodes; a later detach completes it. A disk without a frontend's directory is
 * removed even if no backend answers in time.
 */
export async function detachDevice(store: Xenstore, device: DeviceAddress, options: DetachOptions): Promise<void> {
  const path = backendPath(device);
  if (await retryConflicts(() => requestRemoval(store, path), options)) {
    const closed = await waitFor(store, [path], () => isClosed(store, path), options);
    if (closed === undefined && !options.force && hasFrontend(store, device)) throw notInTime(store, device);
  }
  await retryConflicts(() => removeDevice(store, device));
}

/** Without one, no guest loses I/O when the nodes go, even if no backend answers. */
function hasFrontend(store: Xenstore, device: DeviceAddress): boolean {
  return store.read(frontendPath(device)) !== undefined;
}

function isClosed(store: Xenstore, path: string): true | undefined {
  const state = parseState(store.read(`${path}/state`));
  return state === XenbusState.Closed || state === "gone" ? true : undefined;
}

function notInTime(store: Xenstore, device: DeviceAddress): XenblkError {
  const [backend, frontend] = [backendPath(device), frontendPath(device)]
    .map((path) => parseState(store.read(`${path}/state`)));
  const holder = domainLabel(describeDomain(store, device.frontendDomain));
  const name = `${formatVdev(device.vdev)} of ${holder}`;
  const states = `backend ${stateName(backend!)}, frontend ${stateName(frontend!)}`;
  const guestHolds = frontend === XenbusState.Connected || frontend === XenbusState.Closing;
  return new XenblkError(
    `Cannot detach ${name}: ${
      guestHolds ? "the guest still uses the disk and did not close it" : "its backend did not answer"
    } in time (${states})${guestHolds ? frontendSays(store, device) : ""}`,
    {
      kind: "timeout",
      remedy: guestHolds
        ? "unmount it in the guest and try again, or use --force: its I/O then fails"
        : `start \`xenblk serve --kind ${device.kind}\` and try again, or use --force`,
    },
  );
}

/** The kinds of backends that serve disks and nothing else. */
const DISK_KINDS = ["vbd3", "vbd", "qdisk"] as const;

/** libxl's own record of the disk: it can outlive the backend's directory. */
function knownToLibxl(store: XenstoreOperations, domain: DomId, vdev: number): DeviceAddress | undefined {
  const path = store.read(`${libxlPath({ frontendDomain: domain, vdev })}/backend`);
  if (path === undefined) return undefined;
  try {
    const device = parseBackendPath(path, 0 as DomId);
    return device.frontendDomain === domain && device.vdev === vdev ? device : undefined;
  } catch {
    return undefined; // libxl did not write that
  }
}

/** A backend directory of the disk that has no node `frontend`. */
function namelessBackend(store: XenstoreOperations, domain: DomId, vdev: number): DeviceAddress | undefined {
  for (const name of store.list("/local/domain") ?? []) {
    const backendDomain = parseDomId(name);
    if (backendDomain === undefined) continue;
    for (const kind of store.list(`/local/domain/${backendDomain}/backend`) ?? []) {
      const device = { backendDomain, kind, frontendDomain: domain, vdev };
      const path = backendPath(device);
      if (store.read(path) === undefined || store.read(`${path}/frontend`) !== undefined) continue;
      // A directory of another kind, such as vif, is a disk's only if it names an image.
      const isDisk = (DISK_KINDS as readonly string[]).includes(kind) || store.read(`${path}/params`) !== undefined;
      if (isDisk) return device;
    }
  }
  return undefined;
}
