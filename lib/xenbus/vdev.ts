/**
 * Virtual device numbers: how `xvda`, `sda1` or `hdc` become the number that names a disk in xenstore, and back
 * (xen-vbd-interface(7)). Pure.
 */

import { XenblkError } from "../errors.ts";
import { quoted } from "./decimal.ts";

/** The largest number that the extended scheme can give. */
export const MAX_VDEV = 0x1FFF_FFFF;

const MAJOR_XVD = 202;
const MAJOR_SD = 8;
/** hda and hdb. */
const MAJOR_IDE0 = 3;
/** hdc and hdd. */
const MAJOR_IDE1 = 22;
/** Marks the extended scheme: 20 bits of disk, 8 bits of partition, for what does not fit 4 bits and 4 bits. */
const EXTENDED = 2 ** 28;
const MAX_EXTENDED_DISK = 2 ** 20 - 1;
const MAX_EXTENDED_PARTITION = 255;

const REMEDY = "name it like xvda, xvda1, sdb, hdc, d0p1 or give its number, as in 51712 or 0xca00";

/**
 * The number of a virtual device given by name (`xvda`, `xvdba3`, `sda1`, `hdd`), by disk and partition (`d0`, `d26p3`:
 * those of an xvd), or by number, decimal or 0x hexadecimal. Partition 0, or none, is the whole disk. Throws {@linkcode XenblkError} (usage) when it is neither.
 */
export function parseVdev(text: string): number {
  if (/^(?:0x[0-9a-f]{1,8}|0|[1-9][0-9]{0,9})$/i.test(text)) return checkedNumber(text);
  const numbers = /^d(0|[1-9][0-9]{0,6})(?:p(0|[1-9][0-9]{0,2}))?$/.exec(text);
  if (numbers !== null) return xvdNumber(text, Number(numbers[1]), Number(numbers[2] ?? "0"));
  const parts = /^(xvd|sd|hd)([a-z]{1,5})([1-9][0-9]{0,2})?$/.exec(text);
  if (parts === null) throw wrong(text, "it is no device name and no number");
  const disk = diskFromLetters(parts[2]!);
  const partition = Number(parts[3] ?? "0");
  switch (parts[1]) {
    case "xvd":
      return xvdNumber(text, disk, partition);
    case "sd":
      limit(text, disk, 15, "sdp", partition, 15);
      return MAJOR_SD << 8 | disk << 4 | partition;
    default:
      limit(text, disk, 3, "hdd", partition, 63);
      return disk < 2 ? MAJOR_IDE0 << 8 | disk << 6 | partition : MAJOR_IDE1 << 8 | (disk - 2) << 6 | partition;
  }
}

/** The name of a virtual device number, or its decimal digits if it follows no known scheme. */
export function formatVdev(vdev: number): string {
  const parts = schemeOf(vdev);
  return parts === undefined ? String(vdev) : deviceName(parts.prefix, parts.disk, parts.partition);
}

/**
 * Whether a guest can have only one of two disks: Linux gives sda, hda and xvda the same number, and a whole disk has the
 * numbers of its partitions.
 */
export function clashes(one: number, other: number): boolean {
  const [a, b] = [schemeOf(one), schemeOf(other)];
  if (a === undefined || b === undefined || a.disk !== b.disk) return one === other;
  return a.partition === b.partition || a.partition === 0 || b.partition === 0;
}

/** A virtual device number, taken apart. */
interface VdevParts {
  readonly prefix: "xvd" | "sd" | "hd";
  /** 0 for xvda, sda and hda. */
  readonly disk: number;
  /** 0 is the whole disk. */
  readonly partition: number;
}

function schemeOf(vdev: number): VdevParts | undefined {
  if (vdev >= EXTENDED && vdev <= MAX_VDEV) {
    return { prefix: "xvd", disk: (vdev - EXTENDED) >>> 8, partition: vdev & 0xFF };
  }
  switch (vdev >>> 8) {
    case MAJOR_XVD:
      return { prefix: "xvd", disk: vdev >>> 4 & 0xF, partition: vdev & 0xF };
    case MAJOR_SD:
      return { prefix: "sd", disk: vdev >>> 4 & 0xF, partition: vdev & 0xF };
    case MAJOR_IDE0:
    case MAJOR_IDE1:
      return ideParts(vdev);
    default:
      return undefined;
  }
}

function wrong(text: string, why: string): XenblkError {
  return new XenblkError(`Cannot use virtual device ${quoted(text)}: ${why}`, { kind: "usage", remedy: REMEDY });
}

function checkedNumber(text: string): number {
  const value = Number(text);
  if (value > MAX_VDEV) throw wrong(text, `the largest number is ${MAX_VDEV}`);
  return value;
}

function limit(
  text: string,
  disk: number,
  maxDisk: number,
  lastDisk: string,
  partition: number,
  maxPartition: number,
): void {
  if (disk > maxDisk) throw wrong(text, `the last disk of its kind is ${lastDisk}`);
  if (partition > maxPartition) throw wrong(text, `the last partition of its kind is ${maxPartition}`);
}

function xvdNumber(text: string, disk: number, partition: number): number {
  if (disk <= 15 && partition <= 15) return MAJOR_XVD << 8 | disk << 4 | partition;
  limit(text, disk, MAX_EXTENDED_DISK, deviceName("xvd", MAX_EXTENDED_DISK, 0), partition, MAX_EXTENDED_PARTITION);
  return EXTENDED + disk * 256 + partition;
}

/** Minor numbers of an IDE major hold two disks of 64 partitions. */
function ideParts(vdev: number): VdevParts | undefined {
  const minor = vdev & 0xFF;
  if (minor >= 128) return undefined;
  const firstDisk = vdev >>> 8 === MAJOR_IDE0 ? 0 : 2;
  return { prefix: "hd", disk: firstDisk + (minor >>> 6), partition: minor & 0x3F };
}

function deviceName(prefix: string, disk: number, partition: number): string {
  return prefix + lettersFromDisk(disk) + (partition === 0 ? "" : String(partition));
}

/** a is 0, z is 25, aa is 26: bijective base 26. */
function diskFromLetters(letters: string): number {
  let disk = 0;
  for (const letter of letters) disk = disk * 26 + (letter.charCodeAt(0) - 96);
  return disk - 1;
}

function lettersFromDisk(disk: number): string {
  let letters = "";
  for (let rest = disk + 1; rest > 0; rest = Math.floor((rest - 1) / 26)) {
    letters = String.fromCharCode(97 + (rest - 1) % 26) + letters;
  }
  return letters;
}
