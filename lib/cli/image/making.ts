/**
 * Creates an image with qemu-img: for `image create`, and for `attach --create` and `--overlay`; and the options for the
 * format of a new image, which `image convert` has too.
 */

import { XenblkError } from "../../errors.ts";
import { makeByQemuImg, qemuImgError } from "../../storage/qemu/qemu_img.ts";
import { formatSize } from "../../sizes.ts";
import { isFile } from "../../storage/image/formats.ts";
import { imageLabel, imageText } from "../../storage/image/spec.ts";
import { usageError } from "../args.ts";
import { choice, flag, list, optional, path, text } from "../options.ts";
import type { Host } from "../verb.ts";
import { type ExistingImage, fileArgument, findImage, type GivenImage, MADE_FORMATS } from "./name.ts";
import { ImagePlace } from "./place.ts";

/** A device with sectors of 4 KiB cannot be read or written to a smaller unit past the page cache (O_DIRECT). */
const DIRECT_BYTES = 4096;

/**
 * What qcow2 images are made with. With subclusters a small write to a new cluster copies nothing and zeroes nothing
 * around it.
 */
const QCOW2_DEFAULTS = ["extended_l2=on", "cluster_size=128k"];
const QCOW2_DEFAULT_TEXT = QCOW2_DEFAULTS.join(",");
/** Options that decide about the same things: with one of them given, no default applies. */
const QCOW2_LAYOUT = /^(extended_l2|cluster_size|compat|data_file)=/;

/** Options of verbs that make an image. */
export const FORMAT_OPTIONS = {
  "format": optional(choice("Format of the new image", MADE_FORMATS), "the one its name begins with, else qcow2"),
  "preallocate": optional(
    choice("Allocate the metadata, or all of it without (falloc) or with writing zeroes (full)", [
      "off",
      "metadata",
      "falloc",
      "full",
    ]),
    "off",
  ),
  "option": optional(
    list({
      ...text("NAME=VALUE", "Options of the format, see `qemu-img create -f FORMAT -o help`"),
      allowed: "NAME=VALUE",
      parse: option,
    }),
    `${QCOW2_DEFAULT_TEXT} for qcow2`,
  ),
  "key-file": optional(path(
    "FILE",
    "Encrypt the image (luks, or qcow2 with luks): its passphrase is all that this file holds, a line's end included",
  )),
  "force": flag("Overwrite an existing file or block device that nobody uses"),
} as const;

/** Options that would write to files that the new image's name does not tell. */
const REFUSED: Readonly<Record<string, string>> = {
  "data_file": "it names a second file, which would be overwritten; run qemu-img itself for this",
  "backing_file": "name it in --backing",
  "backing_fmt": "name it in --backing-format",
};

function option(given: string): string | undefined {
  return /^[a-z0-9_.-]+=./i.test(given) ? given : undefined;
}

/** How a new image is to be laid out. */
export interface Layout {
  readonly format: string;
  /** `NAME=VALUE` each. */
  readonly options?: readonly string[] | undefined;
  readonly preallocate?: string | undefined;
  readonly keyFile?: string | undefined;
}

/** The layout that options and the image's name ask for. Throws {@linkcode XenblkError} (usage). */
export function layoutOf(
  verb: string,
  { isNamed, ...image }: GivenImage,
  options:
    & {
      readonly [name in "format" | "preallocate" | "key-file"]: string | undefined;
    }
    & { readonly option: readonly string[] | undefined },
): Layout {
  if (!isFile(image)) throw usageError(verb, `Cannot create image ${imageLabel(image)}: it names no local file`);
  const named = isNamed ? image.format : undefined;
  if (named !== undefined && options.format !== undefined && named !== options.format) {
    throw usageError(verb, `Cannot use --format=${options.format}: the image's name says ${named}`);
  }
  for (const given of options.option ?? []) {
    const key = given.slice(0, given.indexOf("="));
    if (REFUSED[key] !== undefined) throw usageError(verb, `Cannot use --option=${given}: ${REFUSED[key]}`);
  }
  const format = options.format ?? named ?? "qcow2";
  const keyFile = options["key-file"] ?? image.passphraseFile;
  if (format === "luks" && keyFile === undefined) {
    throw usageError(verb, "Cannot create a luks image without --key-file=FILE, the file with its passphrase");
  }
  return { format, options: options.option, preallocate: options.preallocate, keyFile };
}

