/**
 * The daemon's job that merges overlays into an image below them, from its begin to its end: a part of `overlay_commit.ts`
 * and `overlay_delete.ts`, which say what becomes of the images.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { DaemonMonitor, DiskDaemon } from "../disk.ts";
import { directoryOf, fileOf, type OverlayNote, readNote, writeNote } from "../image/overlay_note.ts";
import { commitJob, findJob, type QemuJob } from "./commit_job.ts";
import { explainQmpError } from "./explain.ts";
import { checkNotViewed } from "./instant.ts";
import type { ChainLink } from "./overlay_chain.ts";
import { QmpError, type QmpObject } from "./qmp.ts";
import type { Execute } from "./removal.ts";

/** How often the job is looked at. */
const LOOK_MS = 100;
const SHORT_LOOK_MS = 5;
/** How long as much may be left to be merged: a guest that writes faster would keep the job for ever. */
const PATIENCE_MS = 600_000;
/** How long its last steps may take, while the guest's requests wait. */
const END_MS = 30_000;

/** The disk whose overlays are merged. */
export interface MergedDisk {
  readonly daemon: Pick<DiskDaemon, "isReplaced" | "prefix" | "run">;
  /** For messages: `xvda of web (domain 5)`. */
  readonly name: string;
}

/** What every merge can be told. */
export interface MergeOptions {
  /** Most bytes per second. Absent: as fast as it can. */
  readonly bytesPerSecond?: number;
  /** How long it may go on without coming closer to its end. Default ten minutes. */
  readonly patienceMs?: number;
  /** Aborting it ends the merge; the overlays stay. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** What was merged. */
export interface Committed {
  /** The image that the guest writes to now, as the node `params` names it. */
  readonly image: string;
  /** Files that are gone: their names lead to the image that has what they held. */
  readonly removed: readonly string[];
  /** How long the guest's requests waited, at most. */
  readonly pauseMs: number;
}

/** The job {@linkcode commitJob} of one merge. */
export class MergeJob {
  readonly id: string;
  readonly #disk: MergedDisk;
  readonly #options: MergeOptions;

  constructor(disk: MergedDisk, options: MergeOptions) {
    this.#disk = disk;
    this.#options = options;
    this.id = commitJob(disk.daemon.prefix);
  }

  /** Starts it, with the further arguments of block-commit. The notes of the links say from then on that they are merged. */
  async begin({ execute }: DaemonMonitor, links: readonly ChainLink[], more: QmpObject): Promise<void> {
    const { bytesPerSecond } = this.#options;
    const { daemon: { prefix }, name } = this.#disk;
    await checkNotViewed(execute, prefix, `Cannot merge snapshots of ${name}`);
    const notes = await this.#markNotes(links);
    try {
      await execute("block-commit", {
        "job-id": this.id,
        "auto-finalize": false,
        "auto-dismiss": false,
        ...(bytesPerSecond === undefined ? {} : { speed: bytesPerSecond }),
        ...more,
      });
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
      for (const [directory, note] of notes) await writeNote(directory, note); // it has written nothing
      throw explainQmpError(`snapshots of ${name} into ${links.at(-1)!.base}`, error);
    }
  }

  /** Waits until it has that status. Rejects with {@linkcode XenblkError} if it ends before. */
  async until(status: string): Promise<void> {
    const { patienceMs = PATIENCE_MS } = this.#options;
    let least = Infinity;
    for (let lessMs = performance.now();; await sleep(LOOK_MS)) {
      const job = await this.#look();
      if (job.status === status) return;
      const left = job["total-progress"] - job["current-progress"];
      if (left < least) [least, lessMs] = [left, performance.now()];
      if (performance.now() - lessMs <= patienceMs) continue;
      throw this.error(`the guest has written faster than it was merged for ${patienceMs / 1000} s (see --rate)`);
    }
  }

