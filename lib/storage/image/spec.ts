/**
 * What a person or a toolstack writes to name an image: a path, `format:target`, or xl's `format=raw,...,target=...`.
 * Splits it into fields and opens nothing.
 */

import { XenblkError } from "../../errors.ts";

/** An image as it was named. Fields that xl's syntax alone has are undefined when it did not name them. */
export interface ImageSpec {
  /** `raw`, `memory` or `null`. */
  readonly format: string;
  /** A path, or a size for memory and null. */
  readonly target: string;
  /** From `access=`; a CD-ROM is always read-only. */
  readonly readOnly?: boolean;
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

const XL_KEYS = /^(format|vdev|access|target|devtype|cdrom)(=|$)/;
const ACCESS_READ_ONLY: Readonly<Record<string, boolean>> = { r: true, ro: true, w: false, rw: false };

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
 * format ends at the first colon, unless what precedes it cannot be a format (`/a/b:c`).
 * Throws {@linkcode XenblkError} (usage) for unknown formats, fields and an empty target.
 */
export function parseImage(text: string, exists: (path: string) => boolean = pathExists): ImageSpec {
  if (text === "") throw new XenblkError("Cannot use image: its name is empty", { kind: "usage" });
  const bare = { format: "raw", target: text };
  if (!/[:=]/.test(text) || exists(text)) return bare;
  if (XL_KEYS.test(text)) return parseXl(text);
  const prefix = /^([a-z][a-z0-9+_-]*):/i.exec(text)?.[1];
  return prefix === undefined ? bare : formatAndTarget(prefix, text.slice(prefix.length + 1), text);
}

function formatAndTarget(format: string, target: string, image: string): ImageSpec {
  const canonical = canonicalFormat(format, image);
  if (target === "") throw new XenblkError(`Cannot use image ${image}: nothing follows the format`, { kind: "usage" });
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
  const access = fields.get("access");
  const readOnly = access === undefined ? undefined : ACCESS_READ_ONLY[access];
  if (access !== undefined && readOnly === undefined) throw badField(text, `access=${access}`);
  const vdev = fields.get("vdev");
  const cdrom = isCdrom(text, fields);
  return {
    ...image,
    ...(readOnly === undefined ? {} : { readOnly }),
    ...(vdev === undefined ? {} : { vdev }),
    ...(cdrom ? { cdrom, readOnly: true } : {}),
  };
}

function isCdrom(text: string, fields: ReadonlyMap<string, string>): boolean {
  const type = fields.get("devtype") ?? (fields.has("cdrom") ? "cdrom" : "disk");
  if (type !== "cdrom" && type !== "disk") throw badField(text, `devtype=${type}`);
  return type === "cdrom";
}

function badField(text: string, field: string): XenblkError {
  return new XenblkError(`Cannot use image ${text}: it has the unknown field ${field}`, {
    kind: "usage",
    remedy: "use format=, vdev=, access=, devtype= and, last, target=",
  });
}

function pathExists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false; // whatever keeps us from it is reported when it is opened
  }
}
