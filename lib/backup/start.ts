/**
 * Starts a backup of a live disk: finds the backup that an incremental one can be made on, makes the target and the
 * scratch file, and has the disk's storage daemon begin at one instant.
 */

import { XenblkError } from "../errors.ts";
import type { JobReport } from "../jobs/job.ts";
import type { Jobs } from "../jobs/jobs.ts";
import { type Disk, type DiskDaemon, filesOf } from "../storage/disk.ts";
import { lookWithin } from "../path_lookup.ts";
import { type BlockGraph, graphOf } from "../storage/qemu/graph.ts";
import { checkVersion } from "../storage/qemu/instant.ts";
import { makeByQemuImg, qemuImgError } from "../storage/qemu/qemu_img.ts";
import { QmpError } from "../storage/qemu/qmp.ts";
import { SECTOR_BYTES } from "../units.ts";
import { findBase, topNode } from "./changes.ts";
import type { BackupFile } from "./file.ts";
import type { BackupDetails } from "./kind.ts";
import { changesText, newBackupId } from "./names.ts";
import { beginJob, closeParts, openGraphs, partsOf } from "./steps.ts";
import {
  type BackupFormat,
  type BackupTarget,
  checkFree,
  findTarget,
  makeTarget,
  partialOf,
  targetTree,
} from "./target.ts";

/** How long the scratch file may take to be made: its metadata only. */
const MAKE_MS = 60_000;

/** A backup to be made. */
export interface BackupOrder {
  /** The disk's label. */
  readonly device: string;
  readonly disk: Disk;
  /** A new file, by its absolute path; a block device; or an `nbd://` URI. A file's format may come before it: `raw:`. */
  readonly target: string;
  /** Absent: as its name says; of a device or a server, raw. */
  readonly format?: BackupFormat;
  /** Only what has changed since the last backup, if that is known. */
  readonly incremental?: boolean;
  /** Absent, or 0: as fast as it goes. */
  readonly bytesPerSecond?: number;
  /** Where the scratch file is made. Absent: in the directory of the disk's image. */
  readonly scratch?: string;
  /** Rejects with {@linkcode XenblkError} if somebody uses the block device of that path. */
  readonly checkDevice: (path: string) => Promise<void>;
}

/** Starts it, and resolves once it has begun. Rejects with {@linkcode XenblkError}; then nothing of it is left. */
export async function startBackup(jobs: Jobs, order: BackupOrder): Promise<JobReport> {
  const { device, disk } = order;
  const { daemon } = disk;
  if (daemon === undefined) throw noDaemon(disk);
  const target = await findTarget(order.target, order.format);
  const sizeBytes = disk.properties.sectors * SECTOR_BYTES;
  const id = newBackupId();
  const { base, note, changes, since } = await plan(order, daemon, target, id);
  const scratch = `${scratchFolder(order, target)}/.xenblk-scratch-${id}.qcow2`;
  const graphs = {
    target: graphOf(targetTree(target, sizeBytes, base !== undefined), graphOptions(daemon, "to", target.name)),
    scratch: scratchGraph(daemon, scratch),
  };
  const details: BackupDetails = {
    target: target.kind === "file" ? { path: target.name, partial: partialOf(target.name), format: target.format } : {},
    scratch,
    parts: partsOf(graphs),
    ...(changes === undefined ? {} : { changes }),
  };
  const owner = await imageOwner(disk);
  if (target.kind === "device") await order.checkDevice(target.name);
  await checkFree(target);
  return await jobs.start({
    kind: "backup",
    device,
    daemon,
    target: target.name,
    note,
    details,
    prepare: async () => {
      await makeTarget(target, sizeBytes, id, base);
      if (target.kind === "file") await giveTo(partialOf(target.name), owner);
    },
    begin: async (monitor, name) => {
      try {
        await makeScratch(scratch, sizeBytes);
        await giveTo(scratch, owner);
        await openGraphs(monitor, graphs);
        // The daemon has it open: it goes when that closes it, whoever dies.
        await Deno.remove(scratch);
        await beginJob(monitor, daemon, {
          graphs,
          name,
          bytesPerSecond: order.bytesPerSecond ?? 0,
          ...(changes === undefined ? {} : { changes }),
          ...(since === undefined ? {} : { since }),
        });
      } catch (error) {
        await closeParts(monitor.execute, details.parts).catch(() => {}); // its error is the same
        throw error instanceof QmpError ? cannotBackUp(target, error) : error;
      }
    },
  });
}

/** What QEMU says of a raw node with a size. */
const TOO_SMALL = /has to be smaller or equal to the\s+actual size/;

