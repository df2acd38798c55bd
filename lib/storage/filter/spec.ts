/**
 * Reads which filters stand in front of a disk: `throttle,iops=500` on the command line, `{ name: "throttle", iops: 500 }`
 * in a program. A name with a slash or a colon is that of a module from outside. Nothing of the disk is opened.
 */

import { XenblkError } from "../../errors.ts";
import { Modules } from "../../modules.ts";
import { lookWithin } from "../../path_lookup.ts";
import type { FilterDefinition, FilterModule, FilterOption, FilterValue, FilterValues } from "./filter.ts";
import { type FilterName, type FilterOptions, filterRow, FILTERS } from "./table.ts";

/** A filter of this project and its options. */
export type BuiltInFilter = {
  readonly [N in FilterName]: { readonly name: N } & FilterOptions[N];
}[FilterName];

/** A filter from outside: the path or the URL of its module, and its options. */
export interface OutsideFilter {
  /** The module: `./my_filter.ts`, relative to the process's directory, or a URL. */
  readonly name: `${string}/${string}` | `${string}:${string}`;
  /** As the module describes them. */
  readonly [option: string]: FilterValue;
}

/** A filter in front of a disk: as on the command line, or as an object. */
export type FilterChoice = string | BuiltInFilter | OutsideFilter;

/** A filter that was found, with all its options. */
export interface ChosenFilter {
  /** As it was named. */
  readonly name: string;
  /** The module's absolute URL. */
  readonly module: string;
  /** What the module says of itself. */
  readonly definition: FilterDefinition;
  /** Of all options. */
  readonly values: FilterValues;
}

const OUTSIDE = new Modules<FilterModule>("openChannel");

/**
 * Reads a list of filters. Rejects with {@linkcode XenblkError} (usage) if one is not known or has a wrong option, and
 * with `failed` if the module of one cannot be loaded.
 */
export async function chooseFilters(choices: readonly FilterChoice[] = []): Promise<readonly ChosenFilter[]> {
  return await Promise.all(choices.map(choose));
}

async function choose(choice: FilterChoice): Promise<ChosenFilter> {
  const isText = typeof choice === "string";
  const { name, given } = isText ? parseText(choice) : parseObject(choice);
  const row = filterRow(name);
  const { module, filter } = row === undefined ? await outside(name) : { module: row.module, filter: await row.load() };
  const values = readValues(name, filter, given, isText ? dashed : asItIs);
  await filter.check?.(values);
  return { name, module, definition: filter, values };
}

/** What was given for options. */
type Given = readonly (readonly [string, FilterValue])[];

function parseText(text: string): { name: string; given: Given } {
  const [name = "", ...rest] = text.split(",");
  const given = rest.map((part) => {
    const at = part.indexOf("=");
    if (at <= 0) throw wrong(name, `${JSON.stringify(part)} is not option=value`);
    // On a command line words are joined by dashes, in a program by capitals.
    const key = part.slice(0, at).replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
    return [key, part.slice(at + 1)] as const;
  });
  return { name, given };
}

/** How a message spells the name of an option: as the one who gave the filter does. */
type Spelling = (key: string) => string;

