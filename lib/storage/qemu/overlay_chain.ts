/**
 * The chain of snapshots below a disk's image: the overlays that were put on it, as their notes say, with what each file
 * occupies. Nothing is opened for writing, and nothing is asked of a daemon.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { DaemonImage } from "../disk.ts";
import { canonicalFormat, isFile } from "../image/formats.ts";
import { backingPath, directoryOf, fileOf, readNote, realImagePath } from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";

/** Overlays beyond this number are reported: each makes reads slower, and the chain longer to open. */
export const LONG_CHAIN = 8;
/** More are refused. QEMU opens 200 layers at most, and each costs it memory. */
export const MOST_OVERLAYS = 32;
const OVERLAY_FORMAT = "qcow2";

/** One snapshot: its base holds what the disk held then, and its overlay what was written since. */
export interface ChainLink {
  /** The snapshot's name. */
  readonly snapshot: string;
  /** When it was taken, in ISO 8601. */
  readonly created: string;
  /** Absolute paths. */
  readonly base: string;
  readonly overlay: string;
  readonly baseFormat: string;
  /** What the overlay occupies, in bytes. */
  readonly overlayBytes: number;
  /** When a merge of the overlay began that was not completed: nobody can go back to the snapshot. Absent: none has. */
  readonly merging?: string;
}

/** The same, with what a deletion that was not completed has left. */
export interface NotedLink extends ChainLink {
  /** The path of an image that was between both: the base has all that it holds, and the overlay names the base. */
  readonly merged?: string;
  /** The path of the image below the base, which has all that the base holds; the overlay still names the base. */
  readonly into?: string;
}

/** The snapshots of a disk, the newest first. */
export interface SnapshotChain {
  /** The image that the guest writes to, as the node `params` names it. */
  readonly image: string;
  readonly snapshots: readonly ChainLink[];
}

/** The snapshots of a disk with that image. Rejects with {@linkcode XenblkError}. */
export async function describeChain(image: DaemonImage | undefined): Promise<SnapshotChain> {
  if (image === undefined || !isFile(image)) return { image: "", snapshots: [] };
  const links = await chainBelow(await realImagePath(image.target), image.format);
  return { image: imageText(image), snapshots: links.map(({ merged: _merged, into: _into, ...link }) => link) };
}

/**
 * The snapshots that lead to an image, the newest first. Rejects with {@linkcode XenblkError} if they cannot be read. All
 * overlays are qcow2: what is at the begin of an image of another format is its guest's.
 */
export async function chainBelow(image: string, format = OVERLAY_FORMAT): Promise<NotedLink[]> {
  const links: NotedLink[] = [];
  for (let [overlay, found] = [image, format]; isOverlay(found) && links.length <= MOST_OVERLAYS;) {
    const base = await backingPath(overlay).catch((error) => unreadable(overlay, error));
    if (base === undefined) break;
    const note = await noteOf(base, overlay);
    if (note === undefined) break;
    links.push({ ...note, base, overlay, overlayBytes: await occupied(overlay) });
    [overlay, found] = [base, note.baseFormat];
  }
  return links;
}

function isOverlay(format: string): boolean {
  return canonicalFormat(format) === OVERLAY_FORMAT;
}

/** What the notes say of the base and the overlay that names it; undefined: it is not an overlay that a snapshot made. */
async function noteOf(
  base: string,
  overlay: string,
): Promise<Omit<NotedLink, "base" | "overlay" | "overlayBytes"> | undefined> {
  const note = await readNote(base);
  if (note?.base !== fileOf(base)) return undefined;
  const directory = directoryOf(base);
  const { baseFormat } = note;
  if (note.overlay === fileOf(overlay)) {
    const { snapshot, created, merging, into } = note;
    const below = into === undefined ? {} : { into: `${directory}/${into}` };
    return { snapshot, created, baseFormat, ...(merging === undefined ? {} : { merging }), ...below };
  }
  const merged = `${directory}/${note.overlay}`;
  const upper = await readNote(merged);
  if (upper?.base !== note.overlay || upper.overlay !== fileOf(overlay) || upper.into !== note.base) return undefined;
  const { snapshot, created, merging } = upper;
  return { snapshot, created, baseFormat, ...(merging === undefined ? {} : { merging }), merged };
}

/** The snapshot with that name. Throws {@linkcode XenblkError} (`not-found`). */
export function linkNamed<L extends Pick<ChainLink, "snapshot">>(
  links: readonly L[],
  snapshot: string,
  disk: string,
): L {
  const found = links.find((link) => link.snapshot === snapshot);
  if (found !== undefined) return found;
  const names = links.map((link) => link.snapshot);
  throw new XenblkError(`Cannot find snapshot ${JSON.stringify(snapshot)} of ${disk}`, {
    kind: "not-found",
    remedy: names.length === 0 ? "take one with `xenblk snapshot create`" : `its snapshots are ${names.join(", ")}`,
  });
}

function unreadable(path: string, error: unknown): never {
  throw new XenblkError(`Cannot look for snapshots of ${path}: ${errorText(error)}`, {
    cause: error,
    remedy: "put the file back, or make it readable",
  });
}

async function occupied(path: string): Promise<number> {
  const { blocks, size } = await lookWithin(path, () => Deno.stat(path));
  return blocks === null ? size : blocks * 512;
}
