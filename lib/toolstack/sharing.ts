/**
 * Finds the disk of another guest that has the same file or block device, or a part of it, and excludes a use of it. The rules are those
 * of check_sharing and same_vm in Xen's tools/hotplug/Linux/block and block-common.sh (xen.git c447b7308b13), for
 * backends of every kind. Changes nothing.
 */

import type { XenstoreOperations } from "../hypervisor.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { type DiskInUse, DisksInUse, type Machine, machineOf } from "./disks_in_use.ts";
import { describeDomain, domainLabel } from "./domains.ts";
import { keyOfPhysical, type Medium, mediumAt, overlap, PATH_LOOKUPS, type PathLookups } from "./medium.ts";

/** An image, and how a guest is to use it. */
export interface ImageQuery {
  /** The path of a file or block device. */
  readonly path: string;
  /** The guest will write to it. */
  readonly writes: boolean;
  /** Mode `w!`: nothing excludes this use. */
  readonly shared: boolean;
}

/** The backend and the guest of the use; `vdev` and `kind` if the disk has nodes, which then do not count. */
export type ImageUser = Pick<DeviceAddress, "backendDomain" | "frontendDomain"> & Partial<DeviceAddress>;

/** A disk of another guest that excludes the use. */
export interface ExcludingDisk {
  readonly device: DeviceAddress;
  /** For messages, the end of a sentence: `xvda of db (domain 6) uses it (vbd3, mode w)`. */
  readonly text: string;
}

/** Looks in progress at one time. */
const LOOKS_AT_ONCE = 4;
/** How long looking at paths may take. What was not looked at by then is compared by name. */
const MOST_LOOKS_MS = 5_000;

/** What a search uses. */
export interface SearchOptions {
  /** How paths are looked at. */
  readonly lookups?: PathLookups;
  /** Shared by the searches of a process. */
  readonly disks?: DisksInUse;
}

/**
 * The disk of another guest, served in the same domain, that excludes the use; undefined if there is none. A guest that
 * is going to write excludes, and is excluded by, every other use; readers share. Disks of the same virtual machine
 * never exclude each other: it may be another life of it (a migration, a reboot) or its device model's domain.
 */
export async function findExcludingDisk(
  store: XenstoreOperations,
  user: ImageUser,
  query: ImageQuery,
  { lookups = PATH_LOOKUPS, disks = new DisksInUse() }: SearchOptions = {},
): Promise<ExcludingDisk | undefined> {
  if (query.writes && query.shared) return undefined;
  const all = await disks.read(store, user.backendDomain);
  const waiting = all.filter((disk) => !isItself(disk.device, user) && excludes(disk, query));
  if (waiting.length === 0) return undefined;
  const ours = machineOf(store, user.frontendDomain);
  const wanted = await mediumAt(query.path, lookups);
  const endMs = performance.now() + MOST_LOOKS_MS;
  let found: DiskInUse | undefined;
  const search = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && found === undefined; next = waiting.shift()) {
      if (isSameMachine(ours, next.machine)) continue;
      if (await isSame(next, query.path, wanted, performance.now() < endMs ? lookups : undefined)) found = next;
    }
  };
  await Promise.all(Array.from({ length: LOOKS_AT_ONCE }, search));
  if (found === undefined) return undefined;
  const { device, mode } = found;
  const guest = domainLabel(describeDomain(store, device.frontendDomain));
  return { device, text: `${formatVdev(device.vdev)} of ${guest} uses it (${device.kind}, mode ${mode})` };
}

/** Whether the disk excludes the use if it has the same image. */
function excludes({ mode }: DiskInUse, { writes }: ImageQuery): boolean {
  return writes || (mode.includes("w") && !mode.includes("!"));
}

function isItself(device: DeviceAddress, { kind, frontendDomain, vdev }: ImageUser): boolean {
  return device.frontendDomain === frontendDomain && device.vdev === vdev && device.kind === kind;
}

/**
 * Whether two domains are the same virtual machine: they have the same UUID, or one is the device model's domain of the
 * other. A domain without a UUID is gone, and only its nodes are left.
 */
function isSameMachine(ours: Machine, theirs: Machine): boolean {
  return theirs[0] === undefined || theirs.some((vm) => vm !== undefined && ours.includes(vm));
}

/** Without `lookups`, and where a path cannot be looked at, the names alone are compared. */
async function isSame(
  { path, physical, medium: look }: DiskInUse,
  wantedPath: string,
  wanted: Medium | undefined,
  lookups: PathLookups | undefined,
): Promise<boolean> {
  if (path === wantedPath) return true;
  if (wanted === undefined || lookups === undefined) return false;
  if (physical !== undefined && overlap(wanted, { key: keyOfPhysical(physical), below: [] })) return true;
  const medium = await look(lookups);
  return medium !== undefined && overlap(wanted, medium);
}
