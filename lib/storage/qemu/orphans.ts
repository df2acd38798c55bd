/**
 * Disks of devices that are gone with writes that were answered and may not be flushed: a guest was destroyed while no
 * process of ours ran. Its daemon died, too, or still has the disk: when that is asked to end, it reports no failed flush.
 * Nobody opens such a disk by itself any more.
 */

import { XenblkError } from "../../errors.ts";
import type { AllowedFile } from "./confinement.ts";
import { lostDisks, lostWith } from "./leftovers.ts";
import { isAlive } from "./process.ts";
import { type DaemonRecord, type LostDisk, type RecordedFile, recordedFile, type RunDirectory } from "./record.ts";
import type { OrphanedDisk, QemuRequest } from "./types.ts";

/** Such a disk, and the files that it was written to. */
export interface Orphan extends OrphanedDisk {
  readonly files: readonly RecordedFile[];
}

/** The disks of a daemon that are orphaned. `held`: this process has the daemon, and sees to the disks in it itself. */
export async function orphansOf(
  record: DaemonRecord,
  held: boolean,
  isGone: (device: string) => boolean,
): Promise<Orphan[]> {
  const { disks, lost } = held ? { disks: {}, lost: record.lost } : await asItIsNow(record);
  const dead = orphansAmong(record, lost, (device) => isGone(device) && !(held && device in record.disks));
  const served = lostWith(disks, "its guest was destroyed");
  return [...dead, ...orphansAmong(record, served, (device) => isGone(device) && !(device in lost)).flatMap(toFlush)];
}

/** A disk that its daemon still has. Opened without a tag, it is flushed, and nothing is written again. */
function toFlush({ request, ...orphan }: Orphan): Orphan[] {
  if (request === undefined) return [];
  const { tag: _tag, ...rest } = request;
  return [{ ...orphan, served: true, request: rest }];
}

function orphansAmong(
  record: DaemonRecord,
  lost: Readonly<Record<string, LostDisk>>,
  isOne: (device: string) => boolean,
): Orphan[] {
  return Object.entries(lost).flatMap(([device, disk]) => isOne(device) ? [orphanOf(record, device, disk)] : []);
}

function orphanOf(
  { guest, uuid }: DaemonRecord,
  device: string,
  { name, tag, graph, reason, files }: LostDisk,
): Orphan {
  const owner = { guest, ...(uuid === undefined ? {} : { uuid }), device };
  const disk = { name: name ?? `the disk of ${device}`, owner, ...(tag === undefined ? {} : { tag }) };
  const request = graph && { ...disk, graph, readOnly: false };
  return { ...disk, reason, served: false, files: files ?? [], ...(request && { request }) };
}

/** A daemon that has died has no disks. */
async function asItIsNow(record: DaemonRecord): Promise<DaemonRecord> {
  return await isAlive(record.process) ? record : { ...record, disks: {}, lost: await lostDisks(record) };
}

/** Removes a disk from those that a daemon has lost, and the directory of one that has none left. */
export async function forgetLost(directory: RunDirectory, before: DaemonRecord, device: string): Promise<void> {
  const record = await asItIsNow(before);
  const { [device]: _forgotten, ...lost } = record.lost;
  const isIdle = Object.keys({ ...record.disks, ...lost }).length === 0;
  if (isIdle && !await isAlive(record.process)) await directory.remove();
  else await directory.write({ ...record, lost });
}

/**
 * Rejects with {@linkcode XenblkError} if an image has a file that an orphan of another device was written to: what is
 * written to that now would be overwritten, and what is read from it is not what was answered.
 */
export async function checkUnwritten(
  { name, owner }: QemuRequest,
  files: readonly AllowedFile[],
  orphans: readonly Orphan[],
): Promise<void> {
  const others = orphans.filter((orphan) => orphan.owner.device !== owner.device);
  if (others.length === 0) return;
  const opened = await Promise.all(files.map(recordedFile));
  const isSame = (one: RecordedFile, other: RecordedFile): boolean =>
    one.inode !== undefined && one.inode === other.inode && one.device === other.device;
  const found = others.find((orphan) => orphan.files.some((file) => opened.some((other) => isSame(file, other))));
  if (found === undefined) return;
  const { device } = found.owner;
  throw new XenblkError(`Cannot open ${name}: what ${device}, which is gone, has written to it is not there yet`, {
    remedy: `it is opened once that is written: see what the log says about ${found.name}`,
  });
}
