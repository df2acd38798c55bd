/**
 * Gives up one snapshot of a disk and keeps the others, while its guest uses the disk: QEMU copies what the overlay that was
 * put on then holds into the image below it, and the overlay above names that image. For the newest snapshot this is a
 * merge of overlay_commit.ts.
 *
 * Once all is copied and flushed, the chain is right with the overlay that was merged and without it. So the header of the
 * overlay above, which QEMU rewrites, may be the old or the new one, whatever dies: a note allows both before the daemon is
 * told to go on (`into`, overlay_note.ts). QEMU itself would rewrite that header while a part of the image below is still in
 * its memory; reopening the image before has it flushed.
 */

import { errorText } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { ChangedNodes, DaemonImage, DaemonMonitor, TopChange } from "../disk.ts";
import {
  directoryOf,
  fileOf,
  type OverlayNote,
  readNote,
  realImagePath,
  syncPath,
  writeNote,
} from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";
import { flushNode } from "./flush_node.ts";
import { type Committed, MergeJob, type MergeOptions } from "./merge_job.ts";
import { chainBelow, type ChainLink, linkNamed } from "./overlay_chain.ts";
import { planMerge } from "./overlay_commit.ts";
import type { SnapshotDisk } from "./overlay_create.ts";
import { settleDeletion, settleDeletions } from "./overlay_settle.ts";

/** How long what was copied, or the header, may take to be durable; the guest does not wait for that. */
const SYNC_MS = 600_000;

/** How a snapshot is given up. */
export interface DeleteOptions extends MergeOptions {
  /** Its name. Absent: the oldest. */
  readonly snapshot?: string;
  /** Called before each step, with its name; for tests. */
  readonly at?: (step: DeleteStep) => Promise<void> | void;
}

/** The steps for a snapshot that is not the newest, in order. */
export const DELETE_STEPS = [
  "copy",
  "flush",
  "begin",
  "note",
  "record",
  "finalize",
  "end",
  "settle",
  "remove",
] as const;

/** One of {@linkcode DELETE_STEPS}. */
export type DeleteStep = typeof DELETE_STEPS[number];

/** A merge that was prepared. */
export interface PlannedMerge {
  /** The path of the image that is merged into. */
  readonly base: string;
  /** The path of the newest overlay that is merged: the note beside it leads to the base once that has everything. */
  readonly overlay: string;
  /** Starts the job. */
  begin(monitor: DaemonMonitor): Promise<void>;
  /** Sees to it that the job ends well. Rejects with {@linkcode XenblkError} if it does not: it is cancelled then. */
  follow(): Promise<Committed>;
  /** Removes what the daemon keeps as long as it knows the job. To be called once the job is dismissed; never rejects. */
  tidy(): Promise<void>;
}

/**
 * Prepares to give one snapshot up: the job has to be begun, then followed, and dismissed by somebody else once it has
 * concluded. Rejects with {@linkcode XenblkError} if there is no such snapshot.
 */
export async function planDeletion({ daemon, name }: SnapshotDisk, options: DeleteOptions): Promise<PlannedMerge> {
  const { at: _at, ...merge } = options;
  const disk = { daemon, name };
  await settleDeletions(daemon);
  const { image } = daemon;
  const links = image === undefined ? [] : await chainBelow(await realImagePath(image.target), image.format);
  const link = options.snapshot === undefined && links.length > 0
    ? links.at(-1)!
    : linkNamed(links, options.snapshot ?? "", name);
  const above = links[links.indexOf(link) - 1];
  if (image === undefined || above === undefined) return await planMerge(disk, { ...merge, snapshot: link.snapshot });
  return new Deletion({ disk, image, link, above: above.overlay }, options);
}

/** What a deletion is about. */
interface Subject {
  readonly disk: SnapshotDisk;
  readonly image: DaemonImage;
  readonly link: ChainLink;
  /** The path of the overlay on the one that is merged. */
  readonly above: string;
}

/** One deletion. */
class Deletion implements PlannedMerge {
  readonly #subject: Subject;
  readonly #options: DeleteOptions;
  readonly #job: MergeJob;
  /** The nodes that the daemon keeps as long as it knows the job. */
  #kept: readonly string[] = [];

  constructor(subject: Subject, options: DeleteOptions) {
    this.#subject = subject;
    this.#options = options;
    this.#job = new MergeJob(subject.disk, options);
  }

