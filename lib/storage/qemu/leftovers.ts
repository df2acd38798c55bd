/**
 * What processes of ours that died can leave of storage daemons: disks with writes that nobody has flushed, and daemons
 * that have no record yet.
 */

import type { Logger } from "../../log.ts";
import { isFile } from "../image/formats.ts";
import { directoryOf, readNote, realImagePath } from "../image/overlay_note.ts";
import { removeUnfinished } from "../image/unfinished_overlay.ts";
import { hasEnded, identify, signal } from "./process.ts";
import type { DiskPlan } from "./plan.ts";
import { type DaemonRecord, type DiskRecord, type LostDisk, recordedFile, type RunDirectory } from "./record.ts";
import type { QemuRequest } from "./types.ts";

/** How long a daemon without disks may take to end. */
const END_MS = 5_000;

/** The disks that a dead daemon may have lost writes of, with those that were lost before. */
export async function lostDisks(record: DaemonRecord): Promise<Readonly<Record<string, LostDisk>>> {
  const { process, disks, guest } = record;
  const boot = (await identify(Deno.pid))?.bootId;
  // The guest has ended with its host.
  if (boot !== process.bootId) return {};
  const reason = `the storage daemon of domain ${guest} (process ${process.pid}) ended while it was not watched`;
  // What was lost before has not been written again yet: nothing else has been written since.
  return { ...lostWith(disks, reason), ...record.lost };
}

/** Of these disks, those that can lose answered writes by the death of their daemon. Undefined: it lives. */
export function lostWith(
  disks: Readonly<Record<string, DiskRecord>>,
  reason: string | undefined,
): Readonly<Record<string, LostDisk>> {
  if (reason === undefined) return {};
  const died = Object.entries(disks).filter(([, { exported, durable }]) => exported && !durable);
  return Object.fromEntries(died.map(([device, { name, plan, tag, graph, files, other }]) => {
    const written = files.filter(({ writable }) => writable);
    const kept = { ...(tag && { tag }), ...(graph && { graph }), ...(other && { other }) };
    return [device, { name, plan, ...kept, reason, files: written }];
  }));
}

/**
 * What was lost of the disk that is opened by this plan. The same files may be opened in another way. If the plan is the
 * same but a file was replaced, the disk has no tag: its log must not be written into another file. Undefined: another
 * image was lost.
 */
export async function lostOfPlan(lost: LostDisk, plan: DiskPlan): Promise<LostDisk | undefined> {
  const { other, ...before } = lost;
  const found = await lostAs(before, plan);
  if (other === undefined || (found !== undefined && found.tag === lost.tag)) return found;
  return await lostAs({ ...before, ...other }, plan) ?? found;
}

async function lostAs(lost: LostDisk, plan: DiskPlan): Promise<LostDisk | undefined> {
  const files = await Promise.all(plan.files.filter(({ writable }) => writable).map(recordedFile));
  const { files: before = [], tag: _tag, ...rest } = lost;
  const isSamePlan = lost.plan === plan.identity;
  const isUnknown = lost.files === undefined || [...before, ...files].some(({ inode }) => inode === undefined);
  if (isUnknown) return isSamePlan ? lost : undefined;
  const isSame = before.length === files.length &&
    before.every(({ device, inode }) => files.some((file) => file.device === device && file.inode === inode));
  if (isSame && (isSamePlan || files.length > 0)) return lost;
  return isSamePlan ? { ...rest, reason: `${lost.reason}, and its image file was replaced since` } : undefined;
}

/**
 * Kills a daemon with a disk whose images were being changed when the process that did it ended: what is in the daemon is
 * not known. The next daemon opens what is right by the images' notes, and the write logs have what was not flushed. False:
 * there is no such disk.
 */
export async function endUnfinished({ process, disks }: DaemonRecord, logger: Logger): Promise<boolean> {
  const unfinished = Object.entries(disks).find(([, { other }]) => other !== undefined);
  if (unfinished === undefined) return false;
  logger.warning(`the images of ${unfinished[0]} were being changed when its process ended: opening it anew`);
  await signal(process, "SIGKILL");
  await hasEnded(process, END_MS);
  return true;
}

/**
 * Removes what processes that were killed have left beside the image, which is open, and those of its snapshots: an overlay
 * that was being made, and notes that were being written. No harm comes from what cannot be removed.
 */
export async function removeUnfinishedOverlay({ image, readOnly, graph }: QemuRequest): Promise<void> {
  if (image === undefined || readOnly || !isFile(image)) return;
  const top = await realImagePath(image.target);
  const paths = [...new Set([top, ...graph.files.map(({ path }) => path)])];
  for (const path of paths) {
    const note = await readNote(path).catch(() => undefined);
    // A template is somebody else's, too.
    const isOurs = path === top || paths.includes(`${directoryOf(path)}/${note?.overlay}`);
    if (isOurs) await removeUnfinished(path).catch(() => {});
  }
}

/**
 * Ends a daemon whose starter died before it wrote a record: it has no disks. The process is the daemon if its command
 * line names the run directory.
 */
export async function endStrays(directory: RunDirectory, logger: Logger): Promise<void> {
  const pid = await directory.statedPid();
  const process = pid === undefined ? undefined : await identify(pid);
  if (process === undefined || !(await commandLine(process.pid)).includes(directory.pidFile)) return;
  logger.warning(`process ${pid}, a storage daemon in ${directory.path}, has no disks: ending it`);
  await signal(process, "SIGTERM");
  if (await hasEnded(process, END_MS)) return;
  await signal(process, "SIGKILL");
  await hasEnded(process, END_MS);
}

async function commandLine(pid: number): Promise<string[]> {
  try {
    return (await Deno.readTextFile(`/proc/${pid}/cmdline`)).split("\0");
  } catch {
    return [];
  }
}
