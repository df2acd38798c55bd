/**
 * The note beside an image of which snapshots were taken: the file `IMAGE.xenblk-snapshot`, which says that all later
 * writes are in a qcow2 overlay in the same directory. Whoever opens the image for writing is led on to the overlay, so
 * the base is never written under it, whichever name a toolstack's configuration has. Once the overlay was merged or
 * discarded, the same note, renamed to lie beside the overlay, leads back to the base: a rename is atomic.
 *
 * No process keeps the note open, and none writes it in place: a crash leaves the note as it was before or after.
 */

import { errorText, XenblkError } from "../../errors.ts";
import { absolutePath, lookWithin } from "../../path_lookup.ts";
import { shellWord } from "../../shell_word.ts";
import { canonicalFormat, isFile } from "./formats.ts";
import { imageLabel, type ImageName } from "./spec.ts";

/** What a note says. Files are named without their directory. */
export interface OverlayNote {
  readonly version: 1;
  /** The name of the snapshot: what the base held when the overlay was put on it. */
  readonly snapshot: string;
  /** When, in ISO 8601. */
  readonly created: string;
  readonly base: string;
  readonly baseFormat: string;
  readonly overlay: string;
  /**
   * When a merge of the overlay into an image below began, in ISO 8601: from then on what the base shows is no snapshot,
   * even if the merge was ended. Absent: none has begun.
   */
  readonly merging?: string;
  /**
   * The image below the base has all that the base holds: the overlay may name that one in the base's place, and the base's
   * file may be gone. Absent: it has not.
   */
  readonly into?: string;
}

const SUFFIX = ".xenblk-snapshot";
/** How long it may take to write one: it is made durable, while others write to the same file system. */
const WRITE_MS = 60_000;
/** A longer chain of notes is one that goes in circles. */
const MOST_NOTES = 400;
/** qcow2 keeps the name of its backing file within the first cluster, mostly in the first pages. */
const HEADER_BYTES = 65_536;
const QCOW2_MAGIC = 0x514649fb; // "QFI\xfb"
const BACKING_AT = 8;
const BACKING_BYTES_AT = 16;
const LEAST_HEADER_BYTES = 72;

/** The path of the note beside an image. */
export function notePath(image: string): string {
  return `${image}${SUFFIX}`;
}

function draftOf(path: string): string {
  return `${path}.new`;
}

/** A path without links, also of a file that is not there any more. */
export async function realImagePath(path: string): Promise<string> {
  try {
    return await absolutePath(path);
  } catch (error) {
    if (!isNoNote(error)) throw error;
  }
  const absolute = path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  try {
    return `${await absolutePath(directoryOf(absolute))}/${fileOf(absolute)}`;
  } catch (error) {
    if (isNoNote(error)) return absolute;
    throw error;
  }
}

/** The directory of an absolute path. */
export function directoryOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

/** The last part of a path. */
export function fileOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** The note beside an image; undefined if there is none. Rejects with {@linkcode XenblkError} if it cannot be read. */
export async function readNote(image: string): Promise<OverlayNote | undefined> {
  const path = notePath(image);
  try {
    const text = await lookWithin(path, () => Deno.readTextFile(path));
    return parseNote(text) ?? bad(path, "it is damaged");
  } catch (error) {
    if (error instanceof XenblkError) throw error;
    if (error instanceof Deno.errors.NotCapable) throw notPermitted(path, error);
    return isNoNote(error) ? undefined : bad(path, errorText(error));
  }
}

/** The same for one who only reads the image: where Deno keeps it from looking, there is none. */
async function readNoteIfPermitted(image: string): Promise<OverlayNote | undefined> {
  return await readNote(image).catch((error) => {
    if (error instanceof XenblkError && error.cause instanceof Deno.errors.NotCapable) return undefined;
    throw error;
  });
}

/**
 * Writes the note beside the base, or beside that image of its directory, as a whole and durably. Rejects with
 * {@linkcode XenblkError}; then the one that was there stays.
 */
