/**
 * Lists the disks in xenstore, of one guest or of all guests, whichever backends serve them. Changes nothing.
 */

import type { DomId, XenstoreOperations } from "../hypervisor.ts";
import { backendPath, type DeviceAddress, frontendPath, parseBackendPath, parseDomId } from "../xenbus/paths.ts";
import { Turns } from "../turns.ts";
import { parseState, stateName, XenbusState } from "../xenbus/states.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { describeDomain, type DomainInfo, resolveDomain } from "./domains.ts";

/** A disk as its nodes describe it. */
export interface DeviceListing extends DeviceAddress {
  /** The guest's name; absent while the toolstack has not named it. */
  readonly domainName?: string;
  /** The virtual device's name, such as `xvda`. */
  readonly name: string;
  /** The backend's directory. */
  readonly backendPath: string;
  /** The frontend's directory. */
  readonly frontendPath: string;
  /** The backend's state: its name in xenbus.h without the prefix, or `gone` if there is no node. */
  readonly backendState: string;
  /** The frontend's state, in the same form. */
  readonly frontendState: string;
  /** The image as the toolstack named it; absent for a drive without one. */
  readonly params?: string;
  /** The guest must not write. */
  readonly readOnly: boolean;
  /** The guest sees a CD-ROM. */
  readonly cdrom: boolean;
  /** Size in 512-byte sectors, once the backend has published it. */
  readonly sectors?: number;
  /** The backend's `error` node. */
  readonly error?: string;
  /** What is probably wrong and, after a semicolon, what to do: no backend has taken the disk. */
  readonly hint?: string;
}

/** Backends of the kernel and of QEMU, which the toolstack starts. */
export const OTHERS_KINDS: ReadonlySet<string> = new Set(["vbd", "qdisk"]);

/** The disks of a guest, or of all guests, ordered by guest, then by virtual device. */
export function listDevices(store: XenstoreOperations, domain?: DomId): DeviceListing[] {
  return [...listings(store, domain)].filter((listing) => listing !== undefined).sort(byGuest);
}

/** The same while the event loop goes on: xenstored may be slow, and the signal ends it. */
export async function listDevicesUntil(
  signal: AbortSignal,
  store: XenstoreOperations,
  domain?: DomId,
): Promise<DeviceListing[]> {
  return (await new Turns().collect(listings(store, domain), signal)).sort(byGuest);
}

function* listings(store: XenstoreOperations, domain: DomId | undefined): Generator<DeviceListing | undefined> {
  for (const device of addresses(store)) {
    const isWanted = device !== undefined && (domain === undefined || device.frontendDomain === domain);
    yield isWanted ? describeDevice(store, device) : undefined;
  }
}

function byGuest(one: DeviceListing, other: DeviceListing): number {
  return one.frontendDomain - other.frontendDomain || one.vdev - other.vdev;
}

/**
 * The addresses of all disks in all backend domains. A backend directory belongs to a disk if its node `frontend` names a
 * vbd; so this finds disks of any backend kind.
 */
export function listAddresses(store: XenstoreOperations): DeviceAddress[] {
  return [...addresses(store)].filter((device) => device !== undefined);
}

function* addresses(store: XenstoreOperations): Generator<DeviceAddress | undefined> {
  const domains = (store.list("/local/domain") ?? []).map(parseDomId).filter((domain) => domain !== undefined);
  for (const domain of domains) {
    yield* addressesIn(store, domain);
    yield undefined;
  }
}

/** The same for one backend domain. Undefined stands for a directory without a disk: each step takes a few store calls. */
function* addressesIn(store: XenstoreOperations, backendDomain: DomId): Generator<DeviceAddress | undefined> {
  for (const paths of backendsByGuest(store, backendDomain)) {
    for (const path of paths) yield addressOf(store, path);
    yield undefined;
  }
}

/** The directories of all backends of a domain, of whatever kind and device: those of one guest at a step. */
export function* backendsByGuest(store: XenstoreOperations, backendDomain: DomId): Generator<string[]> {
  const children = (path: string): string[] => (store.list(path) ?? []).map((name) => `${path}/${name}`);
  for (const kind of children(`/local/domain/${backendDomain}/backend`)) {
    for (const guest of children(kind)) yield children(guest);
  }
}

function addressOf(store: XenstoreOperations, path: string): DeviceAddress | undefined {
  return addressAt(path, store.read(`${path}/frontend`));
}

/** The disk whose backend has that directory and says that of its frontend; undefined if it is none. */
export function addressAt(path: string, frontend: string | undefined): DeviceAddress | undefined {
  if (!/\/device\/vbd\/[0-9]+$/.test(frontend ?? "")) return undefined;
  try {
    return parseBackendPath(path, 0 as DomId);
  } catch {
    return undefined; // the path is not that of a device
  }
}

/**
 * The guest that `text` names, as {@linkcode resolveDomain} finds it; or, by its domid, a guest that is gone but has disks
 * in xenstore. Throws XenblkError (`not-found`, or `failed` if several have the name).
 */
export function resolveGuest(store: XenstoreOperations, text: string): DomainInfo {
  try {
    return resolveDomain(store, text);
  } catch (error) {
    const domain = parseDomId(text);
    const hasDisks = listAddresses(store).some((device) => device.frontendDomain === domain);
    if (domain === undefined || !hasDisks) throw error;
    return describeDomain(store, domain);
  }
}

/** Describes a disk by its present nodes. */
export function describeDevice(store: XenstoreOperations, device: DeviceAddress): DeviceListing {
  const backend = backendPath(device);
  const frontend = frontendPath(device);
  const read = (name: string): string | undefined => store.read(`${backend}/${name}`);
  const state = parseState(read("state"));
  const error = read("error");
  const optional = {
    domainName: store.read(`/local/domain/${device.frontendDomain}/name`),
    params: read("params"),
    sectors: numberOf(read("sectors")),
    error,
    hint: error === undefined && state === XenbusState.Initialising ? hintOf(device) : undefined,
  };
  return {
    ...device,
    name: formatVdev(device.vdev),
    backendPath: backend,
    frontendPath: frontend,
    backendState: stateName(state),
    frontendState: stateName(parseState(store.read(`${frontend}/state`))),
    readOnly: !(read("mode") ?? "r").includes("w"),
    cdrom: read("device-type") === "cdrom",
    ...present(optional),
  };
}

/** A backend goes to InitWait at once. libxl waits 10 s for that and then gives up, without a word in xenstore. */
function hintOf({ kind }: DeviceAddress): string | undefined {
  if (OTHERS_KINDS.has(kind)) return undefined;
  return `no backend of kind ${kind} has answered; check that \`xenblk serve --kind ${kind}\` is running`;
}

function numberOf(text: string | undefined): number | undefined {
  return text !== undefined && /^[0-9]+$/.test(text) ? Number(text) : undefined;
}

/** The members that are not undefined. */
function present<T extends object>(members: T): { [Name in keyof T]?: NonNullable<T[Name]> } {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [Name in keyof T]?: NonNullable<T[Name]> };
}
