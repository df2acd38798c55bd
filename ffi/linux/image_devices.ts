/**
 * How a file or block device is used on this host beside us: what it lies on, what lies on it, and which of that the host
 * has mounted or swaps to. Read from sysfs and /proc; an entry that cannot be read counts as absent.
 */

import type { FileIdentity } from "../../lib/hypervisor.ts";
import { sameFile } from "../../lib/storage/image/file.ts";
import type { HostUse } from "../../lib/storage/image/medium.ts";
import { factsOf, makeDevice } from "./image_descriptor.ts";
import { libc } from "./libc.ts";
import { allocate } from "./memory.ts";

/** linux/fs.h */
const BLKROGET = 0x125En;

/** A block device as sysfs has it: `8:1`. */
type DeviceNumber = string;

/** Whether an open file is a block device that takes no writes. */
export function isReadOnlyDevice(fd: number): boolean {
  using result = allocate(Int32Array.BYTES_PER_ELEMENT);
  return libc().ioctl(fd, BLKROGET, BigInt(result.address)) === 0 && new Int32Array(result.view.buffer, 0, 1)[0] !== 0;
}

/** The media that a block device lies on: its disk, the devices that it is made of, the file behind a loop device. */
export function mediaBelow(number: DeviceNumber): FileIdentity[] {
  const devices = closure(number, ({ below }) => below).slice(1);
  const files = [number, ...devices].flatMap((each) => backingFile(each));
  return [...devices.map(identityOf), ...files];
}

/**
 * Uses by the host of an open file or block device, and of what lies on it: loop devices, partitions, volumes. As Linux's
 * mounts and swap areas say.
 */
export function hostUsesOf(fd: number): HostUse[] {
  const { identity, blockDevice } = factsOf(fd);
  const mounts = lines("/proc/self/mountinfo").map(parseMount);
  const own = blockDevice === undefined ? [] : [[blockDevice, "it is"] as const];
  const loops = loopsOn(fd, identity, mounts).map((loop) => [loop, `${nameOf(loop)}, which lies on it, is`] as const);
  const used = new Map<DeviceNumber, string>();
  for (const [number, subject] of [...own, ...loops]) {
    for (const each of closure(number, ({ above }) => above)) {
      if (!used.has(each)) used.set(each, each === number ? subject : `${nameOf(each)}, a part of it, is`);
    }
  }
  if (used.size === 0) return [];
  const mounted = mounts.flatMap((mount): HostUse[] => {
    const subject = used.get(mount.number) ?? used.get(numberOf(mount.source) ?? "");
    return subject === undefined ? [] : [{ what: `${subject} mounted at ${mount.at}`, writes: mount.writes }];
  });
  const swapped = lines("/proc/swaps").flatMap((line): HostUse[] => {
    const subject = used.get(numberOf(line.split(/\s/, 1)[0]!) ?? "");
    return subject === undefined ? [] : [{ what: `${subject} swap space of this host`, writes: true }];
  });
  return [...mounted, ...swapped];
}

/**
 * The loop devices that a file or block device is behind. What is behind a loop device is looked at only if it is on the
 * same mounted file system, or is a device: the storage of another image may not answer.
 */
function loopsOn(fd: number, identity: FileIdentity, mounts: readonly Mount[]): DeviceNumber[] {
  const ours = mountOf(fd, mounts);
  return names("/sys/block").filter((name) => name.startsWith("loop")).flatMap((name) => {
    const [path] = lines(`/sys/block/${name}/loop/backing_file`);
    if (path === undefined) return [];
    // The latest mount at the longest path above it hides the others.
    const above = mounts.filter(({ at }) => path.startsWith(at === "/" ? at : `${at}/`));
    const theirs = above.toSorted((one, other) => one.at.length - other.at.length).at(-1);
    if (!path.startsWith("/dev/") && (theirs === undefined || theirs.number !== ours?.number)) return [];
    const [file] = identityAt(path);
    return file !== undefined && sameFile(file, identity) ? numbersIn([`/sys/block/${name}/dev`]) : [];
  });
}

/** The mount that a descriptor was opened through: proc_pid_fdinfo(5). */
function mountOf(fd: number, mounts: readonly Mount[]): Mount | undefined {
  const line = lines(`/proc/self/fdinfo/${fd}`).find((line) => line.startsWith("mnt_id:"));
  return mounts.find(({ id }) => id === line?.split(/\s+/)[1]);
}

/** A mounted file system. */
interface Mount {
  readonly id: string;
  /** Of the device that it is on, or a number of its own. */
  readonly number: DeviceNumber;
  readonly at: string;
  readonly source: string;
  readonly writes: boolean;
}

/** proc_pid_mountinfo(5). */
function parseMount(line: string): Mount {
  const [left = "", right = ""] = line.split(" - ");
  const fields = left.split(" ");
  const [, source = "", options = ""] = right.split(" ");
  const may = (list: string | undefined): boolean => list?.split(",").includes("rw") ?? false;
  const at = (fields[4] ?? "").replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8)));
  return { id: fields[0] ?? "", number: fields[2] ?? "", at, source, writes: may(fields[5]) && may(options) };
}

/** A device and all that is reached from it. */
function closure(
  number: DeviceNumber,
  next: (folder: { below: DeviceNumber[]; above: DeviceNumber[] }) => DeviceNumber[],
): DeviceNumber[] {
  const found = [number];
  for (let at = 0; at < found.length; at++) {
    const folder = `/sys/dev/block/${found[at]!}`;
    const related = {
      below: [
        ...(exists(`${folder}/partition`) ? numbersIn([`${folder}/../dev`]) : []),
        ...numbersIn(names(`${folder}/slaves`).map((name) => `${folder}/slaves/${name}/dev`)),
      ],
      above: numbersIn([
        ...names(folder).filter((name) => exists(`${folder}/${name}/partition`)).map((name) => `${folder}/${name}/dev`),
        ...names(`${folder}/holders`).map((name) => `${folder}/holders/${name}/dev`),
      ]),
    };
    found.push(...next(related).filter((each) => !found.includes(each)));
  }
  return found;
}

function backingFile(number: DeviceNumber): FileIdentity[] {
  const [path] = lines(`/sys/dev/block/${number}/loop/backing_file`);
  return path === undefined ? [] : identityAt(path);
}

function identityAt(path: string): FileIdentity[] {
  try {
    return [factsOf(path).identity];
  } catch {
    return []; // it was removed since
  }
}

function identityOf(number: DeviceNumber): FileIdentity {
  const [major, minor] = number.split(":").map(Number);
  return { device: makeDevice(major!, minor!), inode: 0 };
}

/** The number of the block device that a path in /dev names. */
function numberOf(path: string): DeviceNumber | undefined {
  if (!path.startsWith("/dev/")) return undefined;
  try {
    return factsOf(path).blockDevice;
  } catch {
    return undefined;
  }
}

function nameOf(number: DeviceNumber): string {
  try {
    return `/dev/${Deno.readLinkSync(`/sys/dev/block/${number}`).split("/").at(-1)}`;
  } catch {
    return `block device ${number}`;
  }
}

function numbersIn(files: readonly string[]): DeviceNumber[] {
  return files.flatMap((file) => lines(file).slice(0, 1));
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

function names(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch {
    return [];
  }
}

function lines(file: string): string[] {
  try {
    return Deno.readTextFileSync(file).split("\n").filter((line) => line !== "");
  } catch {
    return [];
  }
}
