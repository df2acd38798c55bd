/**
 * What processes of ours that died can leave of storage daemons: disks with writes that nobody has flushed, and daemons
 * that have no record yet.
 */

import type { Logger } from "../../log.ts";
import { hasEnded, identify, signal } from "./process.ts";
import type { DaemonRecord, LostDisk, RunDirectory } from "./record.ts";

/** How long a daemon without disks may take to end. */
const END_MS = 5_000;

/** The disks that a dead daemon may have lost writes of, with those that were lost before. */
export async function lostDisks(record: DaemonRecord): Promise<Readonly<Record<string, LostDisk>>> {
  const { process, disks, guest } = record;
  const boot = (await identify(Deno.pid))?.bootId;
  // The guest has ended with its host.
  if (boot !== process.bootId) return {};
  const reason = `the storage daemon of domain ${guest} (process ${process.pid}) ended while it was not watched`;
  const died = Object.entries(disks).filter(([, { exported, durable }]) => exported && !durable);
  const lost = died.map(([device, { plan, tag }]) => [device, { plan, ...(tag && { tag }), reason }] as const);
  // What was lost before has not been written again yet: nothing else has been written since.
  return { ...Object.fromEntries(lost), ...record.lost };
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
