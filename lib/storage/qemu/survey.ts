/**
 * What is to be seen of this host's storage daemons, whichever process has them. It changes nothing.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lostDisks } from "./leftovers.ts";
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
  /** Disks that it may have lost writes of. */
  readonly lost: readonly LostSeen[];
}

/** A disk that a daemon that died may have lost writes of. */
export interface LostSeen {
  readonly device: string;
  /** With its noun. */
  readonly name: string;
  /** See QemuRequest. */
  readonly tag?: string;
}

/** The daemons that have a record. Rejects with {@linkcode XenblkError} if the folder cannot be read. */
export async function surveyDaemons(directory: string): Promise<DaemonSeen[]> {
  const seen: DaemonSeen[] = [];
  for (const name of await daemonNames(directory)) {
    const record = await new RunDirectory(directory, name).read();
    if (record === undefined) continue;
    const { guest, process, qemu, rooted, disks } = record;
    const alive = await isAlive(process);
    const lost = alive ? record.lost : await lostDisks(record);
    const labels = [...new Set([...Object.keys(disks), ...Object.keys(lost)])];
    seen.push({
      guest,
      pid: process.pid,
      qemu,
      alive,
      upgraded: alive && await isUpgraded(process),
      rooted,
      disks: labels,
      lost: Object.entries(lost).map(([device, { name = `the disk of ${device}`, tag }]) => {
        return { device, name, ...(tag === undefined ? {} : { tag }) };
      }),
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
