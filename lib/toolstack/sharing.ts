/**
 * Finds the disk of another guest that has the same file or block device, or a part of it, and excludes a use of it. The rules are those
 * of check_sharing and same_vm in Xen's tools/hotplug/Linux/block and block-common.sh (xen.git c447b7308b13), for
 * backends of every kind. Changes nothing.
 */

import type { DomId, XenstoreOperations } from "../hypervisor.ts";
import { backendPath, type DeviceAddress } from "../xenbus/paths.ts";
import { parseState, XenbusState } from "../xenbus/states.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { describeDomain, domainLabel } from "./domains.ts";
import { listAddresses } from "./list.ts";
import { keyOfPhysical, type Medium, mediumAt, overlap, PATH_LOOKUPS, type PathLookups } from "./medium.ts";

/** A file or block device of an image: the image itself, or one of its backing files, which are only read. */
export interface QueriedFile {
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

/** What precedes the path in xl's `key=value` form. */
const XL_FIELDS = /^(?:(?!target=)[a-z-]+(?:=[^,]*)?,)*target=/;
/** A URI or QEMU's options, with a format before them or without. */
const REMOTE = /^(?:[a-z][a-z0-9_-]*:)?(?:[a-z+]+:\/\/|rbd:|json:)/i;
/** Looks in progress at one time. */
const LOOKS_AT_ONCE = 4;
/** How long the whole search may take. What was not looked at by then is compared by name. */
const MOST_LOOKS_MS = 5_000;

/** A disk in xenstore that could be the one. */
interface Candidate {
  readonly device: DeviceAddress;
  readonly mode: string;
  readonly path: string;
  /** The block device that blkback uses, as `major:minor` in hexadecimal. */
  readonly physical: string | undefined;
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
  lookups: PathLookups = PATH_LOOKUPS,
): Promise<ExcludingDisk | undefined> {
  const candidates = candidatesFor(store, user, query);
  if (candidates.length === 0) return undefined;
  const wanted = await Promise.all(
    query.files.map(async (file) => ({ file, medium: await mediumAt(file.path, lookups) })),
  );
  const endMs = performance.now() + MOST_LOOKS_MS;
  let found: (Candidate & { readonly file: QueriedFile }) | undefined;
  const waiting = [...candidates];
  const search = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && found === undefined; next = waiting.shift()) {
      const compared = wanted.filter(({ file }) => excludes(file, query, next!.mode));
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
function excludes({ writable }: QueriedFile, { shared }: ImageQuery, mode: string): boolean {
  return writable ? !shared : mode.includes("w") && !mode.includes("!");
}

/** The disks in xenstore that exclude the use if they have one of its files. */
function candidatesFor(store: XenstoreOperations, user: ImageUser, query: ImageQuery): Candidate[] {
  const isSameMachine = sameMachine(store, user.frontendDomain);
  return listAddresses(store)
    .filter((device) => device.backendDomain === user.backendDomain && !isItself(device, user))
    .flatMap((device) => {
      const read = (name: string): string | undefined => store.read(`${backendPath(device)}/${name}`);
      const path = pathOfParams(read("params") ?? "");
      const mode = read("mode") ?? "";
      const isExcluding = query.files.some((file) => excludes(file, query, mode));
      if (path === undefined || !isExcluding || isSameMachine(device.frontendDomain)) return [];
      const physical = read("physical-device");
      return isInUse(physical, read) ? [{ device, mode, path, physical }] : [];
    });
}

/**
 * Whether a backend has opened the image. Nodes of a disk that was refused, waits, or is not served yet must not keep its
 * legitimate user from it: blkback's script writes physical-device and hotplug-status, this backend hotplug-status, and
 * QEMU goes to Connected.
 */
function isInUse(physical: string | undefined, read: (name: string) => string | undefined): boolean {
  return physical !== undefined || read("hotplug-status") === "connected" ||
    parseState(read("state")) === XenbusState.Connected;
}

function isItself(device: DeviceAddress, { kind, frontendDomain, vdev }: ImageUser): boolean {
  return device.frontendDomain === frontendDomain && device.vdev === vdev && device.kind === kind;
}

/**
 * Whether another domain is the same virtual machine: it has the same UUID, or one is the device model's domain of the
 * other. A domain without a UUID is gone, and only its nodes are left.
 */
function sameMachine(store: XenstoreOperations, domain: DomId): (other: DomId) => boolean {
  const machines = (of: DomId): (string | undefined)[] => {
    const target = store.read(`/local/domain/${of}/target`);
    const paths = [`/local/domain/${of}/vm`, ...(target === undefined ? [] : [`/local/domain/${target}/vm`])];
    // While a domain is rebooted or restored, xl appends -1 to its path.
    return paths.map((path) => store.read(path)?.replace(/^(\/vm\/[0-9a-f-]{36})-[0-9]+$/i, "$1"));
  };
  const ours = machines(domain);
  return (other) => {
    const theirs = machines(other);
    return theirs[0] === undefined || theirs.some((vm) => vm !== undefined && ours.includes(vm));
  };
}

/**
 * The path in a node `params`: `path`, `format:path`, `...,target=path`, or the name of a device in /dev; undefined if
 * there is none. What a URI or `json:` names is not compared: QEMU locks local files itself.
 */
function pathOfParams(params: string): string | undefined {
  const named = params.replace(XL_FIELDS, "");
  const target = named.startsWith("/") ? named : named.replace(/^[a-z][a-z0-9+_-]*:/i, "");
  if (target === "" || REMOTE.test(named)) return undefined;
  return target.startsWith("/") ? target : `/dev/${target}`;
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
  { path, physical }: Candidate,
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
  const medium = await mediumAt(path, lookups);
  return medium === undefined ? undefined : isOn(medium);
}
