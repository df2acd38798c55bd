/**
 * The end of a backup's job. A file that is complete and durable gets its name; then the records of changes since earlier
 * backups are removed, which is why one that failed leaves them: no change is ever missed. Each step can be repeated, by
 * the process that comes after one that was killed.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { JobEnd, JobKind } from "../jobs/job.ts";
import type { DiskDaemon } from "../storage/disk.ts";
import { topNode } from "./changes.ts";
import { checkBackup, readBackup } from "./file.ts";
import { type BackupParts, endJob, removeBitmaps } from "./steps.ts";
import type { BackupFormat } from "./target.ts";

/** What the end of a backup has to know. */
export interface BackupDetails {
  /** Empty: a device or a server. */
  readonly target: Readonly<Record<never, never>> | FileTarget;
  readonly scratch: string;
  readonly parts: BackupParts;
  /** The record of changes since this backup. */
  readonly changes?: string;
}

interface FileTarget {
  readonly path: string;
  readonly partial: string;
  readonly format: BackupFormat;
}

/** The kind `backup`. */
export const backupKind: JobKind = {
  /** A file has its name when all of it is there: then nothing that dies changes it. */
  async succeeded({ details, error }: JobEnd): Promise<boolean> {
    const { target } = details as BackupDetails;
    if (error === undefined || !("path" in target)) return false;
    return !await isThere(target.partial) && await isThere(target.path);
  },
  async end({ daemon, details, error }: JobEnd): Promise<string | undefined> {
    const backup = details as BackupDetails;
    const file = "path" in backup.target ? backup.target : undefined;
    try {
      await Deno.remove(backup.scratch).catch(() => {}); // else it has gone
      if (daemon !== undefined) await daemon.run((monitor) => endJob(monitor, daemon, backup.parts));
      if (error !== undefined) throw new XenblkError(reasonOf(error));
      if (file !== undefined) await complete(file);
    } catch (failure) {
      if (file !== undefined) await Deno.remove(file.partial).catch(() => {});
      await forget(daemon, backup.changes);
      if (file === undefined && error !== undefined) {
        throw new XenblkError(`${reasonOf(error)}; the target is incomplete`);
      }
      throw failure;
    }
    if (backup.changes === undefined || daemon === undefined) return undefined;
    return await keepOnly(daemon, backup.changes);
  },
};

/** A file that has its name was completed before. Rejects with {@linkcode XenblkError}. */
async function complete({ path, partial, format }: FileTarget): Promise<void> {
  if (!await isThere(partial) && await isThere(path)) return;
  if (format === "qcow2") {
    await checkBackup(partial);
    if ((await readBackup(partial)).mark === undefined) {
      throw new XenblkError(`Cannot complete backup ${path}: its mark could not be written`, {
        remedy: "free space on its file system",
      });
    }
  }
  try {
    await synchronize(partial);
    if (await isThere(path)) throw new Error("another file has its name by now");
    await Deno.rename(partial, path);
    await synchronize(path.slice(0, path.lastIndexOf("/")) || "/");
  } catch (error) {
    throw new XenblkError(`Cannot complete backup ${path}: ${errorText(error)}`, { cause: error });
  }
}

async function isThere(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

async function synchronize(path: string): Promise<void> {
  using file = await Deno.open(path, { read: true });
  await file.sync();
}

/** The record of changes since a backup that there is not. Without it the image has one that nothing asks for. */
async function forget(daemon: DiskDaemon | undefined, changes: string | undefined): Promise<void> {
  if (changes === undefined) return;
  await daemon?.run(({ execute }) => removeBitmaps(execute, daemon.top, [changes])).catch(() => {});
}

/** Removes the records of changes since earlier backups. Resolves with a note if the daemon died meanwhile. */
async function keepOnly(daemon: DiskDaemon, changes: string): Promise<string | undefined> {
  try {
    await daemon.run(async (monitor) => {
      const { bitmaps } = await topNode(monitor, daemon.top);
      const others = bitmaps.map(({ name }) => name).filter((name) => name !== changes);
      await removeBitmaps(monitor.execute, daemon.top, others);
    });
    return undefined;
  } catch {
    return "the next one will be a full one: the storage daemon died just after it";
  }
}

/** The filter gives up the instant, and reads of it then fail with EACCES. */
function reasonOf(error: string): string {
  if (!/Permission denied/.test(error)) return error;
  return "the guest overwrote data faster than it could be kept for the backup: the scratch file's file system is full, " +
    "or took more than 5 s for a write (--scratch names another directory)";
}
