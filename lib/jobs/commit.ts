/**
 * Merges of snapshots as jobs. Whether one is done is decided by the note beside the newest overlay, which leads to the
 * image below once that has everything (storage/image/overlay_note.ts): whatever dies after that, and whatever its daemon
 * says.
 */

import { fileOf, readNote } from "../storage/image/overlay_note.ts";
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
    return note?.base === fileOf(base);
  },
  end: () => Promise.resolve(undefined),
};
