/**
 * How a block device is used on this host beside us: what it lies on, what lies on it, and which of that the host has
 * mounted or swaps to. Read from sysfs and /proc; an entry that cannot be read counts as absent.
 */

import type { FileIdentity } from "../../lib/hypervisor.ts";
import type { DeviceFacts, DeviceUse } from "../../lib/storage/image/medium.ts";
import { factsOf, makeDevice } from "./image_descriptor.ts";
import { libc } from "./libc.ts";
import { allocate } from "./memory.ts";

/** linux/fs.h */
const BLKROGET = 0x125En;

/** A block device as sysfs has it: `8:1`. */
type DeviceNumber = string;

/** What the kernel says of the open block device `fd`, with that number. */
export function deviceFactsOf(fd: number, number: DeviceNumber): DeviceFacts {
  return { readOnly: isReadOnlyDevice(fd), uses: usesOf(number) };
}

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

/** Uses by the host of a device, and of what lies on it: partitions, volumes. As Linux's mounts and swap areas say. */
function usesOf(number: DeviceNumber): DeviceUse[] {
  const numbers = closure(number, ({ above }) => above);
  const own = (each: DeviceNumber): string => each === number ? "it is" : `${nameOf(each)}, a part of it, is`;
  const used = new Map(numbers.map((each) => [each, own(each)]));
  const mounted = lines("/proc/self/mountinfo").flatMap((line): DeviceUse[] => {
    const mount = parseMount(line);
    const subject = used.get(mount.number) ?? used.get(numberOf(mount.source) ?? "");
    return subject === undefined ? [] : [{ what: `${subject} mounted at ${mount.at}`, writes: mount.writes }];
  });
  const swapped = lines("/proc/swaps").flatMap((line): DeviceUse[] => {
    const subject = used.get(numberOf(line.split(/\s/, 1)[0]!) ?? "");
    return subject === undefined ? [] : [{ what: `${subject} swap space of this host`, writes: true }];
  });
  return [...mounted, ...swapped];
}

/** proc_pid_mountinfo(5). */
function parseMount(line: string): { number: DeviceNumber; at: string; source: string; writes: boolean } {
  const [left = "", right = ""] = line.split(" - ");
  const fields = left.split(" ");
  const [, source = "", options = ""] = right.split(" ");
  const may = (list: string | undefined): boolean => list?.split(",").includes("rw") ?? false;
  const at = (fields[4] ?? "").replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(parseInt(octal, 8)));
  return { number: fields[2] ?? "", at, source, writes: may(fields[5]) && may(options) };
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
  try {
    return path === undefined ? [] : [factsOf(path).identity];
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
