/**
 * The run directory of one storage daemon, and the record in it by which a later process finds the daemon and its disks
 * again. Nothing that the daemon itself can write to is believed: its sockets have a folder of their own.
 */

import { errorText } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { DiskOwner, LayerNodes } from "../disk.ts";
import type { BlockGraph } from "./graph.ts";
import type { ProcessIdentity } from "./process.ts";
import type { DaemonUser } from "./user.ts";
import { socketPathBelow } from "../../socket_path.ts";
import { RunDirectoryError } from "./types.ts";

/** A file of a disk, as it was when the daemon opened it. */
export interface RecordedFile {
  readonly path: string;
  readonly writable: boolean;
  /** Absent: it could not be looked at, or is a socket. */
  readonly device?: number;
  readonly inode?: number;
}

/** The names of a disk's nodes in a daemon where its images have changed since it was opened. */
export interface LiveNames {
  /** The node that is exported. */
  readonly top: string;
  /** The node of each image and that of its file, by the image's path. */
  readonly layers: Readonly<Record<string, LayerNodes>>;
}

/** What a disk is opened as, if not as its record says: a change of its images was not finished. */
export interface OtherImages {
  readonly plan: string;
  /** Those that it writes to. */
  readonly files: readonly RecordedFile[];
}

/** One disk in a daemon. */
export interface DiskRecord {
  /** For messages: `image qcow2:/path`. */
  readonly name: string;
  /** Identifies what was opened, and how: see {@linkcode DiskPlan}. */
  readonly plan: string;
  /** Whatever was answered is on the disk: it is read-only, or each write is durable. */
  readonly durable: boolean;
  readonly exportId: string;
  /** In the order in which they were added. */
  readonly nodes: readonly string[];
  readonly objects: readonly string[];
  readonly files: readonly RecordedFile[];
  /** The export was added. False: the process that opened the disk ended before that. */
  readonly exported: boolean;
  /** See QemuRequest. */
  readonly tag?: string;
  /** What was opened, to open it again if its guest is gone. Absent: it is durable. */
  readonly graph?: BlockGraph;
  /** Absent: the names are those of the plan. */
  readonly live?: LiveNames;
  /** Its images are being changed; what is in the daemon is not known to another process. Absent: they are not. */
  readonly other?: OtherImages;
}

/** A disk of a daemon that died while no process of ours ran: what was not flushed may be lost. */
export interface LostDisk {
  readonly name?: string;
  /** As in {@linkcode DiskRecord}. */
  readonly plan: string;
  readonly tag?: string;
  readonly graph?: BlockGraph;
  readonly reason: string;
  /** Those that it wrote to. Absent: none, or an earlier version of xenblk wrote the record. */
  readonly files?: readonly RecordedFile[];
  /** As in {@linkcode DiskRecord}. */
  readonly other?: OtherImages;
}

/** A daemon and its disks. */
export interface DaemonRecord {
  /** Of this format. */
  readonly version: 1;
  readonly guest: number;
  readonly uuid?: string;
  readonly process: ProcessIdentity;
  /** QEMU's version. */
  readonly qemu: string;
  /** The daemon has a root directory of its own, which holds its disks' files only. */
  readonly rooted: boolean;
  /** By the label of their device. */
  readonly disks: Readonly<Record<string, DiskRecord>>;
  /** By the label of their device: disks of an earlier daemon that nobody has opened again yet. */
  readonly lost: Readonly<Record<string, LostDisk>>;
}

/** The file that is at the path now. */
export async function recordedFile({ path, writable }: Pick<RecordedFile, "path" | "writable">): Promise<RecordedFile> {
  try {
    const { dev, ino, isSocket } = await lookWithin(path, () => Deno.stat(path));
    // A server makes its socket anew whenever it starts.
    return { path, writable, ...(ino === null || isSocket === true ? {} : { device: dev, inode: ino }) };
  } catch {
    return { path, writable }; // the daemon reports it, if that matters
  }
}

/** Whether both are the same file, as far as that is known. */
export function isSameFile(one: RecordedFile, other: RecordedFile): boolean {
  return one.device === other.device && one.inode === other.inode;
}

/** The record with that disk, in place of one that the device had. */
export function withDisk(record: DaemonRecord, device: string, disk: DiskRecord): DaemonRecord {
  return { ...record, disks: { ...record.disks, [device]: disk } };
}

/** The name of a daemon's folder: of the guest, or of one of its devices. */
export function directoryName(guest: number, device?: string): string {
  return device === undefined ? `${guest}` : `${guest}.${fileName(device)}`;
}

