/**
 * The formats of images by name, and who serves each: our own engines raw files, memory and null; processes of their
 * own disks in TypeScript; QEMU's storage daemon the rest, and raw images in remote stores.
 */

import { XenblkError } from "../../errors.ts";
import type { DiskRequest, EngineName } from "../disk.ts";

type Named = Pick<DiskRequest, "format" | "target">;

/** Spellings of the formats that our own engines serve; libxl writes `aio:`, older toolstacks `file:` and `phy:`. */
const OWN: ReadonlyMap<string, string> = new Map([
  ["raw", "raw"],
  ["aio", "raw"],
  ["file", "raw"],
  ["phy", "raw"],
  ["memory", "memory"],
  ["null", "null"],
  ["plugin", "plugin"],
]);

/** Spellings of the formats that the daemon serves. The values are QEMU's drivers, apart from `json`. */
const DAEMON: ReadonlyMap<string, string> = new Map([
  ["qcow2", "qcow2"],
  ["qcow", "qcow"],
  ["qed", "qed"],
  ["vmdk", "vmdk"],
  ["vdi", "vdi"],
  ["vhdx", "vhdx"],
  ["vhd", "vpc"],
  ["vpc", "vpc"],
  ["luks", "luks"],
  ["parallels", "parallels"],
  ["bochs", "bochs"],
  ["cloop", "cloop"],
  ["dmg", "dmg"],
  ["json", "json"],
]);

/** Formats that QEMU can only read. */
const READ_ONLY = new Set(["bochs", "cloop", "dmg"]);

/** Formats with a passphrase, if the image is encrypted. */
const ENCRYPTED = new Set(["luks", "qcow2", "qcow"]);

/** What begins the name of a remote store; QEMU's own name of an RBD image has no slashes. */
const STORE = /^(?:(?:nbds?(?:\+unix)?|iscsi|nfs|ssh|https?):\/\/|rbd:)/i;

/** Schemes without the slashes that make a URI of them. */
const SCHEME = /^(nbds?(\+unix)?|iscsi|nfs|ssh|https?)$/i;

/** The one spelling of a format; undefined for one that is served by nobody here. */
export function canonicalFormat(format: string): string | undefined {
  const name = format.toLowerCase();
  return OWN.get(name) ?? DAEMON.get(name);
}

/** Whether a target names a remote store. A local path that looks alike is written with `./` in front. */
export function isStore(target: string): boolean {
  return STORE.test(target);
}

/** Whether a target is the path of a file or block device. `format` in its one spelling. */
export function isFile({ format, target }: Named): boolean {
  return (format === "raw" || DAEMON.has(format)) && format !== "json" && !isStore(target);
}

/** Whether a module in TypeScript is the disk. `format` in its one spelling. */
export function isPlugin({ format }: Pick<Named, "format">): boolean {
  return format === "plugin";
}

/** The image cannot be written to, whatever the storage. */
export function isReadOnlyFormat(format: string): boolean {
  return READ_ONLY.has(format);
}

/** Images of the format can be encrypted. */
export function takesPassphrase(format: string): boolean {
  return ENCRYPTED.has(format);
}

/** Whether only the storage daemon serves such an image. `format` in its one spelling. */
export function needsDaemon({ format, target }: Named): boolean {
  return DAEMON.has(format) || (format === "raw" && isStore(target));
}

/** The engines that can serve such an image. `format` in its one spelling. */
export function enginesFor(image: Named): readonly EngineName[] {
  if (needsDaemon(image)) return ["auto", "qemu"];
  if (image.format === "raw") return ["auto", "uring", "file", "qemu"];
  if (isPlugin(image)) return ["auto"];
  return ["auto", image.format as "memory" | "null"];
}

/** The error about a format that nobody here serves; `image` is for the message. */
export function unknownFormat(format: string, image: string): XenblkError {
  return new XenblkError(`Cannot use image ${image}: unknown format ${format}`, {
    kind: "usage",
    remedy: SCHEME.test(format)
      ? `write a URI, for instance ${format}://${/unix/i.test(format) ? "/EXPORT?socket=PATH" : "HOST/NAME"}`
      : "use a path, raw:PATH, qcow2:PATH or another format of QEMU, a URI, plugin:MODULE, memory:SIZE or null:SIZE",
  });
}