  get base(): string {
    return this.#subject.link.base;
  }

  get overlay(): string {
    return this.#subject.link.overlay;
  }

  async begin(monitor: DaemonMonitor): Promise<void> {
    const { disk: { daemon: { layers, top } }, link, above } = this.#subject;
    const [base, overlay] = [layers[this.base], layers[link.overlay]];
    if (base === undefined || overlay === undefined) {
      throw this.#job.error(`its storage daemon has not opened ${link.overlay} over ${this.base}`);
    }
    await this.#at("copy");
    await this.#job.checkFiles([this.base, above], [this.overlay]);
    await monitor.allow([{ path: this.base, writable: true }, { path: above, writable: true }]);
    await this.#job.begin(monitor, [link], {
      device: top,
      "top-node": overlay.image,
      "base-node": base.image,
      "backing-file": fileOf(this.base),
    });
  }

  async follow(): Promise<Committed> {
    const { image, link: { overlay }, above } = this.#subject;
    let pauseMs: number;
    try {
      await this.#job.until("pending");
      // So that there is little left to write while the guest, or other work on its disks, waits for that.
      for (const path of [this.base, above]) await lookWithin(path, () => syncPath(path), SYNC_MS);
      await this.#at("flush");
      await this.#job.checkFiles([this.base, above], [this.overlay]);
      pauseMs = await this.#finish();
    } catch (error) {
      await this.#job.cancel();
      throw error;
    }
    await this.#at("remove");
    return { image: imageText(image), removed: [overlay], pauseMs };
  }

  async #at(step: DeleteStep): Promise<void> {
    await this.#options.at?.(step);
  }

  /** How long the guest's requests waited, at most. */
  async #finish(): Promise<number> {
    const { disk: { daemon }, image, link: { overlay }, above } = this.#subject;
    // Another object, so that what was planned for the chain with the overlay is refused from then on.
    const found = await daemon.find({ ...image }, overlay);
    const nodes = this.#nodesAfter();
    this.#kept = nodes.removed;
    const change = found.change(nodes);
    return await daemon.run(async (monitor) => {
      await this.#job.present(monitor.execute);
      const startMs = performance.now();
      const base = { path: this.base, nodes: daemon.layers[this.base]! };
      await flushNode(monitor.execute, found, base).catch((error) => {
        throw this.#job.error(`${this.base} cannot be flushed: ${errorText(error)}`);
      });
      await this.#change(monitor, change);
      const pauseMs = performance.now() - startMs;
      await this.#at("settle");
      await settleDeletion({ base: this.base, merged: overlay, overlay: above });
      return pauseMs;
    });
  }

  async #change(monitor: DaemonMonitor, change: TopChange): Promise<void> {
    const { link: { overlay }, above } = this.#subject;
    const directory = directoryOf(overlay);
    let before: OverlayNote | undefined;
    await monitor.changeTops([change], {
      prepare: async () => await this.#at("begin"),
      note: async () => {
        await this.#at("note");
        before = await readNote(overlay);
        if (before?.overlay !== fileOf(above)) throw this.#job.error("its images are other ones by now");
        await writeNote(directory, { ...before, into: fileOf(this.base) });
        await this.#at("record");
      },
      carryOut: async () => {
        await this.#at("finalize");
        const failure = await this.#job.finalize(monitor.execute);
        // The daemon may have passed the overlay over, and not have written that down.
        if (failure !== undefined) throw failure;
        await lookWithin(above, () => syncPath(above), SYNC_MS);
        await this.#at("end");
        return undefined;
      },
      undo: async () => {
        if (before !== undefined) await writeNote(directory, before);
      },
    });
  }

  #nodesAfter(): ChangedNodes {
    const { disk: { daemon: { layers, top } }, link: { overlay } } = this.#subject;
    const { [overlay]: gone, ...rest } = layers;
    return { top, layers: rest, added: [], removed: gone === undefined ? [] : [gone.image, gone.file] };
  }

  /** The nodes of the overlay. Where they stay, they end with the daemon. */
  async tidy(): Promise<void> {
    const { disk: { daemon }, link: { overlay } } = this.#subject;
    await daemon.run(async ({ execute, disallow }) => {
      for (const name of this.#kept) await execute("blockdev-del", { "node-name": name });
      await disallow([overlay]);
    }).catch(() => {});
  }
}