/** The guest of a folder with that name; undefined if it is no daemon's. */
export function guestOfDirectory(name: string): number | undefined {
  const guest = /^(0|[1-9]\d{0,4})(?:\.[A-Za-z0-9_.-]+)?$/.exec(name)?.[1];
  return guest === undefined ? undefined : Number(guest);
}

/** A device's label as a part of a file's name or of a QEMU id. */
export function fileName(device: string): string {
  return device.replaceAll("/", "-");
}

/** One daemon's folder. */
export class RunDirectory {
  /** Of the folder: `5`, or `5.vbd3-5-51712`. */
  readonly name: string;
  readonly path: string;
  /** All that the daemon can write to. */
  readonly sockets: string;
  /** QMP. */
  readonly monitor: string;
  /** The daemon holds a lock on it while it runs. */
  readonly pidFile: string;
  /** What the daemon writes to its standard error. */
  readonly errors: string;
  /** Empty; in the daemon's own view of the file systems it is the daemon's root. */
  readonly root: string;

  /** `parent` is the folder of all daemons. */
  constructor(parent: string, name: string) {
    this.name = name;
    this.path = `${parent}/${name}`;
    this.sockets = `${this.path}/io`;
    this.monitor = `${this.sockets}/qmp`;
    this.pidFile = `${this.sockets}/pid`;
    this.errors = `${this.path}/stderr.log`;
    this.root = `${this.path}/root`;
  }

  /** The export's socket of a device. Throws {@linkcode XenblkError} if the path is too long for a socket. */
  socket(device: string): string {
    return socketPathBelow(`${this.sockets}/${fileName(device)}`);
  }

  /**
   * Makes it, empty of what an earlier daemon left, but for its record; the sockets' folder is the user's. Rejects with
   * {@linkcode XenblkError}.
   */
  async prepare(user?: DaemonUser): Promise<void> {
    try {
      for (const path of [this.sockets, this.root]) {
        await removeIfThere(path);
        await Deno.mkdir(path, { recursive: true, mode: 0o700 });
      }
      if (user !== undefined) await Deno.chown(this.sockets, user.uid, user.gid);
      await Deno.writeTextFile(this.errors, "", { mode: 0o600 });
    } catch (error) {
      throw this.#cannotKeep(error);
    }
  }

  /** Removes it. No error if there is none. */
  async remove(): Promise<void> {
    await removeIfThere(this.path);
  }

  /** The record; undefined if there is none, or none of this format. */
  async read(): Promise<DaemonRecord | undefined> {
    try {
      const record = JSON.parse(await Deno.readTextFile(`${this.path}/record.json`)) as DaemonRecord;
      return record.version === 1 ? record : undefined;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return undefined;
      throw this.#cannotKeep(error);
    }
  }

  /** Replaces the record as a whole. Rejects with {@linkcode XenblkError}; then the earlier one stays. */
  async write(record: DaemonRecord): Promise<void> {
    const path = `${this.path}/record.json`;
    try {
      await Deno.writeTextFile(`${path}.new`, `${JSON.stringify(record)}\n`, { mode: 0o600 });
      await Deno.rename(`${path}.new`, path);
    } catch (error) {
      throw this.#cannotKeep(error);
    }
  }

  /** Rejects with {@linkcode XenblkError} if nothing can be written there. */
  async checkRoom(): Promise<void> {
    const path = `${this.path}/room`;
    try {
      await Deno.writeFile(path, new Uint8Array(1));
      await Deno.remove(path);
    } catch (error) {
      throw this.#cannotKeep(error);
    }
  }

  /** The process that the daemon itself has named; for a daemon that has no record. */
  async statedPid(): Promise<number | undefined> {
    try {
      const pid = Number.parseInt(await Deno.readTextFile(this.pidFile));
      return pid > 1 ? pid : undefined;
    } catch {
      return undefined;
    }
  }

  #cannotKeep(error: unknown): RunDirectoryError {
    return new RunDirectoryError(`Cannot keep the storage daemon's files in ${this.path}: ${errorText(error)}`, {
      cause: error,
      remedy: "free space there and make it writable, or name another directory with XENBLK_JOURNAL_DIR",
    });
  }
}

/** Removes a file, or a folder with all that is in it. */
export async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** A device has a disk in the daemon, or had one that was lost. */
export function mentions({ disks, lost }: DaemonRecord, device: string): boolean {
  return disks[device] !== undefined || lost[device] !== undefined;
}

/** Whether the record is of an earlier guest with the same domid. */
export function isOtherGuest(record: DaemonRecord, { guest, uuid }: DiskOwner): boolean {
  return record.guest !== guest || (uuid !== undefined && record.uuid !== undefined && uuid !== record.uuid);
}