export async function writeNote(directory: string, note: OverlayNote, beside: string = note.base): Promise<void> {
  const path = notePath(`${directory}/${beside}`);
  try {
    await lookWithin(path, async () => {
      await Deno.writeTextFile(draftOf(path), `${JSON.stringify(note)}\n`);
      await syncPath(draftOf(path));
      await Deno.rename(draftOf(path), path);
      await syncPath(directory);
    }, WRITE_MS);
  } catch (error) {
    throw new XenblkError(`Cannot note the snapshot in ${path}: ${errorText(error)}`, {
      cause: error,
      remedy: "free space there and make the directory writable",
    });
  }
}

/** Removes what a process that was killed while it wrote the note beside an image has left. Never rejects. */
export async function removeDraft(image: string): Promise<void> {
  const path = draftOf(notePath(image));
  await lookWithin(path, () => Deno.remove(path)).catch(() => {}); // mostly there is none
}

/** Removes the note beside an image, durably. No error if there is none. */
export async function removeNote(image: string): Promise<void> {
  const path = notePath(image);
  await lookWithin(path, async () => {
    await Deno.remove(path).catch((error) => {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    });
    await syncPath(directoryOf(path));
  }, WRITE_MS);
}

/**
 * The overlays between the base and `overlay` count no more: from now on every name of the chain above the base leads to
 * the base. One rename in one directory, so it has happened or it has not.
 */
export async function turnNote(base: string, overlay: string): Promise<void> {
  await moveNote(base, overlay);
}

/** Takes {@linkcode turnNote} back. */
export async function turnNoteBack(base: string, overlay: string): Promise<void> {
  await moveNote(overlay, base);
}

async function moveNote(from: string, to: string): Promise<void> {
  const path = notePath(from);
  try {
    await lookWithin(path, async () => {
      await Deno.rename(path, notePath(to));
      await syncPath(directoryOf(path));
    }, WRITE_MS);
  } catch (error) {
    throw new XenblkError(`Cannot rename ${path}: ${errorText(error)}`, {
      cause: error,
      remedy: "make its directory writable",
    });
  }
}

/**
 * The image that has the content of the one that is named: itself, or where notes lead. `writes`: it is to be written; an
 * image that is only read is the snapshot, unless what was in it is in its base again. Rejects with
 * {@linkcode XenblkError} if a note leads to something that is not the overlay which it speaks of.
 */
export async function activeImage<N extends ImageName>(name: N, writes: boolean): Promise<N> {
  const format = canonicalFormat(name.format);
  if (format === undefined || !isFile({ format, target: name.target }) || name.snapshot !== undefined) return name;
  const first = await realImagePath(name.target);
  let [path, found] = [first, format];
  for (let notes = 0; notes < MOST_NOTES; notes++) {
    const note = await (writes ? readNote(path) : readNoteIfPermitted(path));
    const isBase = note?.base === fileOf(path);
    if (note === undefined || (isBase && !writes && await isThere(path))) {
      if (note?.merging !== undefined) throw noSnapshot(imageLabel(name), note.snapshot);
      return path === first ? name : { ...name, format: found, target: path };
    }
    const next = `${directoryOf(path)}/${isBase ? note.overlay : note.base}`;
    if (isBase && !await leadsOn(next, path)) await checkOverlay(path, note, imageLabel(name));
    [path, found] = [next, isBase ? "qcow2" : note.baseFormat];
  }
  throw new XenblkError(`Cannot open image ${imageLabel(name)}: the notes of its snapshots lead in circles`, {
    remedy: `look at the files ${shellWord(`${directoryOf(first)}/`)}*${SUFFIX}`,
  });
}

/** The file name of the backing image in a qcow2 header, as it is written there; undefined: none, or no qcow2 image. */
export async function backingOf(path: string): Promise<string | undefined> {
  const header = await lookWithin(path, async () => {
    using file = await Deno.open(path);
    const bytes = new Uint8Array(HEADER_BYTES);
    let length = 0;
    while (length < bytes.length) {
      const read = await file.read(bytes.subarray(length));
      if (read === null) break;
      length += read;
    }
    return bytes.subarray(0, length);
  });
  if (header.length < LEAST_HEADER_BYTES) return undefined;
  const view = new DataView(header.buffer, header.byteOffset, header.length);
  const offset = Number(view.getBigUint64(BACKING_AT));
  const length = view.getUint32(BACKING_BYTES_AT);
  if (view.getUint32(0) !== QCOW2_MAGIC || offset === 0 || offset + length > header.length) return undefined;
  return new TextDecoder().decode(header.subarray(offset, offset + length));
}

