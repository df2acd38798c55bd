/**
 * Overlays that are being made: the file `BASE.xenblk-snapshot.making` names one from before it exists until the note beside
 * the base says that it counts. So what a process that was killed meanwhile leaves is known, and is removed by the next one
 * that has the base open: a directory has no overlay that nobody knows of.
 */

import { lookWithin } from "../../path_lookup.ts";
import { backingOf, directoryOf, fileOf, notePath, readNote, removeDraft } from "./overlay_note.ts";

/** Says that an empty overlay is going to be made beside the base, with that path. */
export async function announceOverlay(base: string, overlay: string): Promise<void> {
  const path = announcementOf(base);
  await lookWithin(path, () => Deno.writeTextFile(path, fileOf(overlay)));
}

/**
 * Removes an overlay of the image that was announced and does not count: it is empty. Whoever calls has the image open for
 * writing, so nobody else takes a snapshot of it. To be called also once the overlay counts. What is left of a note that was
 * being written goes, too.
 */
export async function removeUnfinished(base: string): Promise<void> {
  const path = announcementOf(base);
  const name = await lookWithin(path, () => Deno.readTextFile(path)).catch(() => "");
  const overlay = `${directoryOf(base)}/${name}`;
  if (/^[^/]+$/.test(name) && await isUnused(base, overlay)) await lookWithin(overlay, () => Deno.remove(overlay));
  await removeDraft(base);
  await lookWithin(path, () => Deno.remove(path)).catch(() => {}); // mostly there is none
}

function announcementOf(base: string): string {
  return `${notePath(base)}.making`;
}

/** No note speaks of the overlay, and it is one of the base. */
async function isUnused(base: string, overlay: string): Promise<boolean> {
  if ((await readNote(base))?.overlay === fileOf(overlay) || await readNote(overlay) !== undefined) return false;
  const backing = await backingOf(overlay).catch(() => undefined);
  return backing === fileOf(base);
}