function cannotBackUp({ name }: BackupTarget, error: QmpError): XenblkError {
  const isSmall = TOO_SMALL.test(error.description);
  const [why, remedy] = isSmall ? ["it is smaller than the disk", "name one that is as large or larger"] : [];
  return new XenblkError(`Cannot back up to ${name}: ${why ?? error.description}`, {
    cause: error,
    ...(remedy === undefined ? {} : { remedy }),
  });
}

/** What is backed up, and what a later one can be based on. */
interface Plan {
  readonly base?: BackupFile;
  readonly note: string;
  readonly changes?: string;
  readonly since?: string;
}

async function plan(order: BackupOrder, daemon: DiskDaemon, target: BackupTarget, id: string): Promise<Plan> {
  const { incremental = false } = order;
  const isChain = target.kind === "file" && target.format === "qcow2";
  if (incremental && !isChain) {
    throw new XenblkError(`Cannot back up to ${target.name}: an incremental backup is a qcow2 file`, {
      kind: "usage",
      remedy: "name a file, or make a full backup",
    });
  }
  const node = await daemon.run((monitor) => {
    checkVersion(monitor, `Cannot back up to ${target.name}`);
    return topNode(monitor, daemon.top);
  });
  const changes = isChain && node.keepsChanges ? changesText({ id, path: target.name }) : undefined;
  const start = changes === undefined ? {} : { changes };
  if (!incremental) {
    const lack = node.keepsChanges ? "to be followed by an incremental one, it has to be a qcow2 file" : RAW_LACK;
    return { note: changes === undefined ? `a full backup; ${lack}` : "a full backup", ...start };
  }
  if (!node.keepsChanges) return { note: `a full backup, not an incremental one: ${RAW_LACK}` };
  const found = await findBase(node);
  if ("lack" in found) return { note: `a full backup, not an incremental one: ${found.lack}`, ...start };
  return { base: found.file, since: found.bitmap, note: `based on ${found.file.path}`, ...start };
}

const RAW_LACK = "only a qcow2 image can hold a record of changes";

function noDaemon({ description }: Disk): XenblkError {
  return new XenblkError(`Cannot back up ${description}: no storage daemon serves it`, {
    remedy:
      "attach it with --engine qemu, which allows full backups, or convert it to qcow2 (`xenblk image convert`), " +
      "which allows incremental ones, too; or copy a snapshot of the volume that it is on",
  });
}

function graphOptions({ prefix }: DiskDaemon, part: string, label: string): Parameters<typeof graphOf>[1] {
  return { prefix: `${prefix}b-${part}`, label, readOnly: false, aio: "threads" };
}

function scratchGraph(daemon: DiskDaemon, path: string): BlockGraph {
  const tree = { driver: "qcow2", file: { driver: "file", filename: path } };
  return graphOf(tree, { ...graphOptions(daemon, "old", path), cache: "unsafe" });
}

/** Throws {@linkcode XenblkError} if there is none that is known to have room. */
function scratchFolder({ scratch, disk }: BackupOrder, target: BackupTarget): string {
  if (scratch !== undefined) return scratch;
  const paths = [...filesOf(disk).filter(({ writable }) => writable).map(({ path }) => path)];
  if (target.kind === "file") paths.push(target.name);
  const folder = paths.map((path) => path.slice(0, path.lastIndexOf("/"))).find((each) =>
    !/^\/(dev|run)(\/|$)/.test(each)
  );
  if (folder !== undefined) return folder;
  throw new XenblkError("Cannot back up the disk: there is no directory for what its guest overwrites meanwhile", {
    kind: "usage",
    remedy: "name one with --scratch, on storage that is as fast as the disk's",
  });
}

/** Who has the image, and what others may do with it. */
type Owner = Pick<Deno.FileInfo, "uid" | "gid" | "mode">;

/** Undefined: it is no local file. */
async function imageOwner(disk: Disk): Promise<Owner | undefined> {
  const path = filesOf(disk).find(({ writable }) => writable)?.path;
  if (path === undefined) return undefined;
  const info = await lookWithin(path, () => Deno.stat(path));
  return info.isFile ? info : undefined;
}

/** A copy of a disk's data is for those who may read the disk's image, and for its daemon's user. */
async function giveTo(path: string, owner: Owner | undefined): Promise<void> {
  await Deno.chmod(path, (owner?.mode ?? 0o600) & 0o666);
  if (owner !== undefined && Deno.uid() === 0) await Deno.chown(path, owner.uid, owner.gid);
}

async function makeScratch(path: string, sizeBytes: number): Promise<void> {
  const what = `Cannot make the scratch file ${path}`;
  const made = await makeByQemuImg(["create", "-q", "-f", "qcow2", "--", path, `${sizeBytes}`], {
    what,
    timeoutMs: MAKE_MS,
  });
  if (made.status !== 0) throw qemuImgError(what, made);
}
