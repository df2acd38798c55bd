/**
 * One `[[disk]]` of a configuration file: which disks it means, and their settings.
 */

import type { DiskIdentity } from "../../backend/disk_identity.ts";
import type { TomlNode, TomlTable } from "../../config/toml.ts";
import { matchesPattern } from "../../storage/qemu/allow.ts";
import { isBackendKind } from "../../xenbus/paths.ts";
import { parseVdev } from "../../xenbus/vdev.ts";
import type { Fault } from "./fault.ts";
import type { Settings } from "./keys.ts";

/** Judges whether a disk has what a key asks for. */
type Matcher = (disk: DiskIdentity) => boolean;

/** What a key that names disks takes, and the matcher for a text; undefined if the text is not allowed. */
interface NamingKey {
  readonly allowed: string;
  readonly matcher: (text: string) => Matcher | undefined;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** The keys that name disks. */
export const NAMING_KEYS: Readonly<Record<string, NamingKey>> = {
  domain: {
    allowed: "the guest's name, in which * is any text, its UUID or its domid",
    matcher: (text) => {
      if (/^\d+$/.test(text)) return ({ domain }) => domain === Number(text);
      if (UUID.test(text)) return ({ domainUuid }) => domainUuid === text.toLowerCase();
      return ({ domainName }) => domainName !== undefined && matchesPattern(text, domainName);
    },
  },
  vdev: {
    allowed: "a virtual device, such as xvda",
    matcher: (text) => {
      const wanted = vdevOf(text);
      return wanted === undefined ? undefined : ({ vdev }) => vdev === wanted;
    },
  },
  image: {
    allowed: "an image as the toolstack names it, or its path; * is any text without a slash, ** any text",
    matcher: (text) => ({ image }) => image !== undefined && namesOf(image).some((name) => matchesPattern(text, name)),
  },
  kind: {
    allowed: "a backend kind: a word of letters, digits, _ and -",
    matcher: (text) => isBackendKind(text) ? ({ kind }) => kind === text : undefined,
  },
};

/** The settings of the disks that all of its naming keys match. */
export interface DiskRule {
  readonly line: number;
  readonly settings: Settings;
  /** Whether the rule is about this disk. */
  readonly matches: (disk: DiskIdentity) => boolean;
}

/** The matcher for the naming keys of a table; a wrong one adds a fault. Each takes a text, or a list of which one must match. */
export function readNaming(table: TomlTable, faults: Fault[]): (disk: DiskIdentity) => boolean {
  const matchers: Matcher[] = [];
  for (const [key, { allowed, matcher }] of Object.entries(NAMING_KEYS)) {
    const node = table.entries.get(key);
    if (node === undefined) continue;
    const read = textsOf(node).map((text) => text === undefined ? undefined : matcher(text));
    const usable = read.filter((each) => each !== undefined);
    if (usable.length === 0 || usable.length < read.length) {
      const message = `Cannot use ${key} in [[disk]]: it takes ${allowed}, or a list of them`;
      faults.push({ line: node.line, message, remedy: "correct the value" });
    }
    matchers.push((disk) => usable.some((matches) => matches(disk)));
  }
  if (matchers.length === 0) {
    faults.push({
      line: table.line,
      message: "Cannot use a [[disk]] without domain, vdev, image or kind: it names no disk",
      remedy: "add one of them, or put the settings into [serve], which is for all disks",
    });
  }
  return (disk) => matchers.every((matches) => matches(disk));
}

/** The texts of a value or of a list; undefined for what is no text. */
function textsOf(node: TomlNode): (string | undefined)[] {
  if (node.kind === "list") return node.items.flatMap((item) => item.kind === "list" ? [undefined] : textsOf(item));
  return [(node.kind === "string" || node.kind === "number") && node.text !== "" ? node.text : undefined];
}

function vdevOf(text: string): number | undefined {
  try {
    return parseVdev(text);
  } catch {
    return undefined;
  }
}

/** The node `params` as it is, and without the format before a path. */
function namesOf(image: string): string[] {
  const path = /^(?:[a-z0-9-]+:)+(?=\/(?!\/))/.exec(image);
  return path === null ? [image] : [image, image.slice(path[0].length)];
}
