/**
 * How backups and records of changes know each other. A backup that can be followed by an incremental one has an id, by a
 * time and chance. The disk's image has a bitmap of QEMU (qcow2: dirty bitmaps) whose name has the id and the path of the
 * backup, and which records every change since its instant. The backup has an empty bitmap whose name has its own id, and
 * that of the backup that it is based on: it moves with the file, and another file at the same path is never taken for it.
 */

/** A record of changes in a disk's image. */
export interface ChangesName {
  /** Of the backup since which changes are recorded. */
  readonly id: string;
  /** Where that backup was made. */
  readonly path: string;
}

/** What a backup says of itself. */
export interface BackupMark {
  readonly id: string;
  /** Of the backup that has the rest. Absent: it is a full one. */
  readonly base?: string;
}

const ID = String.raw`(\d{8}T\d{9}Z-[0-9a-f]{8})`;
const CHANGES = new RegExp(`^xenblk-changes:${ID}:(/.*)$`, "s");
const MARK = new RegExp(`^xenblk-backup:${ID}:(?:full|${ID})$`);
/** QEMU's limit for the names of bitmaps, in bytes. */
const MOST_BYTES = 1023;

/** An id that no other backup has. Later ones are greater. */
export function newBackupId(): string {
  const time = new Date().toISOString().replaceAll(/[-:.]/g, "");
  const [chance] = crypto.getRandomValues(new Uint32Array(1));
  return `${time}-${chance!.toString(16).padStart(8, "0")}`;
}

/** The name of the bitmap. Undefined: the path is too long for one. */
export function changesText({ id, path }: ChangesName): string | undefined {
  const text = `xenblk-changes:${id}:${path}`;
  return new TextEncoder().encode(text).length > MOST_BYTES ? undefined : text;
}

/** What the name of a bitmap says; undefined: it is no such record. */
export function parseChanges(text: string): ChangesName | undefined {
  const [, id, path] = CHANGES.exec(text) ?? [];
  return id === undefined ? undefined : { id, path: path! };
}

/** The name of a backup's bitmap. */
export function markText({ id, base }: BackupMark): string {
  return `xenblk-backup:${id}:${base ?? "full"}`;
}

/** What the name of a bitmap says; undefined: it is no such mark. */
export function parseMark(text: string): BackupMark | undefined {
  const [, id, base] = MARK.exec(text) ?? [];
  return id === undefined ? undefined : { id, ...(base === undefined ? {} : { base }) };
}
