/**
 * Merges of snapshots as jobs. Whether one is done is decided by the note beside the newest overlay, which leads to the
 * image below once that has everything (storage/image/overlay_note.ts): whatever dies after that, and whatever its daemon
 * says.
 */

import { lookWithin } from "../path_lookup.ts";
import { backingPath, directoryOf, fileOf, readNote, removeDraft } from "../storage/image/overlay_note.ts";
import { MOST_OVERLAYS } from "../storage/qemu/overlay_chain.ts";
import { finishDeletion } from "../storage/qemu/overlay_settle.ts";
import type { JobKind } from "./job.ts";

/** What is kept of a merge: absolute paths. */
export interface CommitDetails {
  /** The image that the overlays are merged into. */
  readonly base: string;
  /** The newest of them. */
  readonly overlay: string;
}

/** What a process does with its merges: what one has done is done before it is over. */
export const commitKind: JobKind = {
  async succeeded({ error, details }): Promise<boolean> {
    const { base, overlay } = Object(details) as Partial<CommitDetails>;
    if (base === undefined || overlay === undefined) return error === undefined;
    if (error !== undefined) await Promise.all([base, overlay].map(removeDraft)); // nobody writes these notes any more
    const note = await readNote(overlay).catch(() => undefined);
    const leadsToBase = note?.base === fileOf(base);
    if (leadsToBase) await removeMerged(base, overlay);
    if (error === undefined || leadsToBase) return true;
    return await finishDeletion(base, overlay).catch(() => false);
  },
  end: () => Promise.resolve(undefined),
};

/** Whoever merged the overlays died before they were removed. They are removed from the oldest on, so these name each other. */
async function removeMerged(base: string, newest: string): Promise<void> {
  const left: string[] = [];
  const isAbove = (path: string): boolean =>
    directoryOf(path) === directoryOf(base) && fileOf(path) !== fileOf(base) && left.length < MOST_OVERLAYS;
  for (let path: string | undefined = newest; path !== undefined && isAbove(path);) {
    left.push(path);
    path = await backingPath(path).catch(() => undefined); // it is gone
  }
  for (const path of left.toReversed()) await lookWithin(path, () => Deno.remove(path)).catch(() => {}); // it is gone
}