/** The new image's name, as attach takes it. */
export function newName(target: string, { format, keyFile }: Layout): string {
  if (keyFile === undefined) return imageText({ format, target });
  const passphraseFile = keyFile.startsWith("/") ? keyFile : `${Deno.cwd()}/${keyFile}`;
  return imageText({ format, target, passphraseFile });
}

/** Qemu-img's arguments for a layout, apart from `-f` or `-O`. Throws {@linkcode XenblkError} (usage). */
export function layoutArguments({ format, options = [], preallocate, keyFile }: Layout): string[] {
  const all = [...options];
  if (format === "qcow2" && !options.some((option) => QCOW2_LAYOUT.test(option))) all.unshift(...QCOW2_DEFAULTS);
  if (preallocate !== undefined) all.push(`preallocation=${preallocate}`);
  if (keyFile !== undefined) all.push(...keyOptions(format));
  return [
    // In such a list a comma is written twice.
    ...(keyFile === undefined ? [] : ["--object", `secret,id=key,file=${keyFile.replaceAll(",", ",,")}`]),
    ...(all.length === 0 ? [] : ["-o", all.join(",")]),
  ];
}

function keyOptions(format: string): string[] {
  if (format === "luks") return ["key-secret=key"];
  if (format === "qcow2") return ["encrypt.format=luks", "encrypt.key-secret=key"];
  throw new XenblkError(`Cannot use --key-file: a ${format} image cannot be encrypted`, {
    kind: "usage",
    remedy: "use the format luks or qcow2",
  });
}

/** An image that is to be created. */
export interface Creation extends Layout {
  readonly path: string;
  /** Absent: that of the backing image. */
  readonly sizeBytes?: number | undefined;
  /** What the image reads as where nothing was written to it. */
  readonly backing?: ExistingImage | undefined;
  readonly force: boolean;
}

/**
 * Creates an image. Rejects with {@linkcode XenblkError}, or with the signal's reason; nothing is then left at the path
 * that was not there before.
 */
export async function createImage(creation: Creation, host: Host, signal?: AbortSignal): Promise<void> {
  const { path: target, format, sizeBytes, backing, force } = creation;
  const layout = layoutArguments(creation);
  using place = await ImagePlace.take({ target, force, host });
  const base = backing === undefined ? [] : ["-b", await backingPath(backing), "-F", backing.format];
  const size = sizeBytes === undefined ? [] : [String(sizeBytes)];
  const outcome = await makeByQemuImg(
    ["create", "-q", "-f", format, ...layout, ...base, fileArgument(place.path), ...size],
    signal && { signal },
  );
  if (outcome.status !== 0) throw qemuImgError(`Cannot create image ${format}:${target}`, place.renamed(outcome));
  await place.finish();
}

/** Recorded in the image: absolute, since a relative one would be looked for beside the image. */
async function backingPath(image: ExistingImage): Promise<string> {
  return isFile(image) ? await Deno.realPath(image.target) : image.target;
}

/**
 * The backing image of an overlay. Rejects with {@linkcode XenblkError} (usage) unless its format is named: a raw one
 * that is taken for another, or the other way round, would give the guest another disk.
 */
export async function findBacking(name: string, namedFormat?: string): Promise<ExistingImage> {
  const image = await findImage(name);
  if (image.knownBy === "name") {
    if (namedFormat === undefined || namedFormat === image.format) return image;
    throw new XenblkError(`Cannot use --backing-format=${namedFormat}: the image's name says ${image.format}`, {
      kind: "usage",
    });
  }
  if (namedFormat !== undefined) return { ...image, format: namedFormat, knownBy: "name" };
  throw new XenblkError(`Cannot use backing image ${name}: its format is not named`, {
    kind: "usage",
    remedy: `name it ${image.format}:${image.target}, if that is its format`,
  });
}

/** Refuses a raw image with an end that O_DIRECT cannot reach on every device. */
export function checkSize(format: string, sizeBytes: number | undefined): void {
  if (format !== "raw" || sizeBytes === undefined || sizeBytes % DIRECT_BYTES === 0) return;
  const up = Math.ceil(sizeBytes / DIRECT_BYTES) * DIRECT_BYTES;
  throw new XenblkError(
    `Cannot create a raw image of ${sizeBytes} bytes: that is no multiple of ${DIRECT_BYTES}, which O_DIRECT needs`,
    { kind: "usage", remedy: `use ${up} (${formatSize(up)})` },
  );
}
