/**
 * Merges overlays of a disk into the image below them, while its guest uses the disk: QEMU copies what they hold, and what
 * the guest writes meanwhile, until both are the same; then the guest's writes go to that image.
 *
 * Until then the overlays are right, and the image below is not: it has a part of what they hold, which they cover. The
 * moment in which that changes is the rename of one note (overlay_note.ts). It happens while the daemon has the guest's
 * requests wait, with the image below complete and flushed, so that before and after it are both right. The job waits in
 * that state (`pending`, qapi/job.json) until it is told to finalize.
 */

import { XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { ChangedNodes, DaemonMonitor, TopChange } from "../disk.ts";
import { realImagePath, turnNote, turnNoteBack } from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";
import { type Committed, MergeJob, type MergeOptions } from "./merge_job.ts";
import { chainBelow, type ChainLink, linkNamed } from "./overlay_chain.ts";
import type { SnapshotDisk } from "./overlay_create.ts";
import { settleDeletions } from "./overlay_settle.ts";

/** How overlays are merged. */
export interface CommitOptions extends MergeOptions {
  /** The oldest snapshot that is given up. Absent: the newest one. */
  readonly snapshot?: string;
  /** Called before each step, with its name; for tests. */
  readonly at?: (step: CommitStep) => Promise<void> | void;
}

/** The steps of a merge, in order. */
export const COMMIT_STEPS = ["copy", "catch-up", "begin", "note", "record", "finalize", "end", "remove"] as const;

/** One of {@linkcode COMMIT_STEPS}. */
export type CommitStep = typeof COMMIT_STEPS[number];

/**
 * Prepares to merge all overlays from the newest to that of a snapshot: the job has to be begun, then followed. Rejects with
 * {@linkcode XenblkError} if there is nothing to merge.
 */
export async function planMerge({ daemon, name }: SnapshotDisk, options: CommitOptions): Promise<Merge> {
  const disk = { daemon, name };
  await settleDeletions(daemon);
  return new Merge(disk, await linksToMerge(disk, options.snapshot), options);
}

/** The links from the newest to the one that is named. */
async function linksToMerge({ daemon, name }: SnapshotDisk, snapshot: string | undefined): Promise<ChainLink[]> {
  const { image } = daemon;
  const links = image === undefined ? [] : await chainBelow(await realImagePath(image.target), image.format);
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
  readonly #job: MergeJob;

  /** The links are those from the newest on. */
  constructor(disk: SnapshotDisk, links: readonly ChainLink[], options: CommitOptions) {
    this.#disk = disk;
    this.#links = links;
    this.#options = options;
    this.#job = new MergeJob(disk, options);
  }

  /** The path of the image that the overlays are merged into. */
  get base(): string {
    return this.#link.base;
  }

  /** The path of the newest of them. */
  get overlay(): string {
    return this.#links[0]!.overlay;
  }

  /** Starts the job. */
  async begin(monitor: DaemonMonitor): Promise<void> {
    const { layers, top } = this.#disk.daemon;
    const below = layers[this.base];
    if (below === undefined) throw this.#job.error(`its storage daemon has not opened ${this.base}`);
    await this.#at("copy");
    await this.#job.checkFiles([this.base], this.#overlays);
    await monitor.allow([{ path: this.base, writable: true }]);
    await this.#job.begin(monitor, this.#links, { device: top, "base-node": below.image });
  }

  /** Sees to it that the job ends well. Rejects with {@linkcode XenblkError} if it does not: it is cancelled then. */
  async follow(): Promise<Committed> {
    let pauseMs: number;
    try {
      await this.#job.until("ready");
      await this.#at("catch-up");
      pauseMs = await this.#finish();
    } catch (error) {
      await this.#job.cancel();
      throw error;
    }
    await this.#at("remove");
    const { base, baseFormat } = this.#link;
    return { image: imageText({ format: baseFormat, target: base }), removed: await this.#removeFiles(), pauseMs };
  }

  /** The nodes went with the change. */
  tidy(): Promise<void> {
    return Promise.resolve();
  }

  get #link(): ChainLink {
    return this.#links.at(-1)!;
  }

  get #overlays(): string[] {
    return this.#links.map(({ overlay }) => overlay);
  }

  async #at(step: CommitStep): Promise<void> {
    await this.#options.at?.(step);
  }

  /** How long the guest's requests waited. */
  async #finish(): Promise<number> {
    const { daemon } = this.#disk;
    const found = await daemon.find({ format: this.#link.baseFormat, target: this.base });
    const nodes = this.#nodesAfter();
    const change = found.change(nodes);
    await daemon.run(async ({ execute }) => await execute("job-complete", { id: this.#job.id }));
    // Nothing else can be done to the disk from here to the end: its requests wait soon.
    return await daemon.run(async (monitor) => {
      // A guest that writes faster than the storage of the image below would keep it for ever.
      await this.#job.untilPending(monitor.execute, "the guest has written faster than it could be merged");
      const startMs = performance.now();
      await this.#change(monitor, change);
      const pauseMs = performance.now() - startMs;
      await this.#removeNodes(monitor, nodes.removed);
      return pauseMs;
    });
  }

  /** The overlays' files, the oldest first; their notes lead on to the image. */
  async #removeFiles(): Promise<string[]> {
    const removed: string[] = [];
    for (const { overlay } of this.#links.toReversed()) {
      await lookWithin(overlay, () => Deno.remove(overlay)).then(() => removed.unshift(overlay), () => {});
    }
    return removed;
  }

  async #change(monitor: DaemonMonitor, change: TopChange): Promise<void> {
    const { base } = this;
    const { overlay } = this.#links[0]!;
    await monitor.changeTops([change], {
      prepare: async () => {
        await this.#at("begin");
        await this.#job.checkFiles([this.base], this.#overlays);
      },
      note: async () => {
        await this.#at("note");
        await turnNote(base, overlay);
        await this.#at("record");
      },
      carryOut: async () => {
        await this.#at("finalize");
        const refusal = await this.#job.finalize(monitor.execute);
        await this.#at("end");
        return refusal;
      },
      undo: async () => await turnNoteBack(base, overlay),
    });
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
}
