/**
 * What is to be seen of this host's storage daemons, whichever process has them. It changes nothing.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { isAlive, isUpgraded } from "./process.ts";
import { guestOfDirectory, RunDirectory } from "./record.ts";

/** One daemon. */
export interface DaemonSeen {
  readonly guest: number;
  readonly pid: number;
  /** QEMU's version when it started. */
  readonly qemu: string;
  readonly alive: boolean;
  /** Its program's file was replaced since. */
  readonly upgraded: boolean;
  /** It has a root directory of its own. */
  readonly rooted: boolean;
  /** Labels of devices. */
  readonly disks: readonly string[];
}

/** The folder of all daemons, below the directory of journals. */
export function daemonsDirectory(journals: string): string {
  return `${journals}/daemons`;
}

/** The daemons that have a record. Rejects with {@linkcode XenblkError} if the folder cannot be read. */
export async function surveyDaemons(directory: string): Promise<DaemonSeen[]> {
  const seen: DaemonSeen[] = [];
  for (const name of await daemonNames(directory)) {
    const record = await new RunDirectory(directory, name).read();
    if (record === undefined) continue;
    const { guest, process, qemu, rooted, disks, lost } = record;
    const alive = await isAlive(process);
    const labels = [...new Set([...Object.keys(disks), ...Object.keys(lost)])];
    seen.push({
      guest,
      pid: process.pid,
      qemu,
      alive,
      upgraded: alive && await isUpgraded(process),
      rooted,
      disks: labels,
    });
  }
  return seen;
}

/** Names of the daemons' folders; none if there is no directory. */
export async function daemonNames(directory: string): Promise<string[]> {
  try {
    const names: string[] = [];
    for await (const { name } of Deno.readDir(directory)) if (guestOfDirectory(name) !== undefined) names.push(name);
    return names.sort();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw new XenblkError(`Cannot look for storage daemons in ${directory}: ${errorText(error)}`, {
      cause: error,
      remedy: "run as root, or name another directory with XENBLK_JOURNAL_DIR",
    });
  }
}
