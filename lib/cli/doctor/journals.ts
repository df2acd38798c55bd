/**
 * The checks of `doctor` on the directory of journals and on the limits of this process. They return rows, as in
 * checks.ts.
 */

import { formatSize } from "../../sizes.ts";
import { JOURNAL_DIRECTORY_VARIABLE, journalDirectory } from "../../journal_directory.ts";
import { type Finding, notAllowed, notChecked } from "./checks.ts";
import type { Machine } from "./machine.ts";

/** The device that the name of a journal names. */
export interface JournalOwner {
  readonly kind: string;
  readonly domain: number;
  readonly vdev: number;
}

/** kind-domid-vdev-queue, or -latch; names of locks end differently. */
const JOURNAL_NAME = /^([A-Za-z0-9_-]+)-([0-9]+)-([0-9]+)-(?:[0-9]+|latch)$/;
/** File systems that are empty after a reboot. */
const IN_MEMORY = new Set(["tmpfs", "ramfs"]);
const OWNER_MAY_WRITE = 0o200;
const OTHERS_MAY_WRITE = 0o022;
const ELSEWHERE = `name another directory with ${JOURNAL_DIRECTORY_VARIABLE}`;

/** Journals can be kept, and none is stale. `isGone` says whether a device was removed; absent if that is unknown. */
export function checkJournals(machine: Machine, isGone?: (device: JournalOwner) => boolean): Finding[] {
  const path = journalDirectory((name) => machine.environment(name));
  const check = "journals";
  const elsewhere = ELSEWHERE;
  const fail = (detail: string, fix: string): Finding[] => [{ check, standing: "fail", detail, fix }];
  const directory = machine.directory(path);
  if (directory === "other") return fail(`${path} is not a directory`, `move it away, or ${elsewhere}`);
  const mount = mountOf(machine, path);
  if (mount?.readOnly) return fail(`${path} is on a file system that is read-only`, elsewhere);
  if (directory === "hidden") return [notChecked(check, path)];
  if (directory === "denied") return fail(`no permission to read ${path}`, `run as root, or ${elsewhere}`);
  const space = checkSpace(machine, path, directory === "absent" ? mount?.at : path);
  if (directory === "absent") return [absentRow(machine, path), ...space];
  const { mode, owner, entries } = directory;
  const user = machine.user();
  if (user !== 0 && user !== undefined && (user !== owner || (mode & OWNER_MAY_WRITE) === 0)) {
    return fail(`user ${user} may not write to ${path}`, `run as user ${owner}, or ${elsewhere}`);
  }
  const stale = isGone === undefined ? [] : staleRow(path, entries, isGone);
  if ((mode & OTHERS_MAY_WRITE) !== 0) {
    const detail = `other users may write to ${path}, and could damage disks that way`;
    return [{ check, standing: "warn", detail, fix: `chmod 700 ${path}` }, ...stale, ...space];
  }
  if (mount !== undefined && !IN_MEMORY.has(mount.type)) {
    const detail = `${path} is on ${mount.type}: journals are written to a disk, and stay there after a reboot`;
    return [{ check, standing: "warn", detail, fix: `${elsewhere} on a tmpfs` }, ...stale, ...space];
  }
  const detail = `${path}${mount === undefined ? "" : `, on ${mount.type}`}`;
  return [{ check, standing: "ok", detail }, ...stale, ...space];
}

/** The directory is not there. Whether it can be created is known of its parent. */
function absentRow(machine: Machine, path: string): Finding {
  const check = "journals";
  const detail = `${path} is created when it is first needed`;
  const parent = path.replace(/\/[^/]*\/?$/, "") || "/";
  const directory = machine.directory(parent);
  const user = machine.user();
  const isOthers = typeof directory === "object" && user !== 0 && user !== undefined && user !== directory.owner;
  if (!isOthers || (directory.mode & 0o002) !== 0) return { check, standing: "ok", detail };
  return {
    check,
    standing: "fail",
    detail: `user ${user} may not create ${path}`,
    fix: `run as user ${directory.owner}, or create it for user ${user}: install -d -m 700 -o ${user} ${path}`,
  };
}

/** Free space below which a write log may not fit, and below which not even a journal does. */
const LITTLE_BYTES = 16 * 2 ** 20;
const NO_BYTES = 2 ** 20;
/** The same for the number of files; a disk has a few. */
const FEW_FILES = 256;
const NO_FILES = 16;

