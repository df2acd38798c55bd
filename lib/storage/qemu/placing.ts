/**
 * Which files a running daemon can reach: those of its disks, where it has a root directory of its own.
 */

import { XenblkError } from "../../errors.ts";
import { type AllowedFile, placeFiles, takeFiles } from "./confinement.ts";
import type { DaemonRecord, DiskRecord, RunDirectory } from "./record.ts";

/** The daemon, and the disk that the files are for: by its name in messages. */
export interface Placing {
  readonly record: DaemonRecord;
  readonly directory: RunDirectory;
  /** For messages: `the storage daemon of domain 5 (process 123)`. */
  readonly daemon: string;
}

/** Lets the daemon reach these files, too. Rejects with {@linkcode XenblkError}. */
export async function place(
  { record, directory, daemon }: Placing,
  name: string,
  files: readonly AllowedFile[],
  timeoutMs: number | undefined,
): Promise<void> {
  if (!record.rooted) return;
  const present = filesOf(record);
  const missing = files.filter((file) =>
    !present.some(({ path, writable }) => path === file.path && (writable || !file.writable))
  );
  const reason = await placeFiles(record.process, directory.root, missing, timeoutMs);
  if (reason === undefined) return;
  throw new XenblkError(`Cannot open ${name}: its files cannot be given to ${daemon}: ${reason}`, {
    remedy: "check that their storage answers, and that this process may use mount namespaces (CAP_SYS_ADMIN)",
  });
}

/** Takes files out of the daemon's root, except those of its disks, but for `disk`. The reason if it can still open them. */
export async function take(
  { record, directory }: Placing,
  files: readonly string[],
  disk?: DiskRecord,
): Promise<string | undefined> {
  if (!record.rooted) return undefined;
  const others = filesOf(record, disk);
  const paths = files.filter((path) => !others.some((file) => file.path === path));
  const reason = await takeFiles(record.process, directory.root, paths);
  return reason && `it can still open ${paths.join(", ")}: ${reason}`;
}

function filesOf({ disks }: DaemonRecord, except?: DiskRecord): readonly AllowedFile[] {
  return Object.values(disks).filter((disk) => disk !== except).flatMap(({ files }) => files);
}
