/**
 * What a path leads to: a file or block device whatever its name, and what that lies on. Looks at paths with a time limit,
 * and reads sysfs.
 */

import { lookWithin } from "../path_lookup.ts";

/** A file or block device. */
export interface Medium {
  /** Equal for all paths of a file, and for all nodes of a block device. */
  readonly key: string;
  /** The keys of what a block device lies on: of a partition the disk, of a loop device the file behind it. */
  readonly below: readonly string[];
}

/** How paths are looked at; tests bring their own. */
export interface PathLookups {
  /** Says what is at a path; rejects if nothing is. */
  readonly stat: (path: string) => Promise<Deno.FileInfo>;
  /** The longest wait for one path, in milliseconds. */
  readonly timeoutMs: number;
}

/** Looks at paths that Deno may read: for others it would ask the user, who knows nothing of other guests' images. */
export const PATH_LOOKUPS: PathLookups = {
  stat: (path) => mayRead(path) ? Deno.stat(path) : Promise.reject(new Deno.errors.NotCapable(path)),
  timeoutMs: 250,
};

/** Block devices on each other: a partition on a loop device on a volume on a disk is four. */
const MOST_LAYERS = 8;

/** Undefined if nothing is at the path, it cannot be looked at, or its file system does not answer. */
export async function mediumAt(path: string, lookups: PathLookups): Promise<Medium | undefined> {
  return await layer(path, lookups, MOST_LAYERS);
}

/** The key of a block device by the text of blkback's node `physical-device`: `major:minor` in hexadecimal. */
export function keyOfPhysical(physical: string): string {
  return `device ${physical}`;
}

/** Whether both are one medium, or one lies on the other. */
export function overlap(one: Medium, other: Medium): boolean {
  return one.key === other.key || one.below.includes(other.key) || other.below.includes(one.key);
}

async function layer(path: string, lookups: PathLookups, layers: number): Promise<Medium | undefined> {
  try {
    const { dev, ino, isBlockDevice, rdev } = await lookWithin(path, () => lookups.stat(path), lookups.timeoutMs);
    if (!isBlockDevice || rdev === null) return { key: `${dev}:${ino}`, below: [] };
    return await deviceLayer(majorOf(rdev), minorOf(rdev), lookups, layers);
  } catch {
    return undefined;
  }
}

async function deviceLayer(major: bigint, minor: bigint, lookups: PathLookups, layers: number): Promise<Medium> {
  const key = keyOfPhysical(`${major.toString(16)}:${minor.toString(16)}`);
  const folder = `/sys/dev/block/${major}:${minor}`;
  if (layers === 0) return { key, below: [] };
  const backing = await textOf(`${folder}/loop/backing_file`);
  const file = backing === undefined ? undefined : await layer(backing, lookups, layers - 1);
  const numbers = [
    // The folder of a partition is in that of its disk.
    ...(await textOf(`${folder}/partition`) === undefined ? [] : [await textOf(`${folder}/../dev`)]),
    ...await Promise.all((await namesIn(`${folder}/slaves`)).map((name) => textOf(`${folder}/slaves/${name}/dev`))),
  ];
  const devices = await Promise.all(numbers.flatMap((number) => {
    const parts = /^(\d+):(\d+)$/.exec(number ?? "");
    return parts === null ? [] : [deviceLayer(BigInt(parts[1]!), BigInt(parts[2]!), lookups, layers - 1)];
  }));
  const media = file === undefined ? devices : [file, ...devices];
  return { key, below: media.flatMap((medium) => [medium.key, ...medium.below]) };
}

/** Linux's st_rdev is a 64-bit number (gnu_dev_major and gnu_dev_minor of glibc). */
function majorOf(rdev: number): bigint {
  return (BigInt(rdev) >> 8n & 0xFFFn) | (BigInt(rdev) >> 32n & 0xFFFFF000n);
}

function minorOf(rdev: number): bigint {
  return (BigInt(rdev) & 0xFFn) | (BigInt(rdev) >> 12n & 0xFFFFFF00n);
}

/** Of a file in sysfs, without the line's end; undefined if it is not there or Deno may not read it. */
async function textOf(path: string): Promise<string | undefined> {
  try {
    return mayRead(path) ? (await Deno.readTextFile(path)).trimEnd() : undefined;
  } catch {
    return undefined;
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return mayRead(folder) ? (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name) : [];
  } catch {
    return [];
  }
}

function mayRead(path: string): boolean {
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}
