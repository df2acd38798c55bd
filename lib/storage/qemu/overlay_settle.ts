/**
 * The last steps of a deletion (overlay_delete.ts): the image that was merged goes, and the notes of its neighbours say that
 * they are neighbours. Whatever dies before they are done leaves a disk that is opened rightly; the next work on the disk's
 * snapshots takes these steps.
 */

import { XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { ChainDaemon, DaemonMonitor } from "../disk.ts";
import { isFile } from "../image/formats.ts";
import {
  backingPath,
  directoryOf,
  fileOf,
  readNote,
  realImagePath,
  syncPath,
  writeNote,
} from "../image/overlay_note.ts";
import { chainBelow, type NotedLink } from "./overlay_chain.ts";

/** Three images by their paths: the base has all that `merged` held, and the overlay names the base. */
export interface MergedImage {
  readonly base: string;
  readonly merged: string;
  readonly overlay: string;
}

/** Takes the last steps of deletions that were not completed. Rejects with {@linkcode XenblkError} if it cannot. */
export async function settleDeletions(daemon: ChainDaemon): Promise<void> {
  const { image, layers } = daemon;
  if (image === undefined || !isFile(image)) return;
  const top = await realImagePath(image.target);
  const unsettled = async (): Promise<NotedLink[]> =>
    (await chainBelow(top, image.format)).filter(({ merged, into, base }) =>
      merged !== undefined || (into !== undefined && layers[base] === undefined)
    );
  if ((await unsettled()).length === 0) return;
  await daemon.run(async (monitor) => {
    for (const { base, merged, into, overlay } of await unsettled()) {
      if (merged !== undefined) await settleDeletion({ base, merged, overlay });
      else await settleHeader(monitor, daemon, { base: into!, merged: base, overlay });
    }
  });
}

/**
 * Removes what was merged, and has its name lead to the base. Each step leaves notes that lead to the right images. To be
 * called in a turn of the disk's daemon.
 */
export async function settleDeletion({ base, merged, overlay }: MergedImage): Promise<void> {
  const directory = directoryOf(base);
  const [note, upper] = [await readNote(base), await readNote(merged)];
  if (note?.overlay !== fileOf(merged) || upper?.overlay !== fileOf(overlay)) {
    throw new XenblkError(`Cannot remove ${merged}, which was merged: the notes beside it are other ones by now`, {
      remedy: "see `xenblk snapshot list`",
    });
  }
  await lookWithin(merged, () => Deno.remove(merged)).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  const { into: _into, ...kept } = upper;
  await writeNote(directory, { ...kept, base: note.base, baseFormat: note.baseFormat });
  const { merging: _merging, ...turned } = note;
  await writeNote(directory, turned, note.overlay);
}

/**
 * Whether the deletion that was to merge the image, and was begun, is done, as far as its notes and headers say. If only its
 * last step is left, which nobody can tell by the chain of the disk, that is taken.
 */
export async function finishDeletion(base: string, merged: string): Promise<boolean> {
  const directory = directoryOf(merged);
  const [note, upper] = [await readNote(base), await readNote(merged)];
  if (note === undefined || upper?.into !== fileOf(base)) return false;
  if (note.overlay === fileOf(merged)) return await backingPath(`${directory}/${upper.overlay}`) === base;
  const { into: _into, merging: _merging, ...kept } = upper;
  await writeNote(
    directory,
    { ...kept, base: note.base, baseFormat: note.baseFormat, overlay: upper.base },
    upper.base,
  );
  return true;
}

/** A daemon died while it was to write the header, and the next one has passed the image over since. */
async function settleHeader(
  { execute, allow }: DaemonMonitor,
  { top, layers }: ChainDaemon,
  images: MergedImage,
): Promise<void> {
  const { base, overlay } = images;
  await allow([{ path: overlay, writable: true }]);
  await execute("change-backing-file", {
    device: top,
    "image-node-name": layers[overlay]!.image,
    "backing-file": fileOf(base),
  });
  await syncPath(overlay);
  await settleDeletion(images);
}
