/**
 * The image of `attach --create` and `attach --overlay`: created before the disk is attached, removed if that fails, and
 * in the case of an overlay that is not kept, when the disk has been detached.
 */

import { XenblkError } from "../../errors.ts";
import { formatSize } from "../../sizes.ts";
import { pathExists } from "../../path_lookup.ts";
import { isFile } from "../../storage/image/formats.ts";
import { imageLabel } from "../../storage/image/spec.ts";
import { usageError } from "../args.ts";
import { optional, path, size } from "../options.ts";
import type { Context } from "../verb.ts";
import { readFacts } from "./facts.ts";
import { checkSize, createImage, findBacking } from "./making.ts";
import { type ExistingImage, parseGiven } from "./name.ts";

/** Options of `attach` that create the image. */
export const CREATING_OPTIONS = {
  "create": optional(
    size(
      "Create IMAGE with this size, raw or qcow2:PATH, if it does not exist; if it does, its size must match",
      512,
      512,
      2 ** 50,
    ),
  ),
  "overlay": optional(
    path(
      "BASE",
      "In place of IMAGE: a new qcow2 overlay of BASE, which stays as it is. BASE is named with its format: qcow2:PATH",
    ),
  ),
  "keep-overlay": optional(
    path("PATH", "Create the overlay at PATH and keep it"),
    "beside BASE, removed when the disk is detached",
  ),
} as const;

/** The options of {@linkcode CREATING_OPTIONS}, and the one that excludes some of them. */
export interface CreatingOptions {
  readonly create: number | undefined;
  readonly overlay: string | undefined;
  readonly "keep-overlay": string | undefined;
  readonly keep: boolean;
}

/** What is used of the verb's context. */
type CreatingContext = Pick<Context, "host" | "inform" | "signals">;

/** The image to attach. */
export interface AttachImage {
  /** As attach takes it. */
  readonly name: string;
  /** It was created just now. */
  readonly isNew: boolean;
  /** The disk could not be attached: removes what was created. */
  undo(): Promise<void>;
  /** The disk was detached: removes an overlay that is not kept. */
  release(): Promise<void>;
}

/** Checks the options against each other. Throws {@linkcode XenblkError} (usage). */
export function checkCreating(options: CreatingOptions): void {
  const refuse = (message: string): never => {
    throw usageError("attach", message);
  };
  if (options.overlay === undefined) {
    if (options["keep-overlay"] !== undefined) refuse("Cannot use --keep-overlay without --overlay");
    return;
  }
  if (options.create !== undefined) refuse("Cannot use --create with --overlay: an overlay has the size of its base");
  if (options.keep && options["keep-overlay"] === undefined) {
    refuse("Cannot use --keep with --overlay: the disk needs the overlay; name a place for it with --keep-overlay");
  }
}

/** Creates the image if an option asks for that. Rejects with {@linkcode XenblkError}; nothing is then left. */
export async function imageForAttach(
  context: CreatingContext,
  options: CreatingOptions,
  image: string | undefined,
): Promise<AttachImage> {
  if (options.overlay !== undefined) return await createOverlay(context, options.overlay, options["keep-overlay"]);
  if (options.create !== undefined) return await createSized(context, options.create, image!);
  return existing(image!);
}

/** Nothing was created, so nothing is removed. */
function existing(name: string): AttachImage {
  return { name, isNew: false, undo: () => Promise.resolve(), release: () => Promise.resolve() };
}

async function createSized(
  { host, inform, signals }: CreatingContext,
  sizeBytes: number,
  text: string,
): Promise<AttachImage> {
  const { isNamed: _isNamed, ...given } = await parseGiven(text);
  const name = imageLabel(given);
  if (!isFile(given)) throw usageError("attach", `Cannot create image ${name}: it names no local file`);
  // As attach serves it: raw without a named format.
  const image = { ...given, knownBy: "name" } as const;
  const signal = signals.signal;
  if (await pathExists(image.target)) {
    const [facts] = await readFacts(image, { signal });
    if (facts!.sizeBytes === sizeBytes) return existing(text);
    const sizes = `${formatSize(facts!.sizeBytes)} (${facts!.sizeBytes} bytes), not ${formatSize(sizeBytes)}`;
    throw new XenblkError(`Cannot create image ${name}: it exists and has ${sizes}`, {
      remedy: "name another file, or attach this one without --create",
    });
  }
  checkSize(image.format, sizeBytes);
  const { format, target: path, passphraseFile: keyFile } = image;
  await createImage({ format, path, keyFile, sizeBytes, force: false }, host, signal);
  inform(`created ${name} (${formatSize(sizeBytes)})`);
  return { ...existing(name), isNew: true, undo: () => Deno.remove(image.target) };
}

async function createOverlay(
  { host, inform, signals }: CreatingContext,
  base: string,
  kept: string | undefined,
): Promise<AttachImage> {
  const backing = await findBacking(base);
  const path = kept ?? placeBeside(backing);
  await createImage({ format: "qcow2", path, backing, force: false }, host, signals.signal);
  const fate = kept === undefined ? "it is removed when the disk is detached" : "it is kept";
  inform(`created qcow2:${path}, an overlay of ${imageLabel(backing)}; ${fate}`);
  const remove = (): Promise<void> => Deno.remove(path);
  return {
    name: `qcow2:${path}`,
    isNew: true,
    undo: remove,
    release: kept === undefined ? remove : () => Promise.resolve(),
  };
}

/** A new name in the base's directory: a backing image elsewhere has to be allowed before it is opened. */
function placeBeside(image: ExistingImage): string {
  if (isFile(image)) return `${image.target}.overlay-${crypto.randomUUID().slice(0, 8)}`;
  throw usageError(
    "attach",
    `Cannot create an overlay beside ${imageLabel(image)}: name a place for it with --keep-overlay`,
  );
}
