/**
 * Where a disk's nodes are in xenstore: the backend's directory, the frontend's, and libxl's. Pure functions from
 * addresses to paths and back.
 */

import { XenblkError } from "../errors.ts";
import type { DomId } from "../hypervisor.ts";
import { parseDecimal, quoted } from "./decimal.ts";
import { MAX_VDEV } from "./vdev.ts";

/** The largest domain id that a domain can have (xen.h: DOMID_FIRST_RESERVED - 1). */
export const MAX_DOMID = 0x7FEF;

/** The kind of backend that is served and attached where nothing else is said. */
export const DEFAULT_KIND = "vbd3";

/** What names one disk of one guest in one backend. */
export interface DeviceAddress {
  /** The domain that the backend runs in. */
  readonly backendDomain: DomId;
  /** The backend's kind: `vbd3`, `qdisk`, `vbd`, or one of ours. */
  readonly kind: string;
  /** The guest. */
  readonly frontendDomain: DomId;
  /** The virtual device number; see vdev.ts. */
  readonly vdev: number;
}

/** The directory that holds all devices of one kind of backend. */
export function backendKindPath(backendDomain: DomId, kind: string): string {
  return `/local/domain/${backendDomain}/backend/${kind}`;
}

/** The backend's directory of a device. */
export function backendPath(device: DeviceAddress): string {
  return `${backendKindPath(device.backendDomain, device.kind)}/${device.frontendDomain}/${device.vdev}`;
}

/** The frontend's directory of a device. Its kind is `vbd` whatever the backend's kind. */
export function frontendPath(device: Pick<DeviceAddress, "frontendDomain" | "vdev">): string {
  return `/local/domain/${device.frontendDomain}/device/vbd/${device.vdev}`;
}

/** Where the guest's driver writes why it failed with a device (xenbus_dev_error in Linux's xenbus_client.c). */
export function frontendErrorPath(device: Pick<DeviceAddress, "frontendDomain" | "vdev">): string {
  return `/local/domain/${device.frontendDomain}/error/device/vbd/${device.vdev}/error`;
}

/** libxl's own directory of a device, from which xl lists disks. */
export function libxlPath(device: Pick<DeviceAddress, "frontendDomain" | "vdev">): string {
  return `/libxl/${device.frontendDomain}/device/vbd/${device.vdev}`;
}

/** A domain id from text; undefined unless it is a decimal number from 0 to {@linkcode MAX_DOMID}. */
export function parseDomId(text: string): DomId | undefined {
  return parseDecimal(text, 0, MAX_DOMID) as DomId | undefined;
}

/** Whether the text can be a kind of backend: one path element of letters, digits, `_` and `-`. */
export function isBackendKind(text: string): boolean {
  return /^[A-Za-z0-9_-]{1,64}$/.test(text);
}

const FORMS = "/local/domain/BACKEND-DOMAIN/backend/KIND/DOMAIN/DEVICE or backend/KIND/DOMAIN/DEVICE";

/**
 * Takes a backend directory's path apart. A relative one, `backend/KIND/DOMAIN/DEVICE`, is in `ownDomain`. Throws
 * {@linkcode XenblkError} (usage) that says which part is wrong.
 */
export function parseBackendPath(path: string, ownDomain: DomId): DeviceAddress {
  const wrong = (why: string): XenblkError =>
    new XenblkError(`Cannot use backend path ${quoted(path)}: ${why}`, {
      kind: "usage",
      remedy: `give it as ${FORMS}`,
    });
  const domain = (text: string, which: string): DomId => {
    const id = parseDomId(text);
    if (id === undefined) throw wrong(`${which} ${quoted(text)} is not a number from 0 to ${MAX_DOMID}`);
    return id;
  };
  const absolute = /^\/local\/domain\/([^/]*)\/backend\/([^/]*)\/([^/]*)\/([^/]*)$/.exec(path);
  const parts = absolute ?? /^()backend\/([^/]*)\/([^/]*)\/([^/]*)$/.exec(path);
  if (parts === null) throw wrong("it is not the path of a device");
  const [, backendText, kind, frontendText, vdevText] = parts as unknown as [string, string, string, string, string];
  const backendDomain = absolute === null ? ownDomain : domain(backendText, "backend domain");
  if (!isBackendKind(kind)) throw wrong(`kind ${quoted(kind)} is not a word of letters, digits, _ and -`);
  const frontendDomain = domain(frontendText, "domain");
  const vdev = parseDecimal(vdevText, 0, MAX_VDEV);
  if (vdev === undefined) throw wrong(`device ${quoted(vdevText)} is not a number from 0 to ${MAX_VDEV}`);
  return { backendDomain, kind, frontendDomain, vdev };
}

/** The directory of a device in that of its kind which the path is, or which it lies in; undefined for a path above. */
export function deviceDirectory(kindPath: string, path: string): string | undefined {
  const [guest, vdev] = path.slice(kindPath.length + 1).split("/");
  return vdev === undefined ? undefined : `${kindPath}/${guest}/${vdev}`;
}