/** There is room for journals. `at`: what exists of the path. */
function checkSpace(machine: Machine, path: string, at: string | undefined): Finding[] {
  const space = at === undefined ? "unknown" : machine.space(at);
  const check = "journal space";
  if (space === "unknown") return [];
  if (space === "hidden") return [notAllowed(check, "to ask for free space (--allow-sys=statfs)")];
  const { freeBytes, freeFiles } = space;
  const isShortOfFiles = freeFiles < FEW_FILES;
  if (freeBytes >= LITTLE_BYTES && !isShortOfFiles) {
    return [{ check, standing: "ok", detail: `${formatSize(freeBytes)} free` }];
  }
  const isFull = freeBytes < NO_BYTES || freeFiles < NO_FILES;
  const amount = isShortOfFiles ? `room for ${freeFiles} files` : `${formatSize(freeBytes)} free`;
  const effect = isFull
    ? "disks are not connected, because their journals do not fit"
    : "disks in storage daemons need 4 MiB for each ring";
  const enlarge = isShortOfFiles ? "mount -o remount,nr_inodes=NUMBER" : "mount -o remount,size=SIZE";
  return [{
    check,
    standing: isFull ? "fail" : "warn",
    detail: `the file system of ${path} has ${amount}: ${effect}`,
    fix: `remove what fills it (du -x ${at}), or enlarge it (${enlarge}), or ${ELSEWHERE}`,
  }];
}

/** Stale journals belong to removed devices. They do no harm, but take up space. */
function staleRow(path: string, entries: readonly string[], isGone: (device: JournalOwner) => boolean): Finding[] {
  const stale = entries.filter((name) => {
    const parts = JOURNAL_NAME.exec(name);
    return parts !== null && isGone({ kind: parts[1]!, domain: Number(parts[2]), vdev: Number(parts[3]) });
  });
  if (stale.length === 0) return [];
  const prefixes = new Set(stale.map((name) => `${path}/${name.slice(0, name.lastIndexOf("-"))}-*`));
  const detail = `${stale.length} files of removed disks take up space in ${path}`;
  const fix = `xenblk serve removes them when it starts, or rm ${[...prefixes].join(" ")}`;
  return [{ check: "stale journals", standing: "warn", detail, fix }];
}

/** A mounted file system. */
interface Mount {
  /** Where it is mounted. */
  readonly at: string;
  readonly type: string;
  readonly readOnly: boolean;
}

/** The mount that holds a path, from /proc/self/mountinfo; undefined if that cannot be read. */
function mountOf(machine: Machine, path: string): Mount | undefined {
  let found: Mount | undefined;
  for (const line of machine.readText("/proc/self/mountinfo")?.split("\n") ?? []) {
    // ID, parent, major:minor, root, mount point, options, ... - type, source, super options
    const [fields, others] = line.split(" - ");
    const [, , , , at, options] = fields!.split(" ");
    const type = others?.split(" ")[0];
    if (at === undefined || options === undefined || type === undefined) continue;
    const holds = at === "/" || path === at || path.startsWith(`${at}/`);
    // Of two mounts at one place, the later hides the earlier.
    if (holds && at.length >= (found?.at.length ?? 0)) found = { at, type, readOnly: options.split(",")[0] === "ro" };
  }
  return found;
}

/** Open files of a process without disks, and the most that one disk usually adds. */
const FILES_OF_PROCESS = 64;
const FILES_PER_DISK = 16;
/** If the limit allows fewer disks than this, the check warns. */
const FEW_DISKS = 100;

/** The limit of open files is high enough. There is no row if the limit cannot be read. */
export function checkLimits(machine: Machine): Finding[] {
  const limit = /^Max open files\s+(\S+)/m.exec(machine.readText("/proc/self/limits") ?? "")?.[1];
  const row = limit === undefined ? undefined : openFilesRow(limit, "open files");
  return row === undefined ? [] : [row];
}

/** The row for a limit of open files: a number, `unlimited` or `infinity`; undefined for anything else. */
export function openFilesRow(limit: string, check: string): Finding | undefined {
  if (limit === "unlimited" || limit === "infinity") return { check, standing: "ok", detail: "not limited" };
  if (!/^\d+$/.test(limit)) return undefined;
  const disks = Math.max(0, Math.floor((Number(limit) - FILES_OF_PROCESS) / FILES_PER_DISK));
  const detail = `at most ${limit}, enough for about ${disks} disks`;
  if (disks >= FEW_DISKS) return { check, standing: "ok", detail };
  return { check, standing: "warn", detail, fix: "LimitNOFILE=65536 in the service's unit, or ulimit -n 65536" };
}
