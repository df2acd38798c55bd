/**
 * Which files a running daemon can reach: those of its disks, where it has a root directory of its own.
 */

import { XenblkError } from "../../errors.ts";
import { type AllowedFile, placeFiles } from "./confinement.ts";
import type { DaemonRecord, RunDirectory } from "./record.ts";

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

function filesOf({ disks }: DaemonRecord): readonly AllowedFile[] {
  return Object.values(disks).flatMap(({ files }) => files);
}
