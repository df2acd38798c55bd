/**
 * Reads the keys of a table in a configuration file by a table of options: a key has an option's name, and its value is
 * checked by that option's parser.
 */

import type { TomlNode, TomlTable } from "../../config/toml.ts";
import { isOneSlipAway } from "../args.ts";
import type { Option, OptionTable } from "../options.ts";
import type { Fault } from "./fault.ts";

/** The value of a key, parsed as that of the option. */
export interface Setting {
  readonly value: unknown;
  /** As it stands in the file, a text without its quotes. */
  readonly text: string;
  readonly line: number;
}

/** The settings of a table by the names of their options. */
export type Settings = ReadonlyMap<string, Setting>;

/** A table of the file: how messages call it, and what its keys are. */
export interface Section {
  /** `[serve]`. */
  readonly name: string;
  readonly options: OptionTable;
  /** What to do about a key that is one elsewhere; undefined if it is not. */
  readonly elsewhere: (key: string) => { readonly why: string; readonly remedy: string } | undefined;
}

/** Reads all keys; each one that is wrong adds a fault. */
export function readSettings(table: TomlTable, section: Section, faults: Fault[]): Settings {
  const settings = new Map<string, Setting>();
  for (const [key, node] of table.entries) {
    const option = Object.hasOwn(section.options, key) ? section.options[key] : undefined;
    const fault = (message: string, remedy: string): void => void faults.push({ line: node.line, message, remedy });
    if (option === undefined) {
      const { why, remedy } = section.elsewhere(key) ?? unknownKey(key, section);
      fault(`Cannot use ${JSON.stringify(key)} in ${section.name}: ${why}`, remedy);
      continue;
    }
    const read = option.kind === "flag" ? readFlag(node) : readValue(node, option);
    if ("value" in read) settings.set(key, { ...read, line: node.line });
    else fault(`Cannot use ${key} = ${read.shown} in ${section.name}: it takes ${read.allowed}`, `correct the value`);
  }
  return settings;
}

/** The value, or how the message shows what was given and what is allowed. */
type Read =
  | { readonly value: unknown; readonly text: string }
  | { readonly shown: string; readonly allowed: string };

function readFlag(node: TomlNode): Read {
  if (node.kind === "boolean") return { value: node.text === "true", text: node.text };
  return { shown: shown(node), allowed: "true or false" };
}

function readValue(node: TomlNode, option: Option & { readonly kind: "value" }): Read {
  const { allowed } = option;
  if (node.kind === "list" && option.repeats === true) {
    const parts = node.items.map((item) => readScalar(item, option));
    const values = parts.flatMap((part) => Array.isArray(part) ? part : []);
    if (parts.every(Array.isArray)) return { value: values, text: shown(node) };
    const wrong = node.items[parts.findIndex((part) => !Array.isArray(part))]!;
    return { shown: shown(wrong), allowed: `a list, each ${allowed}` };
  }
  const value = readScalar(node, option);
  if (value === undefined) return { shown: shown(node), allowed };
  return { value, text: node.kind === "string" || node.kind === "number" ? node.text : shown(node) };
}

/** Undefined if the value is not allowed. */
function readScalar(node: TomlNode, option: Option & { readonly kind: "value" }): unknown {
  if ((node.kind !== "string" && node.kind !== "number") || node.text === "") return undefined;
  return option.parse(node.text);
}

/** As it stands in a file. */
function shown(node: TomlNode): string {
  if (node.kind === "list") return `[${node.items.map(shown).join(", ")}]`;
  if (node.kind === "table") return "{...}";
  return node.kind === "string" ? JSON.stringify(node.text) : node.text;
}

function unknownKey(key: string, { name, options }: Section): { why: string; remedy: string } {
  const near = nearest(key, Object.keys(options));
  const why = `there is no such key${near === undefined ? "" : `, did you mean ${near}`}`;
  return { why, remedy: `correct or remove it; docs/config.md has the keys of ${name}` };
}

/** The name that was probably meant: dashes joined by underscores, or one typing mistake. */
export function nearest(given: string, names: readonly string[]): string | undefined {
  const dashed = given.replaceAll("_", "-").toLowerCase();
  return names.find((name) => name === dashed) ??
    names.find((name) => isOneSlipAway(name, dashed) || (dashed.length > 1 && name.startsWith(dashed)));
}
