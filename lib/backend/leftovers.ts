/**
 * Removes what earlier processes left of devices that were removed while no process ran: locks, latches, journals and
 * headers of snapshots, which would otherwise stay until the host reboots. A device's files are removed only if it is
 * gone from xenstore and its lock is free. Write logs are not removed here: their disks get them first (orphans.ts). The
 * calls are synchronous: the store is in a tmpfs below /run, which waits for no disk, and a sweep is bounded.
 */

import type { DomId, JournalStore, XenstoreOperations } from "../hypervisor.ts";
import { backendPath, type DeviceAddress, isBackendKind, parseDomId } from "../xenbus/paths.ts";
import { parseDecimal } from "../xenbus/decimal.ts";
import { MAX_VDEV } from "../xenbus/vdev.ts";
import { keptNames } from "./journals.ts";

/** Most devices of one sweep; the next sweep handles the rest. */
export const MOST_DEVICES = 500;
/** A kind may contain digits and dashes; the domain and the device are the last two numbers. */
const KEPT_NAME = /^(.+)-(\d+)-(\d+)(?:-(?:\d+|latch|snapshot)|\.lock)$/;

/** Removes what is left of devices that are gone; returns their labels. Throws what store and xenstore throw. */
export function sweepLeftovers(store: JournalStore, xenstore: XenstoreOperations, domain: DomId): string[] {
  const devices = new Map<string, { readonly path: string; readonly names: string[] }>();
  for (const name of store.names()) {
    const found = deviceOf(name, domain);
    if (found === undefined) continue;
    const known = devices.get(found.label);
    if (known !== undefined) known.names.push(name);
    else if (devices.size < MOST_DEVICES) devices.set(found.label, { path: found.path, names: [name] });
  }
  const swept: string[] = [];
  for (const [label, { path, names }] of devices) {
    if (xenstore.read(path) !== undefined) continue;
    using lock = store.lock(keptNames(label).lock);
    // A device that is attached now is served by the holder of the lock, and must not find an earlier one's files.
    if (lock === undefined || xenstore.read(path) !== undefined) continue;
    for (const name of names) if (name !== keptNames(label).lock) store.remove(name);
    swept.push(label);
  }
  return swept;
}

/** Whether xenstore has no device with that label any more; false for a text that is no label. Throws what xenstore throws. */
export function isDeviceGone(xenstore: XenstoreOperations, backendDomain: DomId, label: string): boolean {
  const [kind, domain, device, ...rest] = label.split("/");
  if (kind === undefined || domain === undefined || device === undefined || rest.length > 0) return false;
  const address = addressOf(backendDomain, kind, domain, device);
  return address !== undefined && xenstore.read(backendPath(address)) === undefined;
}

function addressOf(
  backendDomain: DomId,
  kind: string,
  domain: string,
  device: string,
): DeviceAddress | undefined {
  const frontendDomain = parseDomId(domain);
  const vdev = parseDecimal(device, 0, MAX_VDEV);
  if (!isBackendKind(kind) || frontendDomain === undefined || vdev === undefined) return undefined;
  return { backendDomain, kind, frontendDomain, vdev };
}

/** The device that a file name belongs to; undefined if it is not one of our names. */
function deviceOf(name: string, backendDomain: DomId): { readonly label: string; readonly path: string } | undefined {
  const [, kind, domain, device] = KEPT_NAME.exec(name) ?? [];
  if (kind === undefined || domain === undefined || device === undefined) return undefined;
  const address = addressOf(backendDomain, kind, domain, device);
  return address && { label: `${kind}/${domain}/${device}`, path: backendPath(address) };
}
