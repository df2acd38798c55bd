/**
 * What processes left behind of devices that were removed while none was there to see it: locks, latches and journals,
 * which would stay until the machine is started again. Only what is certainly nobody's is removed: its device is gone
 * from xenstore, and its lock is free. What is in a journal is not known here.
 */

import type { DomId, JournalStore, XenstoreOperations } from "../hypervisor.ts";
import { backendPath, isBackendKind, parseDomId } from "../xenbus/paths.ts";
import { parseDecimal } from "../xenbus/decimal.ts";
import { MAX_VDEV } from "../xenbus/vdev.ts";
import { keptNames } from "./journals.ts";

/** Devices that are looked at in one sweep; the rest is left to the next one. */
export const MOST_DEVICES = 500;
/** A kind can have digits and dashes too, but what follows it cannot be mistaken. */
const KEPT_NAME = /^(.+)-(\d+)-(\d+)(?:-(?:\d+|latch)|\.lock)$/;

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
    // One that comes only now is served by whoever has the lock, and finds nothing of the one before.
    if (lock === undefined || xenstore.read(path) !== undefined) continue;
    for (const name of names) if (name !== keptNames(label).lock) store.remove(name);
    swept.push(label);
  }
  return swept;
}

/** Whose it is; undefined if it is called as nothing of ours is. */
function deviceOf(name: string, backendDomain: DomId): { readonly label: string; readonly path: string } | undefined {
  const [, kind, domain, device] = KEPT_NAME.exec(name) ?? [];
  if (kind === undefined || domain === undefined || device === undefined || !isBackendKind(kind)) return undefined;
  const frontendDomain = parseDomId(domain);
  const vdev = parseDecimal(device, 0, MAX_VDEV);
  if (frontendDomain === undefined || vdev === undefined) return undefined;
  return { label: `${kind}/${domain}/${device}`, path: backendPath({ backendDomain, kind, frontendDomain, vdev }) };
}
