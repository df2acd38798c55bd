/**
 * Merges overlays of a disk into the image below them, while its guest uses the disk: QEMU copies what they hold, and what
 * the guest writes meanwhile, until both are the same; then the guest's writes go to that image.
 *
 * Until then the overlays are right, and the image below is not: it has a part of what they hold, which they cover. The
 * moment in which that changes is the rename of one note (overlay_note.ts). It happens while the daemon has the guest's
 * requests wait, with the image below complete and flushed, so that before and after it are both right. The job waits in
 * that state (`pending`, qapi/job.json) until it is told to finalize.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { ChangedNodes, DaemonMonitor, TopChange } from "../disk.ts";
import {
  directoryOf,
  fileOf,
  type OverlayNote,
  readNote,
  realImagePath,
  turnNote,
  turnNoteBack,
  writeNote,
} from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";
import { commitJob, findJob, type QemuJob } from "./commit_job.ts";
import { checkNotViewed } from "./instant.ts";
import type { Execute } from "./removal.ts";
import { chainBelow, type ChainLink, linkNamed } from "./overlay_chain.ts";
import { QmpError } from "./qmp.ts";
import type { SnapshotDisk } from "./overlay_create.ts";

/** How often the job is looked at. */
const LOOK_MS = 100;
const SHORT_LOOK_MS = 5;
/**
 * How long the last part may take, in which the daemon has to catch up with the guest: then the job is cancelled, because a
 * guest that writes faster than the storage of the image below would keep it for ever.
 */
const CATCH_UP_MS = 30_000;

/** How overlays are merged. */
export interface CommitOptions {
  /** The oldest snapshot that is given up. Absent: the newest one. */
  readonly snapshot?: string;
  /** Most bytes per second. Absent: as fast as it can. */
  readonly bytesPerSecond?: number;
  /** Aborting it ends the merge; the overlays stay. */
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
  /** Called before each step, with its name; for tests. */
  readonly at?: (step: CommitStep) => Promise<void> | void;
}

/** The steps of a merge, in order. */
export const COMMIT_STEPS = ["copy", "catch-up", "begin", "note", "record", "finalize", "end", "remove"] as const;

/** One of {@linkcode COMMIT_STEPS}. */
export type CommitStep = typeof COMMIT_STEPS[number];

/** What was merged. */
export interface Committed {
  /** The image that the guest writes to now, as the node `params` names it. */
  readonly image: string;
  /** Files that are gone: their names lead to `image`. */
  readonly removed: readonly string[];
  /** How long the guest's requests waited, at most. */
  readonly pauseMs: number;
}

/**
 * Prepares to merge all overlays from the newest to that of a snapshot: the job has to be begun, then followed. Rejects with
 * {@linkcode XenblkError} if there is nothing to merge.
 */
export async function planMerge({ daemon, name }: SnapshotDisk, options: CommitOptions): Promise<Merge> {
  const disk = { daemon, name };
  return new Merge(disk, await linksToMerge(disk, options.snapshot), options);
}

/** The links from the newest to the one that is named. */
async function linksToMerge({ daemon, name }: SnapshotDisk, snapshot: string | undefined): Promise<ChainLink[]> {
  const { image } = daemon;
  const links = image === undefined ? [] : await chainBelow(await realImagePath(image.target));
  if (links.length === 0) {
    throw new XenblkError(`Cannot merge snapshots of ${name}: it has none`, {
      kind: "not-found",
      remedy: "see `xenblk snapshot list`; overlays that something else made are merged with `qemu-img commit`",
    });
  }
  const last = snapshot === undefined ? links[0]! : linkNamed(links, snapshot, name);
  return links.slice(0, links.indexOf(last) + 1);
}

/** One merge. */
class Merge {
  readonly #disk: SnapshotDisk;
  readonly #links: readonly ChainLink[];
  readonly #options: CommitOptions;
  readonly #job: string;

  /** The links are those from the newest on. */
  constructor(disk: SnapshotDisk, links: readonly ChainLink[], options: CommitOptions) {
    this.#disk = disk;
    this.#links = links;
    this.#options = options;
    this.#job = commitJob(disk.daemon.prefix);
  }

  /** The path of the image that the overlays are merged into. */
  get base(): string {
    return this.#link.base;
  }

  /** Starts the job {@linkcode commitJob}. */
  async begin({ execute, allow }: DaemonMonitor): Promise<void> {
    const { layers, top, prefix } = this.#disk.daemon;
    const { bytesPerSecond } = this.#options;
    const below = layers[this.base];
    if (below === undefined) throw this.#error(`its storage daemon has not opened ${this.base}`);
    await checkNotViewed(execute, prefix, `Cannot merge snapshots of ${this.#disk.name}`);
    await this.#at("copy");
    await allow([{ path: this.base, writable: true }]);
    const notes = await this.#markNotes();
    try {
      await execute("block-commit", {
        "job-id": this.#job,
        device: top,
        "base-node": below.image,
        "auto-finalize": false,
        "auto-dismiss": false,
        ...(bytesPerSecond === undefined ? {} : { speed: bytesPerSecond }),
      });
    } catch (error) {
      // It has written nothing.
      if (error instanceof QmpError) { for (const [directory, note] of notes) await writeNote(directory, note); }
      throw error;
    }
  }

