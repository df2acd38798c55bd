/**
 * What a person or a toolstack writes to name an image: a path, `format:target`, or xl's `format=raw,...,target=...`.
 * Splits it into fields and opens nothing.
 */

import { XenblkError } from "../../errors.ts";
import { pathExists } from "../../path_lookup.ts";

/** An image as it was named. Fields that xl's syntax alone has are undefined when it did not name them. */
export interface ImageSpec {
  /** `raw`, `memory` or `null`. */
  readonly format: string;
  /** A path, or a size for memory and null. */
  readonly target: string;
  /** From `access=`; a CD-ROM is always read-only. */
  readonly readOnly?: boolean;
  /** From `access=w!`: others may write to the image too. */
  readonly shared?: boolean;
  /** The virtual device's name, for instance `xvdb`. */
  readonly vdev?: string;
  /** From `devtype=cdrom`. */
  readonly cdrom?: boolean;
}

/** Spellings of the formats that are served; libxl writes `aio:`, older toolstacks `file:` and `phy:`. */
const FORMATS: ReadonlyMap<string, string> = new Map([
  ["raw", "raw"],
  ["aio", "raw"],
  ["file", "raw"],
  ["phy", "raw"],
  ["memory", "memory"],
  ["null", "null"],
]);

/** Formats that other tools know and that have to be converted. */
const CONVERTIBLE = new Set(["qcow2", "qcow", "qed", "vhd", "vpc", "vhdx", "vmdk", "vdi", "nbd", "nbd+unix"]);

/** What precedes the first colon, if that can be a format. */
const PREFIX = /^([a-z][a-z0-9+_-]*):/i;
const XL_KEYS = /^(format|vdev|access|target|devtype|cdrom)(=|$)/;
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

/**
 * The one spelling of a format: `raw`, `memory` or `null`. `image` is for the message.
 * Throws {@linkcode XenblkError} (usage) for a format that is not served.
 */
export function canonicalFormat(format: string, image: string): string {
  const known = FORMATS.get(format.toLowerCase());
  if (known !== undefined) return known;
  if (CONVERTIBLE.has(format.toLowerCase())) {
    throw new XenblkError(`Cannot use image ${image}: the format ${format} is not supported yet`, {
      kind: "usage",
      remedy: "convert it with `qemu-img convert -O raw`",
    });
  }
  throw new XenblkError(`Cannot use image ${image}: unknown format ${format}`, {
    kind: "usage",
    remedy: "use a path, raw:PATH, aio:PATH, memory:SIZE or null:SIZE",
  });
}

/**
 * Reads an image argument. A string that names an existing file is a path, whatever colons it contains; else the
 * format ends at the first colon, unless what precedes it cannot be a format (`/a/b:c`). Rejects with
 * {@linkcode XenblkError}: `usage` for unknown formats, fields and an empty target; `failed` for a file name that is not
 * UTF-8, or if the file system does not answer.
 */
export async function parseImage(
  text: string,
  exists: (path: string) => Promise<boolean> = pathExists,
): Promise<ImageSpec> {
  if (text === "") throw new XenblkError("Cannot use image: its name is empty", { kind: "usage" });
  const spec = await isPath(text, exists) ? { format: "raw", target: text } : parseFields(text);
  const { format, target } = spec;
  if (format === "raw" && target.includes(NOT_UTF8) && !await exists(target)) throw notUtf8(target);
  return spec;
}

/**
 * The same for a node `params`: there a format that is served is never the beginning of a path, because toolstacks write
 * absolute paths. So nothing is looked at unless the name is odd.
 */
export async function parseParams(params: string): Promise<ImageSpec> {
  const isFormat = FORMATS.has(PREFIX.exec(params)?.[1]?.toLowerCase() ?? "");
  return await parseImage(params, (path) => isFormat && path === params ? Promise.resolve(false) : pathExists(path));
}

/** Looks at the file system only if the text could be something else than a path. */
async function isPath(text: string, exists: (path: string) => Promise<boolean>): Promise<boolean> {
  const isOther = /[:=]/.test(text) && (PREFIX.test(text) || XL_KEYS.test(text));
  return !isOther || await exists(text);
}

function parseFields(text: string): ImageSpec {
  if (XL_KEYS.test(text)) return parseXl(text);
  const prefix = PREFIX.exec(text)![1]!;
  return formatAndTarget(prefix, text.slice(prefix.length + 1), text);
}

function formatAndTarget(format: string, target: string, image: string): ImageSpec {
  const canonical = canonicalFormat(format, image);
  if (target === "") {
    throw new XenblkError(`Cannot use image ${image}: nothing follows the format`, {
      kind: "usage",
      remedy: "name a path or a size after the colon; only a CD drive can be empty",
    });
  }
  return { format: canonical, target };
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
  const accessName = fields.get("access");
  const access = accessName === undefined ? {} : ACCESS.get(accessName);
  if (access === undefined) throw badValue(text, `access=${accessName}`, [...ACCESS.keys()]);
  const vdev = fields.get("vdev");
  const cdrom = isCdrom(text, fields);
  return {
    ...image,
    ...access,
    ...(vdev === undefined ? {} : { vdev }),
    ...(cdrom ? { cdrom, readOnly: true } : {}),
  };
}

function isCdrom(text: string, fields: ReadonlyMap<string, string>): boolean {
  const type = fields.get("devtype") ?? (fields.has("cdrom") ? "cdrom" : "disk");
  if (type !== "cdrom" && type !== "disk") throw badValue(text, `devtype=${type}`, ["disk", "cdrom"]);
  return type === "cdrom";
}

function badValue(text: string, field: string, values: readonly string[]): XenblkError {
  return new XenblkError(`Cannot use image ${text}: ${field} has a value that is unknown`, {
    kind: "usage",
    remedy: `use one of ${values.join(", ")}`,
  });
}

function badField(text: string, field: string): XenblkError {
  return new XenblkError(`Cannot use image ${text}: it has the unknown field ${field}`, {
    kind: "usage",
    remedy: "use format=, vdev=, access=, devtype= and, last, target=",
  });
}

function notUtf8(target: string): XenblkError {
  return new XenblkError(`Cannot open image ${target}: its name is not UTF-8, and Deno cannot open such a name`, {
    remedy: "give it another name, or create a symbolic link to it (ln -s) and name the link",
  });
}
