/**
 * Merges of snapshots as jobs. Whether one is done is decided by the note beside the newest overlay, which leads to the
 * image below once that has everything (storage/image/overlay_note.ts): whatever dies after that, and whatever its daemon
 * says.
 */

import { backingOf, directoryOf, fileOf, readNote } from "../storage/image/overlay_note.ts";
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
    if (error === undefined) return true;
    const { base, overlay } = Object(details) as Partial<CommitDetails>;
    if (base === undefined || overlay === undefined) return false;
    const note = await readNote(overlay).catch(() => undefined);
    if (note === undefined || note.base === fileOf(base)) return note !== undefined;
    // One that was in the middle is given up once the overlay on it names the image below.
    return note.into === fileOf(base) && await names(`${directoryOf(overlay)}/${note.overlay}`, base);
  },
  end: () => Promise.resolve(undefined),
};

async function names(overlay: string, base: string): Promise<boolean> {
  const backing = await backingOf(overlay).catch(() => undefined);
  return backing === base || backing === fileOf(base);
}
