/**
 * Looks at a local image before QEMU opens it: where its links lead, whether it is a file or a device, and what QEMU's
 * drivers would read wrong or open by themselves.
 */

import { XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import { shellWord } from "../../shell_word.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { cannotOpen } from "../image/explain.ts";
import { checkKind } from "../image/inspect.ts";
import type { LocalFile } from "./allow.ts";

/** A local file or device that was looked at. */
export interface LookedFile extends LocalFile {
  /** Equal for all names of a file or device. */
  readonly identity: string;
  /** Its first bytes. */
  readonly start: Uint8Array;
  /** Its size is a multiple of 512 bytes, as a device's is. */
  readonly hasWholeSectors: boolean;
}

const START_BYTES = 512;
/** Of a VHD's footer, which is at its beginning too unless its size is fixed: the type, and that of a difference. */
const VHD_TYPE_AT = 60;
const VHD_DIFFERENCE = 4;

/**
 * Looks at an absolute path. `check` throws for a file that must not be opened. Rejects with what it throws; with
 * Deno.errors.NotFound; and with {@linkcode XenblkError}: NoAnswerError if the file system does not answer, and for
 * anything that is not a regular file or block device. `label` is the image's name in messages.
 */
export async function lookAtFile(
  named: string,
  label: string,
  check: (file: LocalFile) => void,
): Promise<LookedFile> {
  try {
    return await lookWithin(named, () => look(named, check));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw error;
    throw error instanceof XenblkError ? error : cannotOpen(label, true, error);
  }
}

async function look(named: string, check: (file: LocalFile) => void): Promise<LookedFile> {
  const real = await Deno.realPath(named);
  const info = await Deno.stat(real);
  const isDevice = info.isBlockDevice === true;
  check({ named, real, isDevice });
  checkKind(named, info); // before opening, because opening a FIFO would wait for its other end
  using file = await Deno.open(real, { read: true });
  const start = new Uint8Array(START_BYTES);
  let bytes = 0;
  for (let read; bytes < START_BYTES && (read = await file.read(start.subarray(bytes))) !== null;) bytes += read;
  const { rdev, dev, ino } = info;
  const identity = isDevice ? `device ${rdev}` : `${dev}:${ino}`;
  const hasWholeSectors = isDevice || info.size % SECTOR_BYTES === 0;
  return { named, real, isDevice, identity, start: start.subarray(0, bytes), hasWholeSectors };
}

/** Refuses what a driver of QEMU would read wrong, or would open further files for by itself. */
export function checkContent(driver: string, { named, start }: LookedFile, label: string): void {
  if (driver === "vpc" && isVhdDifference(start)) throw differencing(label, named);
  if (driver === "vmdk" && textOf(start).includes("# Disk DescriptorFile")) throw severalExtents(label, named);
}

/** QEMU reads such an image as if it had no parent. */
function isVhdDifference(start: Uint8Array): boolean {
  return textOf(start).startsWith("conectix") &&
    new DataView(start.buffer, start.byteOffset).getUint32(VHD_TYPE_AT) === VHD_DIFFERENCE;
}

function differencing(label: string, path: string): XenblkError {
  const file = shellWord(path);
  return new XenblkError(`Cannot open image ${label}: it is a VHD that holds only differences to its parent`, {
    remedy: `merge it first: \`vhd-util coalesce -n ${file}\` (XenServer, XCP-ng) and attach the parent, or ` +
      `\`VBoxManage clonemedium ${file} COPY.vdi --format VDI\` and attach vdi:COPY.vdi`,
  });
}

/** The error about a vmdk image of more than one file, or with a parent: QEMU would open files that its text names. */
export function severalExtents(label: string, path: string, what = "several files"): XenblkError {
  return new XenblkError(`Cannot open image ${label}: it is a vmdk of ${what}`, {
    remedy: `convert it: \`qemu-img convert -f vmdk -O qcow2 ${shellWord(path)} COPY.qcow2\``,
  });
}

function textOf(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}
