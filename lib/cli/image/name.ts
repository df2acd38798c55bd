/**
 * How the verbs of `image` read the name of an image, and what qemu-img is given for it. A format is never guessed: a
 * guest that writes to a raw image could make it look like a qcow2 image that names any file of the host as its backing
 * image.
 */

import { XenblkError } from "../../errors.ts";
import { pathExists } from "../../path_lookup.ts";
import { formatByContent, openImage } from "../../storage/image/inspect.ts";
import type { Operand } from "../verb.ts";

/** QEMU's name of each format, by the spellings that image names have. */
const FORMATS: ReadonlyMap<string, string> = new Map([
  ...["raw", "qcow2", "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "luks", "parallels"].map((name) => [name, name]),
  ...["aio", "file", "phy"].map((name) => [name, "raw"]),
  ["vhd", "vpc"],
] as [string, string][]);

/** The formats that qemu-img can make. */
export const MADE_FORMATS = ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc", "qed", "luks", "parallels"] as const;

const PREFIX = /^([a-z][a-z0-9+_-]*):/i;

/** An image as it was named. */
export interface ImageName {
  /** QEMU's name of the format; undefined if none was named: `attach` would serve such an image raw. */
  readonly format: string | undefined;
  /** A path, or a URI. */
  readonly path: string;
  readonly isUri: boolean;
}

/**
 * Reads `PATH`, `FORMAT:PATH`, a URI or `FORMAT:URI`. What names an existing file is a path, whatever colons it
 * contains. Rejects with {@linkcode XenblkError} (usage).
 */
export async function parseImageName(text: string): Promise<ImageName> {
  const prefix = PREFIX.exec(text)?.[1];
  if (prefix === undefined || await pathExists(text)) return { format: undefined, path: text, isUri: false };
  const rest = text.slice(prefix.length + 1);
  if (rest.startsWith("//")) return { format: undefined, path: text, isUri: true };
  const format = FORMATS.get(prefix.toLowerCase());
  if (format === undefined || rest === "") {
    const why = format === undefined ? `unknown format ${prefix}` : "nothing follows the format";
    throw new XenblkError(`Cannot use image ${text}: ${why}`, {
      kind: "usage",
      remedy: `use PATH, or FORMAT:PATH with one of ${[...new Set(FORMATS.values())].join(", ")}`,
    });
  }
  return { format, path: rest, isUri: /^[a-z][a-z0-9+.-]*:\/\//i.test(rest) };
}

/** The image as `attach` and messages name it. */
export function nameOf({ format, path }: Pick<ImageName, "format" | "path">): string {
  return format === undefined ? path : `${format}:${path}`;
}

/** The path as qemu-img takes it: neither an option nor a protocol, whatever it begins with. */
export function fileArgument({ path, isUri }: Pick<ImageName, "path" | "isUri">): string {
  return isUri || path.startsWith("/") ? path : `./${path}`;
}

/** An existing image with its format. */
export interface ExistingImage extends ImageName {
  readonly format: string;
  /** How the format is known: by the name, by the image's first bytes, or for lack of anything that says otherwise. */
  readonly knownBy: "name" | "content" | "default";
}

/**
 * Looks at an existing image. Without a named format it is raw, unless its content looks otherwise. Rejects with
 * {@linkcode XenblkError} if it cannot be read.
 */
export async function findImage(text: string): Promise<ExistingImage> {
  const image = await parseImageName(text);
  const { format } = image;
  if (image.isUri) return { ...image, format: format ?? "raw", knownBy: format === undefined ? "default" : "name" };
  await using opened = await openImage(image.path, true);
  if (format !== undefined) return { ...image, format, knownBy: "name" };
  const found = FORMATS.get(formatByContent(opened.start) ?? "");
  return { ...image, format: found ?? "raw", knownBy: found === undefined ? "default" : "content" };
}

/**
 * The same, for a verb that reads all of the image: what looks like another format has to be named. `verb` is for the
 * message.
 */
export async function findNamedImage(text: string, verb: string): Promise<ExistingImage> {
  const image = await findImage(text);
  const { format, path, knownBy } = image;
  if (knownBy !== "content") return image;
  throw new XenblkError(`Cannot ${verb} ${text}: it begins like a ${format} image, but no format is named`, {
    kind: "usage",
    remedy: `name it ${format}:${path}, or raw:${path} if a guest wrote what it begins with`,
  });
}

/** The operand of an existing image. */
export const IMAGE_OPERAND: Operand = {
  name: "IMAGE",
  help: "a path, FORMAT:PATH such as qcow2:disk.img, or a URI",
  required: true,
  isPath: true,
};
