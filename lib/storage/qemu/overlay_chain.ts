/**
 * The chain of snapshots below a disk's image: the overlays that were put on it, as their notes say, with what each file
 * occupies. Nothing is opened for writing, and nothing is asked of a daemon.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { DaemonImage } from "../disk.ts";
import { isFile } from "../image/formats.ts";
import { backingOf, directoryOf, fileOf, readNote, realImagePath } from "../image/overlay_note.ts";
import { imageText } from "../image/spec.ts";

/** Overlays beyond this number are reported: each makes reads slower, and the chain longer to open. */
export const LONG_CHAIN = 8;
/** More are refused. QEMU opens 200 layers at most, and each costs it memory. */
export const MOST_OVERLAYS = 32;

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
  return { image: imageText(image), snapshots: await chainBelow(await realImagePath(image.target)) };
}

/** The snapshots that lead to an image, the newest first. Rejects with {@linkcode XenblkError} if they cannot be read. */
export async function chainBelow(image: string): Promise<ChainLink[]> {
  const links: ChainLink[] = [];
  for (let overlay = image; links.length <= MOST_OVERLAYS;) {
    const backing = await backingOf(overlay).catch((error) => unreadable(overlay, error));
    if (backing === undefined) break;
    const base = backing.startsWith("/") ? backing : `${directoryOf(overlay)}/${backing}`;
    const note = await readNote(base);
    if (note?.base !== fileOf(base) || note.overlay !== fileOf(overlay)) break;
    const { snapshot, created, baseFormat } = note;
    links.push({ snapshot, created, base, overlay, baseFormat, overlayBytes: await occupied(overlay) });
    overlay = base;
  }
  return links;
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
