/**
 * What a person or a toolstack writes to name an image: a path, `format:target`, the URI of a store, QEMU's `json:{...}`,
 * or xl's `format=qcow2,...,target=...`. Splits it into fields and opens nothing.
 */

import { XenblkError } from "../../errors.ts";
import { absolutePath, pathExists } from "../../path_lookup.ts";
import { shellWord } from "../../shell_word.ts";
import type { DiskRequest } from "../disk.ts";
import { canonicalFormat, isFile, isPlugin, isStore, takesPassphrase } from "./formats.ts";
import { absolutePlugin } from "./plugin_name.ts";

/** An image as it was named. Fields that xl's syntax alone has are undefined when it did not name them. */
export interface ImageSpec {
  /** In its one spelling (`raw`, `qcow2`, `vpc`, `memory`, ...); one that is served by nobody here as it was written. */
  readonly format: string;
  /**
   * A path, the URI of a store, a size for memory and null, QEMU's options as JSON for `json`, or a module and what follows
   * `?` for `plugin`.
   */
  readonly target: string;
  /** From `passphrase-file=`: an absolute path, or the name of a systemd credential. */
  readonly passphraseFile?: string;
  /** From `snapshot=`: the name or the ID of a snapshot inside the image. */
  readonly snapshot?: string;
  /** From `access=`; a CD-ROM and a snapshot are always read-only. */
  readonly readOnly?: boolean;
  /** From `access=w!`: others may write to the image too. */
  readonly shared?: boolean;
  /** The virtual device's name, for instance `xvdb`. */
  readonly vdev?: string;
  /** From `devtype=cdrom`. */
  readonly cdrom?: boolean;
}

/** The image itself, without how a guest gets it. */
export type ImageName = Pick<DiskRequest, "format" | "target" | "passphraseFile" | "snapshot">;

/** What precedes the first colon, if that can be a format. */
const PREFIX = /^([a-z][a-z0-9+_-]*):/i;
/** xl's keys, and two of ours: `passphrase-file` and `snapshot`. */
const XL_KEYS = /^(format|vdev|access|target|devtype|cdrom|passphrase-file|snapshot)(=|$)/;
/** A text in xl's form, also if its first field is unknown. */
const XL_FORM = new RegExp(`${XL_KEYS.source}|^[a-z-]+=[^,]*,(.*,)?target=`);
/** What xl knows, and `!` of xl's block scripts for an image that several users may write to. */
const ACCESS: ReadonlyMap<string, Pick<ImageSpec, "readOnly" | "shared">> = new Map(Object.entries({
  "r": { readOnly: true },
  "ro": { readOnly: true },
  "w": { readOnly: false },
  "rw": { readOnly: false },
  "w!": { readOnly: false, shared: true },
  "rw!": { readOnly: false, shared: true },
}));
/** Deno puts it in place of bytes that are not UTF-8, in arguments and in what it reads from xenstore. */
const NOT_UTF8 = "\uFFFD";
/** Where a password can be instead. */
const STORE_SECRETS = "name a file with the password: password-file=PATH in an iscsi URI, key-file=PATH for rbd; " +
  'for https use json: with "password-secret":"PATH"';
const PLUGIN_SECRETS =
  "have the plugin read it from a file or a variable, allowed with --plugin-allow read=PATH or env=NAME";
