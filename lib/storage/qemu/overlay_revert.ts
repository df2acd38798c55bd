/**
 * Gives up what was written since a snapshot, of a disk that nobody uses: its base is the disk again. One rename of a note
 * does it (overlay_note.ts); the overlays that nothing leads to any more are removed after that.
 */

import { XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import {
  directoryOf,
  fileOf,
  noSnapshot,
  type OverlayNote,
  readNote,
  realImagePath,
  turnNote,
} from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";
import { chainBelow, linkNamed, MOST_OVERLAYS } from "./overlay_chain.ts";

/** What of a snapshot its note alone says. */
interface Link {
  readonly snapshot: string;
  readonly base: string;
  readonly baseFormat: string;
  readonly overlay: string;
  readonly merging?: string;
  /** See NotedLink. */
  readonly merged?: string;
}

/** What is to be given up. */
export interface Reversal {
  /** The image that will be the disk's again, and how a toolstack names it. */
  readonly base: string;
  readonly image: string;
  /** Files that are given up, the newest first. */
  readonly overlays: readonly string[];
}

/**
 * What going back to a snapshot means. `path` is any image of the chain; without a name it is the newest snapshot. Rejects
 * with {@linkcode XenblkError} (`not-found`) if there is none. Nothing is changed.
 */
export async function planReversal(path: string, snapshot: string | undefined): Promise<Reversal> {
  const real = await realImagePath(path);
  const above = await linksAbove(real);
  const top = above[0]?.overlay ?? real;
  // What was written since may be lost already.
  const isThere = await lookWithin(top, () => Deno.stat(top).then(() => true, () => false));
  const links: readonly Link[] = isThere ? await chainBelow(top) : above;
  if (links.length === 0) {
    throw new XenblkError(`Cannot go back to a snapshot of ${path}: it has none`, {
      kind: "not-found",
      remedy: "name the image that the snapshot was taken of, or the one that is written since",
    });
  }
  const to = snapshot === undefined ? links[0]! : linkNamed(links, snapshot, path);
  if (to.merging !== undefined) throw noSnapshot(path, to.snapshot);
  const given = links.slice(0, links.indexOf(to) + 1);
  const overlays = given.flatMap(({ overlay, merged }) => merged === undefined ? [overlay] : [overlay, merged]);
  return { base: to.base, image: imageText({ format: to.baseFormat, target: to.base }), overlays };
}

/** Carries it out. Rejects with {@linkcode XenblkError}; then nothing has changed. Nobody may use an image of the chain. */
export async function revert({ base, overlays }: Reversal): Promise<void> {
  await turnNote(base, overlays[0]!);
  for (const overlay of overlays) {
    await lookWithin(overlay, () => Deno.remove(overlay)).catch(() => {}); // its note leads to the base
  }
}

/** By the notes above an image, the newest first. */
async function linksAbove(image: string): Promise<Link[]> {
  const links: Link[] = [];
  for (let base = image; links.length <= MOST_OVERLAYS;) {
    const note: OverlayNote | undefined = await readNote(base);
    if (note?.base !== fileOf(base)) break;
    const overlay = `${directoryOf(base)}/${note.overlay}`;
    const { snapshot, baseFormat, merging } = note;
    links.unshift({ snapshot, base, baseFormat, overlay, ...(merging === undefined ? {} : { merging }) });
    base = overlay;
  }
  return links;
}