/** The path of the image that a qcow2 header names; undefined: it names none. */
export async function backingPath(path: string): Promise<string | undefined> {
  const backing = await backingOf(path);
  return backing === undefined || backing.startsWith("/") ? backing : `${directoryOf(path)}/${backing}`;
}

/** Makes what was written to a file, or to a directory's names, durable. */
export async function syncPath(path: string): Promise<void> {
  using file = await Deno.open(path, { read: true });
  await file.sync();
}

/** Whether the overlay's header names one of the images, by its path or beside itself. */
async function isOverlayOf(overlay: string, bases: readonly string[]): Promise<boolean> {
  const backing = await backingOf(overlay);
  return bases.some((base) => backing === base || backing === fileOf(base));
}

/** Whether an overlay counts no more: its content is in the image that its note leads to, or in its base. */
async function leadsOn(overlay: string, base: string): Promise<boolean> {
  const note = await readNote(overlay);
  return note !== undefined && (note.base !== fileOf(overlay) || note.into === fileOf(base));
}

async function isThere(path: string): Promise<boolean> {
  return await lookWithin(path, () => Deno.stat(path).then(() => true, () => false));
}

async function checkOverlay(base: string, note: OverlayNote, label: string): Promise<void> {
  const directory = directoryOf(base);
  const overlay = `${directory}/${note.overlay}`;
  const bases = note.into === undefined ? [base] : [base, `${directory}/${note.into}`];
  const refusal = (why: string): XenblkError =>
    new XenblkError(`Cannot open image ${label}: what was written since its snapshot is in ${overlay}, ${why}`, {
      remedy: `put that file back, or give up what is in it: \`xenblk snapshot revert ${shellWord(base)}\``,
    });
  try {
    if (!await isOverlayOf(overlay, bases)) throw refusal(`which is no qcow2 image over ${base}`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw refusal("which does not exist");
    throw error;
  }
}

/** There is none, or its name would be too long for one. A path that Deno keeps this process from resolving stays as it is. */
function isNoNote(error: unknown): boolean {
  const { NotFound, NotADirectory, NotCapable } = Deno.errors;
  if ([NotFound, NotADirectory, NotCapable].some((kind) => error instanceof kind)) return true;
  return error instanceof Error && "code" in error && error.code === "ENAMETOOLONG";
}

function parseNote(text: string): OverlayNote | undefined {
  let value: Partial<Record<keyof OverlayNote, unknown>>;
  try {
    value = Object(JSON.parse(text));
  } catch {
    return undefined;
  }
  const { version, snapshot, created, base, baseFormat, overlay, merging, into } = value;
  const isName = (name: unknown): name is string => typeof name === "string" && name !== "" && !name.includes("/");
  if (version !== 1 || typeof snapshot !== "string" || typeof created !== "string") return undefined;
  if (!isName(base) || !isName(overlay) || typeof baseFormat !== "string") return undefined;
  const merge = { ...(typeof merging === "string" && { merging }), ...(isName(into) && { into }) };
  return { version, snapshot, created, base, baseFormat, overlay, ...merge };
}

/** The images below it may have a part of what was written later. */
export function noSnapshot(image: string, snapshot: string): XenblkError {
  return new XenblkError(`Cannot use snapshot ${snapshot} of image ${image}: it has been merged in part`, {
    remedy: "merge it as a whole, with `xenblk snapshot commit`, while its guest uses the disk",
  });
}

/** Nobody may write to an image without knowing whether its later writes are elsewhere. */
function notPermitted(path: string, cause: Error): XenblkError {
  return new XenblkError(
    `Cannot look for ${path}, which says where an image's later writes are: Deno was started without the permission`,
    { cause, remedy: `run deno with --allow-read=${directoryOf(path)}` },
  );
}

function bad(path: string, why: string): never {
  throw new XenblkError(`Cannot read ${path}, which says where an image's later writes are: ${why}`, {
    remedy: "make it readable, or restore it from a backup; without it the writes since the snapshot are not seen",
  });
}
