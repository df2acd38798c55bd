/**
 * What a configuration file may say: the tables `[serve]` and `[[disk]]`, and what is wrong in them.
 */

import { readToml, TomlError, type TomlTable } from "../../config/toml.ts";
import { XenblkError } from "../../errors.ts";
import { chooseFilters } from "../../storage/filter/spec.ts";
import { DISK_OPTIONS, replacedOptions } from "../device_options.ts";
import type { OptionTable } from "../options.ts";
import { SERVE_OPTIONS } from "../serve_options.ts";
import { type DiskRule, NAMING_KEYS, readNaming } from "./disk_rule.ts";
import type { Fault } from "./fault.ts";
import { nearest, readSettings, type Section, type Settings } from "./keys.ts";

/** A file that was read. */
export interface ConfigContent {
  /** Defaults of `serve`. */
  readonly serve: Settings;
  /** In the file's order: of two that are about a disk, the later one counts. */
  readonly disks: readonly DiskRule[];
}

/** Options of `serve` that a file cannot set: they belong to one call. */
const NOT_IN_FILE: ReadonlySet<string> = new Set(["config", "no-config", "image"]);

/** The keys of `[serve]`. */
export const SERVE_KEYS: OptionTable = Object.fromEntries(
  Object.entries(SERVE_OPTIONS).filter(([name]) => !NOT_IN_FILE.has(name)),
);

const SERVE_SECTION: Section = {
  name: "[serve]",
  options: SERVE_KEYS,
  elsewhere: (key) =>
    NOT_IN_FILE.has(key)
      ? { why: "it belongs to one call of serve", remedy: `give --${key} on the command line` }
      : undefined,
};

const DISK_SECTION: Section = {
  name: "[[disk]]",
  options: DISK_OPTIONS,
  elsewhere: (key) =>
    Object.hasOwn(SERVE_KEYS, key)
      ? { why: "it concerns the whole process, not one disk", remedy: "put it into [serve]" }
      : undefined,
};

/** The keys of `[[disk]]` that name disks or set something. */
const DISK_KEYS = [...Object.keys(NAMING_KEYS), ...Object.keys(DISK_OPTIONS)];

/** Reads a text, and finds all faults: those of the syntax end with the first. */
export async function readContent(text: string): Promise<ConfigContent & { readonly faults: readonly Fault[] }> {
  const faults: Fault[] = [];
  const root = await readToml(text).catch((error) => {
    if (!(error instanceof TomlError)) throw error;
    const message = `Cannot read this as TOML: ${error.message.toLowerCase().replace(/\.$/, "")}`;
    faults.push({ line: error.line, message, remedy: "correct the line; https://toml.io describes the syntax" });
  });
  const empty = { serve: new Map(), disks: [], faults };
  if (root === undefined) return empty;
  refuseUnknown(root, faults);
  const serve = root.entries.get("serve");
  const disks = root.entries.get("disk");
  const content = {
    serve: serve?.kind === "table" ? readSettings(serve, SERVE_SECTION, faults) : new Map(),
    disks: disks?.kind === "list"
      ? disks.items.flatMap((item) => item.kind === "table" ? [ruleOf(item, faults)] : [])
      : [],
  };
  const tables = [content.serve, ...content.disks.map(({ settings }) => settings)];
  checkLimits(tables, faults);
  await checkFilters(tables, faults);
  return { ...content, faults: faults.toSorted((one, other) => one.line - other.line) };
}

/** What is neither `[serve]` nor `[[disk]]`. */
function refuseUnknown(root: TomlTable, faults: Fault[]): void {
  for (const [key, node] of root.entries) {
    const { line } = node;
    if (key === "serve" && node.kind === "table") continue;
    if (key === "disk" && node.kind === "list" && node.items.every(({ kind }) => kind === "table")) continue;
    if (key === "serve" || key === "disk") {
      const form = key === "serve" ? "[serve]" : "[[disk]]";
      faults.push({ line, message: `Cannot use ${key} here: it is not the table ${form}`, remedy: `write ${form}` });
      continue;
    }
    const near = nearest(key, ["serve", "disk"]);
    const belongs = near === undefined && DISK_KEYS.concat(Object.keys(SERVE_KEYS)).includes(key);
    const hint = near === undefined ? "" : `, did you mean ${near === "serve" ? "[serve]" : "[[disk]]"}`;
    faults.push({
      line,
      message: `Cannot use ${JSON.stringify(key)}: a file has the tables [serve] and [[disk]]${hint}`,
      remedy: belongs ? "put it below [serve] or [[disk]]" : "correct or remove it",
    });
  }
}

function ruleOf(table: TomlTable, faults: Fault[]): DiskRule {
  const own = new Map([...table.entries].filter(([key]) => !Object.hasOwn(NAMING_KEYS, key)));
  const matches = readNaming(table, faults);
  // A key that names disks may be what was meant.
  const section = { ...DISK_SECTION, elsewhere: (key: string) => DISK_SECTION.elsewhere(key) ?? misspeltName(key) };
  return { line: table.line, matches, settings: readSettings({ ...table, entries: own }, section, faults) };
}

function misspeltName(key: string): { why: string; remedy: string } | undefined {
  const near = nearest(key, DISK_KEYS);
  return near !== undefined && Object.hasOwn(NAMING_KEYS, near)
    ? { why: `there is no such key, did you mean ${near}`, remedy: "correct or remove it" }
    : undefined;
}

/** Of limits that exclude one another, a table has one kind. */
function checkLimits(tables: readonly Settings[], faults: Fault[]): void {
  for (const settings of tables) {
    const others = new Set(replacedOptions([...settings].map(([name, { value }]) => [name, value])));
    const both = [...settings].filter(([name, { value }]) => others.has(name) && value !== 0);
    if (both.length === 0) continue;
    const names = both.map(([name]) => name).join(" and ");
    const message = `Cannot use ${names} together: limits hold for reads and writes together, or for each of both`;
    faults.push({ line: Math.max(...both.map(([, { line }]) => line)), message, remedy: "remove one of them" });
  }
}

/** Filters are read as the device will; the module of one from outside is loaded for that. */
async function checkFilters(tables: readonly Settings[], faults: Fault[]): Promise<void> {
  for (const settings of tables) {
    const filter = settings.get("filter");
    if (filter === undefined) continue;
    try {
      await chooseFilters(filter.value as readonly string[]); // the option's parser made it
    } catch (error) {
      if (!(error instanceof XenblkError)) throw error;
      faults.push({ line: filter.line, message: error.message, remedy: error.remedy ?? "correct the filter" });
    }
  }
}
