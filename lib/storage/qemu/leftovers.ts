/**
 * What processes of ours that died can leave of storage daemons: disks with writes that nobody has flushed, and daemons
 * that have no record yet.
 */

import type { Logger } from "../../log.ts";
import { hasEnded, identify, signal } from "./process.ts";
import type { DiskPlan } from "./plan.ts";
import type { DaemonRecord, DiskRecord, LostDisk, RecordedFile, RunDirectory } from "./record.ts";

/** How long a daemon without disks may take to end. */
const END_MS = 5_000;

/** The disks that a dead daemon may have lost writes of, with those that were lost before. */
export async function lostDisks(record: DaemonRecord): Promise<Readonly<Record<string, LostDisk>>> {
  const { process, disks, guest } = record;
  const boot = (await identify(Deno.pid))?.bootId;
  // The guest has ended with its host.
  if (boot !== process.bootId) return {};
  const reason = `the storage daemon of domain ${guest} (process ${process.pid}) ended while it was not watched`;
  const lost = Object.entries(disks).flatMap(([device, disk]) =>
    losesWrites(disk) ? [[device, lostOf(disk, reason)]] : []
  );
  // What was lost before has not been written again yet: nothing else has been written since.
  return { ...Object.fromEntries(lost), ...record.lost };
}

/** Whether the death of its daemon can lose answered writes of the disk. */
export function losesWrites({ exported, durable }: DiskRecord): boolean {
  return exported && !durable;
}

/** What remains of a disk with a daemon that died for that reason. */
export function lostOf({ plan, tag, files }: DiskRecord, reason: string): LostDisk {
  return { plan, ...(tag && { tag }), reason, files: files.filter(({ writable }) => writable) };
}

/**
 * What was lost of the disk that is opened by this plan; `files` are those that it writes to, as they are now. The same
 * files may be opened in another way. If the plan is the same but a file was replaced, the disk has no tag: its log is not
 * to be written into another file. Undefined: another image was lost.
 */
export function lostOfPlan(lost: LostDisk, plan: DiskPlan, files: readonly RecordedFile[]): LostDisk | undefined {
  const isSamePlan = lost.plan === plan.identity;
  const before = lost.files ?? [];
  if (before.length === 0 || files.some(({ inode }) => inode === undefined)) return isSamePlan ? lost : undefined;
  const isSame = before.length === files.length &&
    before.every(({ device, inode }) => files.some((file) => file.device === device && file.inode === inode));
  if (isSame) return lost;
  if (!isSamePlan) return undefined;
  const { tag: _tag, ...rest } = lost;
  return { ...rest, reason: `${lost.reason}, and its image file was replaced since` };
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
