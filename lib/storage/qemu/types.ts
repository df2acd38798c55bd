/**
 * Disks that QEMU's storage daemon (qemu-storage-daemon) opens and exports: what they are opened with, and what is known
 * of them beyond a {@linkcode Disk}.
 */

import type {
  CacheMode,
  ChangedNodes,
  DaemonImage,
  Disk,
  DiskDaemon,
  DiskFile,
  DiskOwner,
  TopChange,
} from "../disk.ts";
import { XenblkError } from "../../errors.ts";
import type { BlockGraph } from "./graph.ts";

/** How a disk is to be opened by a daemon. */
export interface QemuRequest {
  /** What the daemon opens. */
  readonly graph: BlockGraph;
  /** The image that the graph is of. Absent: the disk is opened to be flushed only. */
  readonly image?: DaemonImage;
  /** Exported for reading only; as the graph has it. */
  readonly readOnly: boolean;
  /** As the graph has it. Default: `writeback`. */
  readonly cache?: CacheMode;
  /** For messages, with its noun: `image qcow2:/path`. */
  readonly name: string;
  /** Whose disk it is. */
  readonly owner: DiskOwner;
  /** See {@linkcode DiskRequest}. */
  readonly signal?: AbortSignal;
  /** Kept with the disk as long as it is open, in whichever daemon, and whichever process of ours watches it. */
  readonly tag?: string;
}

/** Whose daemon is wanted, and of which kind. */
export interface DaemonOwner extends DiskOwner {
  /** See DiskPlan. */
  readonly fragile: boolean;
}

/** What a daemon has lost cannot be brought back: no other attempt is made. */
export class LostForGoodError extends XenblkError {}

/** The run directory of daemons has no room, or cannot be written to: nothing is wrong with the disk. */
export class RunDirectoryError extends XenblkError {}

/** Why a disk cannot go on by itself. */
export interface DiskLoss {
  /** For people, with the daemon's exit status or signal and its last words: no final period. */
  readonly reason: string;
  /**
   * Writes that were answered and not flushed may be lost: the daemon died. False: only the connection to it ended, it
   * closed its images before it ended, or the disk is read-only.
   */
  readonly writesLost: boolean;
}

/** What a disk is to be opened as instead. */
export type ChangedImage = Required<Pick<QemuRequest, "graph" | "image" | "name">>;

/**
 * A disk that a daemon serves. Disposing it removes it from its daemon, and ends a daemon that has no other disk. What a
 * daemon of it lost, and nobody has seen to, is told to the one who opens the disk next.
 */
export interface DaemonDisk extends Omit<Disk, "daemon"> {
  readonly daemon: DiskDaemon;
  /** The change of it from the image that it has on top to another one. */
  changeTo(from: DaemonImage | undefined, image: ChangedImage, nodes: ChangedNodes): TopChange;
  /**
   * Resolves, never rejects, when the disk was lost. Every operation then waits until {@linkcode fail} or
   * {@linkcode recover} is called. After a recovery it is a new promise.
   */
  readonly lost: Promise<DiskLoss>;
  /**
   * Set if the disk's earlier daemon died while no process of ours watched it, after the disk had been written to: why
   * writes that were answered may be lost. The disk must then not be served as if nothing had happened.
   */
  readonly lostBefore?: string;
  /** The tag of the request that opened the disk first: an earlier process's, if this one has taken the disk over. */
  readonly tag?: string | undefined;
  /** What {@linkcode lostBefore} speaks of was written again. Rejects with {@linkcode XenblkError}. */
  settle(): Promise<void>;
  /** Disposes it. Nothing that a daemon of it may have lost matters any more: it was flushed before, or reported. */
  closeSettled(): Promise<void>;
  /** After a loss: every operation in flight, and every later one, completes with -EIO. */
  fail(): void;
  /**
   * After a loss: opens the same image again, in another daemon if the one it had is dead, and carries out again what was
   * in flight. If the dead one may have lost answered writes, `replay` is awaited before that, with the socket of the new
   * export, to which it may connect meanwhile. Rejects with {@linkcode XenblkError}, with {@linkcode LostForGoodError} if
   * the image's file was replaced meanwhile, or as `replay` does; then the operations go on waiting.
   */
  recover(replay: (socket: string) => Promise<void>): Promise<void>;
}

/** A disk of a device that is gone. A daemon that died may have lost writes of it, or one that lives has not flushed it. */
export interface OrphanedDisk {
  /** For messages, with its noun. */
  readonly name: string;
  readonly owner: DiskOwner;
  readonly reason: string;
  /** As in {@linkcode QemuRequest}. */
  readonly tag?: string;
  /** A daemon that lives has it open. */
  readonly served: boolean;
  /** Opens it. Absent: how it was opened was not recorded. */
  readonly request?: QemuRequest;
}

/**
 * The storage daemons of this process's guests. Disposing it disconnects from them; the disks are disposed before. A
 * daemon with a disk that was not disposed goes on, and the next process finds it.
 */
export interface ImageDaemons extends AsyncDisposable {
  /**
   * Opens a disk: in the guest's daemon, which is started if there is none. A disk that an earlier process left open in a
   * daemon is taken over as it is. Rejects with {@linkcode XenblkError} that names the image, the node and a remedy;
   * nothing then stays open.
   */
  open(request: QemuRequest): Promise<DaemonDisk>;
  /**
   * Has the daemon running that the owner's disk would be opened in, able to reach the disk's files. Disposing the result
   * ends it, unless it has a disk by then; what disks leave meanwhile is cleared away then. Rejects with
   * {@linkcode XenblkError}.
   */
  prepare(owner: DiskOwner, files: readonly DiskFile[]): Promise<AsyncDisposable>;
  /**
   * The disks of devices that are gone which may have writes that are not in their images. From now on no other device can
   * have their images before they were opened and disposed, or forgotten. `isGone` judges a device by its label.
   */
  orphans(isGone: (device: string) => boolean): Promise<readonly OrphanedDisk[]>;
  /**
   * Removes the disk of a device that is served otherwise by now from the daemon that still has it. Nothing of it is to be
   * written. Rejects with {@linkcode XenblkError}.
   */
  discard(owner: DiskOwner): Promise<void>;
  /** Whatever was lost of that disk matters no more. Rejects with {@linkcode XenblkError}. */
  forget(owner: DiskOwner): Promise<void>;
  /**
   * Removes disks of devices that are gone, and ends daemons that have no other: what is left of guests that were
   * destroyed while no process ran; but not {@linkcode orphans}. Resolves with a line about each for the log.
   */
  sweep(isGone: (device: string) => boolean): Promise<string[]>;
}
