/**
 * Backups as qcow2 files, by qemu-img: their marks, and whether a chain of them is whole.
 */

import { XenblkError } from "../errors.ts";
import { qemuImgError, runQemuImg } from "../storage/qemu/qemu_img.ts";
import { isRecord } from "../storage/qemu/tree.ts";
import { type BackupMark, parseMark } from "./names.ts";

/** How long the header of a file may take to be read. */
const HEADER_MS = 15_000;
/** How long the metadata of one may take to be checked: a few seconds a TiB, from storage that answers. */
const CHECK_MS = 600_000;

/** A backup, as its file says. */
export interface BackupFile {
  /** Absolute. */
  readonly path: string;
  readonly sizeBytes: number;
  /** Bytes that it takes. */
  readonly allocatedBytes: number;
  /** Absent: it is no backup that xenblk has made and an incremental one can follow. */
  readonly mark?: BackupMark;
  /** The file with the rest. */
  readonly backing?: string;
}

/** Reads the header of a qcow2 file, which may be in use. Rejects with {@linkcode XenblkError}. */
export async function readBackup(path: string): Promise<BackupFile> {
  const what = `Cannot read backup ${path}`;
  const args = ["info", "--output=json", "--force-share", "-f", "qcow2", "--", path];
  const outcome = await runQemuImg(args, { what, image: path, timeoutMs: HEADER_MS });
  if (outcome.status !== 0) throw qemuImgError(what, outcome);
  const info: unknown = JSON.parse(outcome.stdout);
  if (!isRecord(info)) throw new XenblkError(`${what}: qemu-img does not say what it is`);
  const specific = info["format-specific"];
  const data = isRecord(specific) && isRecord(specific["data"]) ? specific["data"] : {};
  const bitmaps = Array.isArray(data["bitmaps"]) ? data["bitmaps"].filter(isRecord) : [];
  const mark = bitmaps.map(({ name }) => parseMark(`${name}`)).find((each) => each !== undefined);
  const backing = info["full-backing-filename"] ?? info["backing-filename"];
  return {
    path,
    sizeBytes: Number(info["virtual-size"]),
    allocatedBytes: Number(info["actual-size"]),
    ...(mark === undefined ? {} : { mark }),
    ...(backing === undefined ? {} : { backing: `${backing}` }),
  };
}

/** Rejects with {@linkcode XenblkError} unless the metadata of a qcow2 file is whole. */
export async function checkBackup(path: string, signal?: AbortSignal): Promise<void> {
  const what = `Cannot trust backup ${path}`;
  const args = ["check", "-q", "-f", "qcow2", "--", path];
  const abort = signal === undefined ? {} : { signal };
  const outcome = await runQemuImg(args, { what, image: path, timeoutMs: CHECK_MS, ...abort });
  if (outcome.status === 0) return;
  throw outcome.stderr.trim() === ""
    ? new XenblkError(`${what}: its metadata is damaged, says \`qemu-img check\``)
    : qemuImgError(what, outcome);
}

/**
 * The files of a chain, the newest first, each of which is based on the very backup that it was made from, and whole.
 * Rejects with {@linkcode XenblkError} that names the first one that is not.
 */
export async function verifyChain(path: string, signal?: AbortSignal): Promise<BackupFile[]> {
  const files: BackupFile[] = [];
  let wanted: string | undefined;
  for (let next: string | undefined = path; next !== undefined;) {
    const file: BackupFile = await readBackup(next);
    const { mark, backing } = file;
    const cannot = (why: string, remedy: string): XenblkError =>
      new XenblkError(`Cannot trust backup ${path}: ${why}`, { remedy });
    if (mark === undefined) {
      throw cannot(`${next} is no backup that was completed, or not one of xenblk`, "restore an earlier backup");
    }
    if (wanted !== undefined && mark.id !== wanted) {
      throw cannot(`${next} is another backup than the one that it was made on`, "put the right file there");
    }
    if ((mark.base === undefined) !== (backing === undefined)) {
      throw cannot(`${next} does not name the backup that it was made on`, "name it with `qemu-img rebase -u`");
    }
    if (files.some((known) => known.path === next)) {
      throw cannot(`${next} is based on itself`, "put the right file there");
    }
    await checkBackup(next, signal);
    files.push(file);
    wanted = mark.base;
    next = backing;
  }
  return files;
}