  /** Waits for `pending`, in a turn of the daemon, as long as the guest may have to wait. */
  async untilPending(execute: Execute, tooLate: string): Promise<void> {
    for (const deadline = performance.now() + END_MS;; await sleep(SHORT_LOOK_MS)) {
      if ((await this.present(execute)).status === "pending") return;
      if (performance.now() > deadline) throw this.error(`${tooLate} for ${END_MS / 1000} s`);
    }
  }

  /** The job, in a turn of the daemon. Rejects with {@linkcode XenblkError} if it is over. */
  async present(execute: Execute): Promise<QemuJob> {
    const job = await findJob(execute, this.id);
    if (job === undefined) throw this.error("its job is over: see `xenblk job list`");
    if (job.status === "concluded") throw this.error(job.error ?? "it was cancelled");
    return job;
  }

  /** Has it do what remains once all is copied; the reason if it could not. */
  async finalize(execute: Execute): Promise<XenblkError | undefined> {
    await execute("job-finalize", { id: this.id });
    for (const deadline = performance.now() + END_MS;; await sleep(SHORT_LOOK_MS)) {
      const job = await findJob(execute, this.id);
      if (job === undefined) throw this.error("its job is gone");
      if (job.status === "concluded") return job.error === undefined ? undefined : this.error(job.error);
      if (performance.now() > deadline) throw this.error(`its job has not ended for ${END_MS / 1000} s`);
    }
  }

  /**
   * Rejects with {@linkcode XenblkError} if another file has taken the place of one of these. QEMU opens the path anew to write
   * to what it has only read: it would merge into the other file. What is merged is removed by its path; if nothing is there
   * any more, what the daemon has open is all there is of it. And whoever opens the disk next would open the other file.
   */
  async checkFiles(written: readonly string[], merged: readonly string[]): Promise<void> {
    const { daemon, name } = this.#disk;
    for (const path of [...written, ...merged]) {
      if (!await daemon.isReplaced(path) || (merged.includes(path) && !await isThere(path))) continue;
      throw new XenblkError(`Cannot merge snapshots of ${name}: another file has taken the place of ${path}`, {
        remedy: "put the disk's own file back there, which its storage daemon still has open, and repeat this",
      });
    }
  }

  /** Ends it. Never rejects. */
  async cancel(): Promise<void> {
    const cancel = async ({ execute }: DaemonMonitor): Promise<unknown> => await execute("job-cancel", { id: this.id });
    await this.#disk.daemon.run(cancel).catch(() => {}); // it has ended, perhaps with its daemon
  }

  error(why: string): XenblkError {
    const { name } = this.#disk;
    return new XenblkError(`Cannot merge snapshots of ${name}: ${errorText(why)}`, {
      remedy:
        "the disk is as it was: see `xenblk snapshot list`, and repeat it; nobody can go back to what was to be merged",
    });
  }

  /** The images below will show no snapshot any more, however the merge ends. The notes as they were. */
  async #markNotes(links: readonly ChainLink[]): Promise<(readonly [string, OverlayNote])[]> {
    const notes: (readonly [string, OverlayNote])[] = [];
    for (const { base, overlay } of links) {
      const note = await readNote(base);
      if (note?.overlay !== fileOf(overlay)) throw this.error("they are other ones by now");
      notes.push([directoryOf(base), note]);
    }
    const merging = new Date().toISOString();
    for (const [directory, note] of notes) await writeNote(directory, { ...note, merging });
    return notes;
  }

  async #look(): Promise<QemuJob> {
    const { signal, onProgress } = this.#options;
    signal?.throwIfAborted();
    const job = await this.#disk.daemon.run(({ execute }) => this.present(execute));
    onProgress?.(job["current-progress"], job["total-progress"]);
    return job;
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function isThere(path: string): Promise<boolean> {
  return await lookWithin(path, () => Deno.stat(path)).then(
    () => true,
    (error) => !(error instanceof Deno.errors.NotFound),
  );
}
