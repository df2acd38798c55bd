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

/** A file or block device of an image: the image itself, or one of its backing files, which are only read. */
export interface QueriedFile {
  /** Absolute. */
  readonly path: string;
  /** The guest's writes reach it. */
  readonly writable: boolean;
}

/** An image, and how a guest is to use it. */
export interface ImageQuery {
  /** All that the image consists of; none: nothing can exclude the use. */
  readonly files: readonly QueriedFile[];
  /** Mode `w!`: nothing excludes this use. */
  readonly shared: boolean;
}

/** The backend and the guest of the use; `vdev` and `kind` if the disk has nodes, which then do not count. */
export type ImageUser = Pick<DeviceAddress, "backendDomain" | "frontendDomain"> & Partial<DeviceAddress>;

/** Why an image cannot be used. */
export interface Exclusion {
  /** The file that both use. */
  readonly file: QueriedFile;
  /** For messages, the end of a sentence: `xvda of db (domain 6) uses it (vbd3, mode w)`. */
  readonly text: string;
}

/** A disk of another guest that excludes the use. */
export interface ExcludingDisk extends Exclusion {
  readonly device: DeviceAddress;
}

/** Finds the disk of another guest that excludes a use of an image by this one. */
export type ExcludingDiskFinder = (
  store: XenstoreOperations,
  user: DeviceAddress,
  query: ImageQuery,
) => Promise<Exclusion | undefined>;

/** Looks in progress at one time. */
const LOOKS_AT_ONCE = 8;
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
  const all = await disks.read(store, user.backendDomain);
  const waiting = all.filter(({ device, mode }) =>
    !isItself(device, user) && query.files.some((file) => excludes(mode, file, query))
  );
  if (waiting.length === 0) return undefined;
  const ours = machineOf(store, user.frontendDomain);
  const wanted = await Promise.all(
    query.files.map(async (file) => ({ file, medium: await mediumAt(file.path, lookups) })),
  );
  const endMs = performance.now() + MOST_LOOKS_MS;
  let found: (DiskInUse & { readonly file: QueriedFile }) | undefined;
  const search = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && found === undefined; next = waiting.shift()) {
      const { mode, machine } = next;
      if (isSameMachine(ours, machine)) continue;
      const compared = wanted.filter(({ file }) => excludes(mode, file, query));
      const file = await sameOf(next, compared, performance.now() < endMs ? lookups : undefined);
      if (file !== undefined) found = { ...next, file };
    }
  };
  await Promise.all(Array.from({ length: LOOKS_AT_ONCE }, search));
  if (found === undefined) return undefined;
  const { device, mode, file } = found;
  const guest = domainLabel(describeDomain(store, device.frontendDomain));
  return { device, file, text: `${formatVdev(device.vdev)} of ${guest} uses it (${device.kind}, mode ${mode})` };
}

/** Whether a disk of that mode excludes the use, if it has that file as its image. */
function excludes(mode: string, { writable }: QueriedFile, { shared }: ImageQuery): boolean {
  return writable ? !shared : mode.includes("w") && !mode.includes("!");
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

/** A file of the image, and what its path leads to. */
interface Wanted {
  readonly file: QueriedFile;
  readonly medium: Medium | undefined;
}

/**
 * The file that is the other disk's image. Without `lookups`, and where a path cannot be looked at, the names alone are
 * compared.
 */
async function sameOf(
  { path, physical, medium: look }: DiskInUse,
  wanted: readonly Wanted[],
  lookups: PathLookups | undefined,
): Promise<QueriedFile | undefined> {
  const named = wanted.find(({ file }) => file.path === path);
  if (named !== undefined) return named.file;
  const media = wanted.filter(({ medium }) => medium !== undefined);
  if (media.length === 0 || lookups === undefined) return undefined;
  const isOn = (other: Medium): QueriedFile | undefined => media.find(({ medium }) => overlap(medium!, other))?.file;
  const device = physical === undefined ? undefined : isOn({ key: keyOfPhysical(physical), below: [] });
  if (device !== undefined) return device;
  const medium = await look(lookups);
  return medium === undefined ? undefined : isOn(medium);
}