/** A password in what names a store: `//user:password@`, iSCSI's `//user%password@`, or an option. */
const PASSWORDS: readonly RegExp[] = [
  /(\/\/[^/?#@:%]*[:%])([^/?#]*)(?=@)/g,
  /([?&;]password=)([^&;#]+)/gi,
  /((?<!\\):(?:key|password)=)([^:]+)/gi,
];

/**
 * Reads an image argument. A string that names an existing file is a path, whatever colons it contains; else the
 * format ends at the first colon, unless what precedes it cannot be a format (`/a/b:c`). A format that nobody here serves
 * is not an error yet. Rejects with {@linkcode XenblkError}: `usage` for unknown fields, an empty target and a password;
 * `failed` for a file name that is not UTF-8, or if the file system does not answer.
 */
export async function parseImage(
  text: string,
  exists: (path: string) => Promise<boolean> = pathExists,
): Promise<ImageSpec> {
  if (text === "") throw new XenblkError("Cannot use image: its name is empty", { kind: "usage" });
  const spec = await isPath(text, exists) ? rawPath(text) : parseFields(text);
  const { target } = spec;
  if (isFile(spec) && target.includes(NOT_UTF8) && !await exists(target)) throw notUtf8(target);
  return spec;
}

/**
 * The same for a node `params`: there a format that is served is never the beginning of a path, because toolstacks write
 * absolute paths. So nothing is looked at unless the name is odd. libxl writes `aio:` and the target, whatever that is:
 * its `backendtype=tap` has no format but raw and vhd, so what follows `aio:` may itself name an image.
 */
export async function parseParams(params: string): Promise<ImageSpec> {
  const inner = params.startsWith("aio:") ? params.slice("aio:".length) : "";
  const text = isNamed(inner) || XL_FORM.test(inner) ? inner : params;
  return await parseImage(text, (path) => isNamed(text) && path === text ? Promise.resolve(false) : pathExists(path));
}

/** It begins with a format that is served, or is a URI. */
function isNamed(text: string): boolean {
  return isStore(text) || canonicalFormat(PREFIX.exec(text)?.[1] ?? "") !== undefined;
}

/** The image alone. */
export function imageName({ format, target, passphraseFile, snapshot }: ImageSpec): ImageName {
  return {
    format,
    target,
    ...(passphraseFile === undefined ? {} : { passphraseFile }),
    ...(snapshot === undefined ? {} : { snapshot }),
  };
}

/** The text that {@linkcode parseParams} reads as this image. */
export function imageText({ format, target, passphraseFile, snapshot }: ImageName): string {
  if (passphraseFile !== undefined || snapshot !== undefined) {
    const passphrase = passphraseFile === undefined ? "" : `passphrase-file=${passphraseFile},`;
    return `format=${format},${passphrase}${snapshot === undefined ? "" : `snapshot=${snapshot},`}target=${target}`;
  }
  return format === "raw" && isStore(target) ? target : `${format}:${target}`;
}

/** The image's name in messages: without a password, and without the options of `json:`. */
export function imageLabel(name: ImageName): string {
  return name.format === "json" ? "json:{...}" : withoutPasswords(imageText(name));
}

/**
 * The value of the node `params`: a relative path becomes absolute. Rejects as {@linkcode absolutePath}, and if a plugin's
 * module is missing.
 */
export async function paramsOf(name: ImageName): Promise<string> {
  const { format, target } = name;
  if (isPlugin(name)) return imageText({ ...name, target: await absolutePlugin(target) });
  if (!isFile(name)) return imageText(name);
  if (format === "raw") return imageText({ ...name, target: await absolutePath(target) });
  // QEMU looks for a relative backing file where the image's name says, not where a link leads.
  return imageText({ ...name, target: target.startsWith("/") ? target : `${Deno.cwd()}/${target}` });
}

/** The value of the node `params` for an image as a person named it. Rejects with {@linkcode XenblkError}. */
export async function paramsOfText(text: string): Promise<string> {
  const name = imageName(await parseImage(text));
  try {
    return await paramsOf(name);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new XenblkError(`Cannot open image ${imageLabel(name)}: there is no such file`, {
      cause,
      remedy: "check the path",
    });
  }
}

/** The text with `***` in place of passwords. */
export function withoutPasswords(text: string): string {
  return PASSWORDS.reduce((rest, pattern) => rest.replace(pattern, "$1***"), text);
}

/** Looks at the file system only if the text could be something else than a path. */
async function isPath(text: string, exists: (path: string) => Promise<boolean>): Promise<boolean> {
  const isOther = /[:=]/.test(text) && (PREFIX.test(text) || XL_FORM.test(text));
  return !isOther || await exists(text);
}

/** A path that looks like a URI must stay a path when it is written into `params`. */
function rawPath(path: string): ImageSpec {
  return { format: "raw", target: isStore(path) ? `./${path}` : path };
}

function parseFields(text: string): ImageSpec {
  if (XL_FORM.test(text)) return parseXl(text);
  if (isStore(text)) return formatAndTarget("raw", text, text);
  const prefix = PREFIX.exec(text)![1]!;
  return formatAndTarget(prefix, text.slice(prefix.length + 1), text);
}

function formatAndTarget(format: string, target: string, image: string): ImageSpec {
  const name = withoutPasswords(image);
  if (target === "") {
    throw new XenblkError(`Cannot use image ${name}: nothing follows the format`, {
      kind: "usage",
      remedy: "name a path, a URI or a size after the colon; only a CD drive can be empty",
    });
  }
  const spec = { format: canonicalFormat(format) ?? format, target };
  if (withoutPasswords(target) === target) return spec;
  if (isPlugin(spec)) throw hasPassword(name, PLUGIN_SECRETS);
  if (isStore(target)) throw hasPassword(name, STORE_SECRETS);
  return spec;
}

/** xl-disk-configuration(5), `key=value` form. As there, `target=` takes the rest of the string, commas included. */
function parseXl(text: string): ImageSpec {
  const fields = new Map<string, string>();
  for (let rest = text; rest !== "";) {
    const end = rest.startsWith("target=") || !rest.includes(",") ? rest.length : rest.indexOf(",");
    const field = rest.slice(0, end);
    if (!XL_KEYS.test(field)) throw badField(text, field);
    const split = field.includes("=") ? field.indexOf("=") : field.length;
    fields.set(field.slice(0, split), field.slice(split + 1));
    rest = rest.slice(end + 1);
  }
  const image = formatAndTarget(fields.get("format") ?? "raw", fields.get("target") ?? "", text);
  const snapshot = fields.get("snapshot");
  if (snapshot !== undefined) checkSnapshot(image, snapshot);
  const accessName = fields.get("access");
  const access = accessName === undefined ? {} : ACCESS.get(accessName);
  if (access === undefined) throw badValue(text, `access=${accessName}`, [...ACCESS.keys()]);
  const vdev = fields.get("vdev");
  const cdrom = isCdrom(text, fields);
  return {
    ...image,
    ...passphraseOf(image, fields.get("passphrase-file")),
    ...access,
    ...(snapshot === undefined ? {} : { snapshot, readOnly: true }),
    ...(vdev === undefined ? {} : { vdev }),
    ...(cdrom ? { cdrom, readOnly: true } : {}),
  };
}

function passphraseOf(image: ImageSpec, file: string | undefined): Pick<ImageSpec, "passphraseFile"> {
  if (file === undefined) return {};
  if (!takesPassphrase(image.format)) {
    throw new XenblkError(`Cannot use image ${imageLabel(image)}: the format ${image.format} has no passphrase`, {
      kind: "usage",
      remedy: "leave passphrase-file= out, or name the format luks or qcow2",
    });
  }
  if (file === "" || (file.includes("/") && !file.startsWith("/"))) {
    throw new XenblkError(`Cannot use image ${imageLabel(image)}: its passphrase-file is not an absolute path`, {
      kind: "usage",
      remedy: "name the file from / on, or a systemd credential by its name alone",
    });
  }
  return { passphraseFile: file };
}

function isCdrom(text: string, fields: ReadonlyMap<string, string>): boolean {
  const type = fields.get("devtype") ?? (fields.has("cdrom") ? "cdrom" : "disk");
  if (type !== "cdrom" && type !== "disk") throw badValue(text, `devtype=${type}`, ["disk", "cdrom"]);
  return type === "cdrom";
}

function badValue(text: string, field: string, values: readonly string[]): XenblkError {
  return new XenblkError(`Cannot use image ${withoutPasswords(text)}: ${field} has a value that is unknown`, {
    kind: "usage",
    remedy: `use one of ${values.join(", ")}`,
  });
}

function badField(text: string, field: string): XenblkError {
  const name = withoutPasswords(text);
  return new XenblkError(`Cannot use image ${name}: it has the unknown field ${withoutPasswords(field)}`, {
    kind: "usage",
    remedy: "use format=, vdev=, access=, devtype=, passphrase-file= and, last, target=",
  });
}

function hasPassword(name: string, remedy: string): XenblkError {
  return new XenblkError(`Cannot use image ${name}: it contains a password, which others could read in xenstore`, {
    kind: "usage",
    remedy,
  });
}

/** Throws {@linkcode XenblkError} (usage) for a snapshot of an image that has none, or that cannot be looked into here. */
export function checkSnapshot({ format, target }: ImageName, snapshot: string): void {
  if (format === "qcow2" && !isStore(target) && snapshot !== "") return;
  const name = imageLabel({ format, target });
  const source = `${shellWord(`${format}:${withoutPasswords(target)}`)} COPY`;
  const [why, remedy] = snapshot === ""
    ? ["its name is empty", "`xenblk image info` lists the snapshots of an image"]
    : format === "qcow2"
    ? [
      "only those of local files can be opened by name",
      `copy it out with \`xenblk image convert ${source} --snapshot ${shellWord(snapshot)}\` and attach the copy`,
    ]
    : [`the format ${format} has none`, "name the format: format=qcow2"];
  throw new XenblkError(`Cannot use snapshot ${JSON.stringify(snapshot)} of image ${name}: ${why}`, {
    kind: "usage",
    remedy,
  });
}

function notUtf8(target: string): XenblkError {
  return new XenblkError(`Cannot open image ${target}: its name is not UTF-8, and Deno cannot open such a name`, {
    remedy: "give it another name, or create a symbolic link to it (ln -s) and name the link",
  });
}
