/**
 * How the verbs of `image` read the name of an image, and what qemu-img is given for it. A format is never guessed: a
 * guest that writes to a raw image could make it look like a qcow2 image that names any file of the host as its backing
 * image.
 */

import { XenblkError } from "../../errors.ts";
import { canonicalFormat, isFile, isStore, unknownFormat } from "../../storage/image/formats.ts";
import { formatByContent, openImage } from "../../storage/image/inspect.ts";
import { imageLabel, type ImageName, imageName, parseImage } from "../../storage/image/spec.ts";
import { imageTree } from "../../storage/qemu/chain.ts";
import { withObjects } from "../../storage/qemu/graph.ts";
import { objectArguments, QemuImg } from "../../storage/qemu/image_info.ts";
import type { Operand } from "../verb.ts";

/** The formats that qemu-img can make. */
export const MADE_FORMATS = ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc", "qed", "luks", "parallels"] as const;

/** An image as a person named it. */
export interface GivenImage extends ImageName {
  /** The name has the format. Without it, `attach` would serve the image raw. */
  readonly isNamed: boolean;
}

/**
 * Reads a name as `attach` does. Rejects with {@linkcode XenblkError} (usage) if it is not one of an image that QEMU
 * opens.
 */
export async function parseGiven(text: string): Promise<GivenImage> {
  const name = imageName(await parseImage(text));
  const { format, target } = name;
  const label = imageLabel(name);
  if (canonicalFormat(format) === undefined) throw unknownFormat(format, label);
  if (!isFile(name) && !isStore(target) && format !== "json") {
    throw new XenblkError(`Cannot use image ${label}: it is kept in no file`, {
      kind: "usage",
      remedy: "use PATH, FORMAT:PATH or a URI",
    });
  }
  if (name.snapshot !== undefined) {
    throw new XenblkError(`Cannot use image ${label}: the verbs of \`image\` take no snapshot by snapshot=`, {
      kind: "usage",
      remedy: "leave it out; `image convert --snapshot NAME` copies a snapshot",
    });
  }
  return { ...name, isNamed: target !== text && target !== `./${text}` };
}

/** An existing image with its format. */
export interface ExistingImage extends ImageName {
  /** How the format is known: by the name, by the image's first bytes, or for lack of anything that says otherwise. */
  readonly knownBy: "name" | "content" | "default";
}

/**
 * Looks at an existing image. Without a named format it is raw, unless its content looks otherwise. Rejects with
 * {@linkcode XenblkError} if it cannot be read.
 */
export async function findImage(text: string): Promise<ExistingImage> {
  const { isNamed, ...image } = await parseGiven(text);
  if (!isFile(image)) return { ...image, knownBy: isNamed ? "name" : "default" };
  await using opened = await openImage(image.target, true);
  if (isNamed) return { ...image, knownBy: "name" };
  const found = canonicalFormat(formatByContent(opened.start) ?? "");
  return found === undefined ? { ...image, knownBy: "default" } : { ...image, format: found, knownBy: "content" };
}

/**
 * The same, for a verb that reads all of the image: what looks like another format has to be named. `verb` is for the
 * message.
 */
export async function findNamedImage(text: string, verb: string): Promise<ExistingImage> {
  const image = await findImage(text);
  const { format, target, knownBy } = image;
  if (knownBy !== "content") return image;
  throw new XenblkError(`Cannot ${verb} ${text}: it begins like a ${format} image, but no format is named`, {
    kind: "usage",
    remedy: `name it ${format}:${target}, or raw:${target} if a guest wrote what it begins with`,
  });
}

/** A path as QEMU's tools take it: neither an option nor a protocol, whatever it begins with. */
export function fileArgument(path: string): string {
  return path.startsWith("/") ? path : `./${path}`;
}

/** An existing image for qemu-img's command line. */
export interface SourceArguments {
  /** For the secrets that it needs. */
  readonly objects: readonly string[];
  /** Its format and its name. */
  readonly image: readonly string[];
}

/** Rejects with {@linkcode XenblkError} if the name is not enough to open the image. */
export async function sourceArguments(image: ExistingImage): Promise<SourceArguments> {
  const { format, target, passphraseFile } = image;
  if (isFile(image) && passphraseFile === undefined) {
    return { objects: [], image: ["-f", format, fileArgument(target)] };
  }
  const credentialsDirectory = passphraseFile?.includes("/") ? undefined : Deno.env.get("CREDENTIALS_DIRECTORY");
  const tree = await imageTree(image, {
    inspector: new QemuImg(),
    ...(credentialsDirectory === undefined ? {} : { credentialsDirectory }),
  });
  const { tree: named, objects } = withObjects(tree, "source");
  return { objects: objectArguments(objects), image: [`json:${JSON.stringify(named)}`] };
}

/** The operand of an existing image. */
export const IMAGE_OPERAND: Operand = {
  name: "IMAGE",
  help: "a path, FORMAT:PATH such as qcow2:disk.img, or what else attach takes",
  required: true,
  isPath: true,
};