  /** The images below will show no snapshot any more, however the merge ends. The notes as they were. */
  async #markNotes(): Promise<(readonly [string, OverlayNote])[]> {
    const notes: (readonly [string, OverlayNote])[] = [];
    for (const { base, overlay } of this.#links) {
      const note = await readNote(base);
      if (note?.overlay !== fileOf(overlay)) throw this.#error("they are other ones by now");
      notes.push([directoryOf(base), note]);
    }
    const merging = new Date().toISOString();
    for (const [directory, note] of notes) await writeNote(directory, { ...note, merging });
    return notes;
  }

  /** Sees to it that the job ends well. Rejects with {@linkcode XenblkError} if it does not: it is cancelled then. */
  async follow(): Promise<Committed> {
    let pauseMs: number;
    try {
      while ((await this.#look()).status !== "ready") await sleep(LOOK_MS);
      await this.#at("catch-up");
      pauseMs = await this.#finish();
    } catch (error) {
      const cancel = async ({ execute }: DaemonMonitor): Promise<unknown> =>
        await execute("job-cancel", { id: this.#job });
      await this.#disk.daemon.run(cancel).catch(() => {}); // it has ended, perhaps with its daemon
      throw error;
    }
    await this.#at("remove");
    const { base, baseFormat } = this.#link;
    return { image: imageText({ format: baseFormat, target: base }), removed: await this.#removeFiles(), pauseMs };
  }

  get #link(): ChainLink {
    return this.#links.at(-1)!;
  }

  async #at(step: CommitStep): Promise<void> {
    await this.#options.at?.(step);
  }

  /** Rejects if it has failed. */
  async #look(): Promise<QemuJob> {
    const { signal, onProgress } = this.#options;
    signal?.throwIfAborted();
    const found = await this.#disk.daemon.run(({ execute }) => findJob(execute, this.#job));
    const job = this.#checked(found);
    onProgress?.(job["current-progress"], job["total-progress"]);
    return job;
  }

  /** How long the guest's requests waited. */
  async #finish(): Promise<number> {
    const { daemon } = this.#disk;
    const found = await daemon.find({ format: this.#link.baseFormat, target: this.base });
    const nodes = this.#nodesAfter();
    const change = found.change(nodes);
    await daemon.run(async ({ execute }) => await execute("job-complete", { id: this.#job }));
    const deadline = performance.now() + CATCH_UP_MS;
    // Nothing else can be done to the disk from here to the end: its requests wait soon.
    return await daemon.run(async (monitor) => {
      await this.#caughtUp(monitor.execute, deadline);
      const startMs = performance.now();
      await this.#change(monitor, change);
      const pauseMs = performance.now() - startMs;
      await this.#removeNodes(monitor, nodes.removed);
      return pauseMs;
    });
  }

  /** The overlays' files; their notes lead on to the image. */
  async #removeFiles(): Promise<string[]> {
    const removed: string[] = [];
    for (const { overlay } of this.#links) {
      await lookWithin(overlay, () => Deno.remove(overlay)).then(() => removed.push(overlay), () => {});
    }
    return removed;
  }

  /** Its requests wait once it is pending. */
  async #caughtUp(execute: Execute, deadline: number): Promise<void> {
    for (;; await sleep(SHORT_LOOK_MS)) {
      const { status } = this.#checked(await findJob(execute, this.#job));
      if (status === "pending") return;
      if (performance.now() < deadline) continue;
      throw this.#error(`the guest has written faster than it could be merged for ${CATCH_UP_MS / 1000} s`);
    }
  }

  async #change(monitor: DaemonMonitor, change: TopChange): Promise<void> {
    const { base } = this;
    const { overlay } = this.#links[0]!;
    await monitor.changeTops([change], {
      prepare: async () => await this.#at("begin"),
      note: async () => {
        await this.#at("note");
        await turnNote(base, overlay);
        await this.#at("record");
      },
      carryOut: async () => {
        await this.#at("finalize");
        const refusal = await this.#finalize(monitor.execute);
        await this.#at("end");
        return refusal;
      },
      undo: async () => await turnNoteBack(base, overlay),
    });
  }

  /** The reason if the overlays go on being written. */
  async #finalize(execute: Execute): Promise<Error | undefined> {
    await execute("job-finalize", { id: this.#job });
    for (const deadline = performance.now() + CATCH_UP_MS;; await sleep(SHORT_LOOK_MS)) {
      const job = await findJob(execute, this.#job);
      if (job === undefined) throw this.#error("its job is gone");
      if (job.status === "concluded") return job.error === undefined ? undefined : this.#error(job.error);
      if (performance.now() > deadline) throw this.#error(`its job has not ended for ${CATCH_UP_MS / 1000} s`);
    }
  }

  #nodesAfter(): ChangedNodes {
    const { layers } = this.#disk.daemon;
    const gone = new Set(this.#links.map(({ overlay }) => overlay));
    const removed = [...gone].flatMap((path) => {
      const nodes = layers[path];
      return nodes === undefined ? [] : [nodes.image, nodes.file];
    });
    const rest = Object.entries(layers).filter(([path]) => !gone.has(path));
    return { top: layers[this.base]!.image, layers: Object.fromEntries(rest), added: [], removed };
  }

  async #removeNodes({ execute, disallow }: DaemonMonitor, names: readonly string[]): Promise<void> {
    for (const name of names) {
      await execute("blockdev-del", { "node-name": name }).catch(() => {}); // they end with the daemon
    }
    await disallow(this.#links.map(({ overlay }) => overlay));
  }

  #checked(job: QemuJob | undefined): QemuJob {
    if (job === undefined) throw this.#error("its job is gone: its storage daemon has died, or somebody cancelled it");
    if (job.status === "concluded") throw this.#error(job.error ?? "it was cancelled");
    return job;
  }

  #error(why: string): XenblkError {
    const { name } = this.#disk;
    return new XenblkError(`Cannot merge snapshots of ${name}: ${errorText(why)}`, {
      remedy:
        "the disk is as it was: see `xenblk snapshot list`, and repeat it; nobody can go back to what was to be merged",
    });
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
