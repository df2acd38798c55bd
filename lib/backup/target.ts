/**
 * Where a backup goes: a new file, a block device, or an NBD server; and what is made there before a daemon writes to it.
 * A file gets its name when the backup is complete. Until then it is named NAME.partial.
 */

import { XenblkError } from "../errors.ts";
import { lookWithin } from "../path_lookup.ts";
import { makeByQemuImg, qemuImgError, runQemuImg } from "../storage/qemu/qemu_img.ts";
import { storeTree } from "../storage/qemu/store.ts";
import type { BlockTree } from "../storage/qemu/tree.ts";
import type { BackupFile } from "./file.ts";
import { markText } from "./names.ts";

/** How long a file may take to be made: its metadata only. */
const MAKE_MS = 60_000;

/** The formats of backups. */
const BACKUP_FORMATS = ["qcow2", "raw"] as const;
/** One of them. */
export type BackupFormat = typeof BACKUP_FORMATS[number];

/** A place for a backup. */
export interface BackupTarget {
  readonly kind: "file" | "device" | "nbd";
  /** An absolute path, or a URI. */
  readonly name: string;
  readonly format: BackupFormat;
}

/** Where a file is until it is complete. */
export function partialOf(path: string): string {
  return `${path}.partial`;
}

/** The place that a text names. Rejects with {@linkcode XenblkError} if nothing can be written there. */
export async function findTarget(text: string, format?: BackupFormat): Promise<BackupTarget> {
  if (/^nbds?(\+unix)?:\/\//i.test(text)) {
    storeTree(text);
    return { kind: "nbd", name: text, format: format ?? "raw" };
  }
  const [, prefix, rest] = /^(qcow2|raw):(.*)$/s.exec(text) ?? [];
  const path = rest ?? text;
  const named = BACKUP_FORMATS.find((each) => each === prefix) ?? format;
  if (!path.startsWith("/")) {
    throw new XenblkError(`Cannot back up to ${path}: it is neither an absolute path nor an nbd:// URI`, {
      kind: "usage",
      remedy: "name a path from / on",
    });
  }
  const info = await lookWithin(path, () => Deno.stat(path)).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  });
  if (info?.isBlockDevice) return { kind: "device", name: path, format: named ?? "raw" };
  if (info !== undefined) {
    throw new XenblkError(`Cannot back up to ${path}: it exists`, {
      remedy: "name a file that does not exist, a block device, or an NBD server",
    });
  }
  return { kind: "file", name: path, format: named ?? formatOf(path) };
}

/** Rejects with {@linkcode XenblkError} if another backup goes there, or one has left its file there. */
export async function checkFree({ kind, name }: BackupTarget): Promise<void> {
  const path = partialOf(name);
  if (kind !== "file" || await lookWithin(path, () => Deno.lstat(path).then(() => false, () => true))) return;
  throw new XenblkError(`Cannot back up to ${name}: ${path} exists`, {
    remedy: "it is of a backup that goes on, or of one that was never completed: then remove it",
  });
}

/** Makes what is to be written to: of `base`, an incremental one. Rejects with {@linkcode XenblkError}; then nothing is left. */
export async function makeTarget(
  { kind, name, format }: BackupTarget,
  sizeBytes: number,
  id: string,
  base?: BackupFile,
): Promise<void> {
  if (kind === "nbd" || (kind === "device" && format === "raw")) return;
  const path = kind === "file" ? partialOf(name) : name;
  const cannot = `Cannot back up to ${name}`;
  // A relative name stays right when all of a chain is moved.
  const folder = name.slice(0, name.lastIndexOf("/") + 1);
  const backing = base?.path.startsWith(folder) ? base.path.slice(folder.length) : base?.path;
  const on = backing === undefined ? [] : ["-b", backing, "-F", "qcow2"];
  try {
    const made = await makeByQemuImg(["create", "-q", "-f", format, ...on, "--", path, `${sizeBytes}`], {
      what: cannot,
      timeoutMs: MAKE_MS,
    });
    if (made.status !== 0) throw qemuImgError(cannot, made);
    if (format !== "qcow2" || kind !== "file") return;
    const text = markText({ id, ...(base?.mark === undefined ? {} : { base: base.mark.id }) });
    const marked = await runQemuImg(["bitmap", "--add", "--disable", "-f", "qcow2", "--", path, text], {
      what: cannot,
      timeoutMs: MAKE_MS,
    });
    if (marked.status !== 0) throw qemuImgError(cannot, marked);
  } catch (error) {
    if (kind === "file") await Deno.remove(path).catch(() => {});
    throw error;
  }
}

/** The node that is written to. An incremental backup keeps what it does not have apart: its base is not opened. */
export function targetTree({ kind, name, format }: BackupTarget, sizeBytes: number, isIncremental: boolean): BlockTree {
  const file = kind === "nbd"
    ? storeTree(name)
    : { driver: kind === "device" ? "host_device" : "file", filename: kind === "file" ? partialOf(name) : name };
  // With anything in place of its base, QEMU writes zeroes where the base may have data.
  const backing = isIncremental ? { backing: { driver: "null-co", size: sizeBytes } } : {};
  // QEMU wants a target that is as large as the disk: of a larger one, the first part.
  const size = kind !== "file" && format === "raw" ? { size: sizeBytes } : {};
  return { driver: format, file, ...backing, ...size };
}

function formatOf(path: string): BackupFormat {
  if (/\.qcow2$/i.test(path)) return "qcow2";
  if (/\.(raw|img)$/i.test(path)) return "raw";
  throw new XenblkError(`Cannot back up to ${path}: its name does not tell its format`, {
    kind: "usage",
    remedy: "name the format, or let its name end in .qcow2, .raw or .img",
  });
}