function dashed(key: string): string {
  return key.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function asItIs(key: string): string {
  return key;
}

function parseObject(choice: Exclude<FilterChoice, string>): { name: string; given: Given } {
  const { name, ...options } = choice;
  return { name: String(name), given: Object.entries<FilterValue | undefined>(options).filter(isGiven) };
}

function isGiven(entry: [string, FilterValue | undefined]): entry is [string, FilterValue] {
  return entry[1] !== undefined;
}

async function outside(name: string): Promise<{ module: string; filter: FilterDefinition }> {
  if (!/[/:]/.test(name)) {
    const names = Object.keys(FILTERS).join(", ");
    throw new XenblkError(`Cannot use filter ${JSON.stringify(name)}: there is none of that name`, {
      kind: "usage",
      remedy: `use one of ${names}, or the path of a module such as ./my_filter.ts`,
    });
  }
  const module = moduleUrl(name);
  if (await isMissing(module)) {
    throw new XenblkError(`Cannot use filter ${name}: there is no such file`, {
      kind: "usage",
      remedy: `name its module's file, by an absolute path or one relative to ${Deno.cwd()}`,
    });
  }
  const { filter } = await OUTSIDE.load(module);
  if (isDefinition(filter)) return { module, filter };
  throw wrong(name, "its module exports no `filter` with options, as docs/filters.md describes it");
}

/** True only for what is certainly no file: whatever else is wrong, the import says it. */
async function isMissing(module: string): Promise<boolean> {
  if (!module.startsWith("file:")) return false;
  const url = new URL(module);
  return await lookWithin(url.pathname, () => Deno.stat(url)).then(
    () => false,
    (error) => error instanceof Deno.errors.NotFound,
  );
}

/** What a module from outside exports has not been checked by a compiler. */
function isDefinition(filter: unknown): filter is FilterDefinition {
  return isObject(filter) && "options" in filter && isObject(filter.options) &&
    Object.values<unknown>({ ...filter.options }).every((option) =>
      isObject(option) && "parse" in option && typeof option.parse === "function"
    );
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

/** A path is relative to the directory of the process. */
function moduleUrl(name: string): string {
  if (/^[a-z][a-z0-9+.-]+:/i.test(name)) return name;
  const url = new URL("file:///");
  url.pathname = (name.startsWith("/") ? name : `${Deno.cwd()}/${name}`).replaceAll("%", "%25");
  return url.href;
}

function readValues(name: string, definition: FilterDefinition, given: Given, spell: Spelling): FilterValues {
  const values: Record<string, FilterValue> = {};
  for (const [key, value] of given) {
    if (Object.hasOwn(values, key)) throw wrong(name, `${spell(key)} is given twice`);
    values[key] = readValue(name, definition, key, value, spell);
  }
  for (const [key, { fallback, help }] of Object.entries(definition.options)) {
    if (values[key] !== undefined) continue;
    if (fallback === undefined) throw wrong(name, `it needs ${spell(key)}: ${help}`);
    values[key] = fallback;
  }
  const refusal = definition.refuse?.(values, spell);
  if (refusal !== undefined) throw wrong(name, refusal);
  return values;
}

/** One value. Throws {@linkcode XenblkError} (usage). */
function readValue(
  name: string,
  { options }: FilterDefinition,
  key: string,
  value: FilterValue,
  spell: Spelling = asItIs,
): FilterValue {
  const option = Object.hasOwn(options, key) ? options[key] : undefined;
  if (option === undefined) {
    const keys = Object.keys(options).map(spell);
    throw wrong(name, `it has no option ${spell(key)}; it has ${keys.length === 0 ? "none" : keys.join(", ")}`);
  }
  const parsed = option.parse(value);
  if (parsed === undefined) throw wrong(name, `${spell(key)} takes ${option.allowed}, not ${JSON.stringify(value)}`);
  return parsed;
}

/** The live options of a filter, in the order in which channels see them. */
export function liveOptions({ options }: FilterDefinition): [string, FilterOption][] {
  return Object.entries(options).filter(([, { live }]) => live !== undefined);
}

/** The values after a change of live ones. Throws {@linkcode XenblkError} (usage), and then nothing has changed. */
export function changedValues(
  { name, definition }: Pick<ChosenFilter, "name" | "definition">,
  before: FilterValues,
  changes: Readonly<Record<string, FilterValue | undefined>>,
): FilterValues {
  const changed: Record<string, FilterValue> = {};
  for (const [key, value] of Object.entries(changes)) {
    if (value === undefined) continue;
    changed[key] = readValue(name, definition, key, value);
    if (definition.options[key]!.live === undefined) {
      throw wrong(name, `${key} cannot be changed while the disk is served`);
    }
  }
  const values = { ...before, ...definition.replaced?.(changed), ...changed };
  const refusal = definition.refuse?.(values, asItIs);
  if (refusal !== undefined) throw wrong(name, refusal);
  return values;
}

function wrong(name: string, why: string): XenblkError {
  return new XenblkError(`Cannot use filter ${name}: ${why}`, { kind: "usage" });
}
