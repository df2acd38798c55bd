/**
 * Parses a verb's arguments by its option table, with `parseArgs` of the standard library. An unknown option or a wrong
 * value is a usage error; the message names the option and says what is allowed.
 */

import { parseArgs } from "@std/cli";
import { XenblkError } from "../errors.ts";
import { flag, type Option, type OptionTable, type OptionValues } from "./options.ts";
import type { VerbFace } from "./verb.ts";

/** Options that every verb has. */
export const COMMON_OPTIONS = {
  help: flag("Show this help and exit", "h"),
  version: flag("Show the version and exit", "V"),
  verbose: flag("Log every step; show the stack of an error", "v"),
  quiet: flag("Show only data and errors: no progress, news or warnings", "q"),
} as const;

/** A verb's arguments, parsed. */
export interface ParsedArguments<T extends OptionTable> {
  readonly options: OptionValues<T>;
  readonly common: OptionValues<typeof COMMON_OPTIONS>;
  /** The operands by name in lower case; an operand that was not given is absent. */
  readonly operands: Readonly<Record<string, string>>;
  /** The names of the options that were given. */
  readonly given: ReadonlySet<string>;
}

/** Parses the arguments after the verb. Throws XenblkError (usage). With `--help` or `--version` operands may be missing. */
export function parseArguments<T extends OptionTable>(
  verb: Pick<VerbFace, "name" | "operands"> & { readonly options: T },
  args: readonly string[],
): ParsedArguments<T> {
  const table: OptionTable = { ...verb.options, ...COMMON_OPTIONS };
  const complain = (message: string): never => {
    throw usageError(verb.name, message);
  };
  refuseMisuse(table, args, complain);
  const parsed = parseArgs(args, {
    ...parserTable(table),
    "--": true,
    unknown: (argument, key) => {
      if (key === undefined) return true;
      return complain(`Cannot use ${optionText(argument)}: ${verb.name} has no such option${hint(table, key)}`);
    },
  });
  const values = optionValues(table, parsed, complain);
  const rest = [...parsed._.map(String), ...(parsed["--"] as string[])];
  const common = pick(values, COMMON_OPTIONS);
  const operands = common.help || common.version ? {} : nameOperands(verb, rest, complain);
  const given = new Set(Object.keys(table).filter((name) => isGiven(parsed[name])));
  return { options: pick(values, verb.options), common, operands, given };
}

/** An error about how the command was called; exit status 2. */
export function usageError(verbName: string | undefined, message: string): XenblkError {
  const command = verbName === undefined ? "xenblk --help" : `xenblk ${verbName} --help`;
  return new XenblkError(message, { kind: "usage", remedy: `see ${command}` });
}

type Complain = (message: string) => never;

function parserTable(
  table: OptionTable,
): { boolean: string[]; string: string[]; collect: string[]; alias: Record<string, string> } {
  const names = Object.keys(table);
  const alias: Record<string, string> = {};
  for (const [name, option] of Object.entries(table)) if (option.short !== undefined) alias[option.short] = name;
  return {
    boolean: names.filter((name) => table[name]!.kind === "flag"),
    // "_": operands stay text, so that a domain named 007 does not become 7.
    string: [...names.filter((name) => table[name]!.kind === "value"), "_"],
    collect: names.filter((name) => isRepeated(table[name]!)),
    alias,
  };
}

function isRepeated(option: Option): boolean {
  return option.kind === "value" && option.repeats === true;
}

/**
 * Refuses mistakes that parseArgs accepts, a flag with a value and a value option given twice, and one that it takes for
 * another: it reads the value of `--timeout -1` as an option.
 */
function refuseMisuse(table: OptionTable, args: readonly string[], complain: Complain): void {
  const seen = new Set<string>();
  const end = args.indexOf("--");
  for (const [index, argument] of (end < 0 ? args : args.slice(0, end)).entries()) {
    const match = /^--([^=]+)(=?)/.exec(argument);
    const option = match === null ? undefined : table[match[1]!];
    if (match === null || option === undefined) continue;
    const name = `--${match[1]}`;
    if (option.kind === "flag" && match[2] === "=") complain(`Cannot use ${argument}: ${name} takes no value`);
    if (option.kind === "value" && !isRepeated(option) && seen.has(name)) complain(`Cannot use ${name} twice`);
    seen.add(name);
    const next = args[index + 1] ?? "";
    if (option.kind === "value" && match[2] === "" && /^-[0-9.]/.test(next)) {
      complain(`Cannot use ${name}=${next}: it takes ${option.allowed}`);
    }
  }
}

function optionValues(
  table: OptionTable,
  parsed: Readonly<Record<string, unknown>>,
  complain: Complain,
): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [name, option] of Object.entries(table)) {
    const given = parsed[name];
    if (option.kind === "flag") {
      values[name] = given === true;
    } else if (given === undefined) {
      values[name] = option.fallback;
    } else if (option.repeats === true) {
      values[name] = (given as string[]).flatMap((each) => optionValue(name, option, each, complain) as unknown[]);
    } else {
      values[name] = optionValue(name, option, String(given), complain);
    }
  }
  return values;
}

function optionValue(name: string, option: Option & { kind: "value" }, given: string, complain: Complain): unknown {
  if (given === "") complain(`Cannot use --${name} without a value: it takes ${option.allowed}`);
  return option.parse(given) ?? complain(`Cannot use --${name}=${given}: it takes ${option.allowed}`);
}

function nameOperands(
  verb: Pick<VerbFace, "name" | "operands">,
  given: readonly string[],
  complain: Complain,
): Record<string, string> {
  const operands: Record<string, string> = {};
  for (const [index, operand] of verb.operands.entries()) {
    const value = given[index];
    if (value !== undefined && value !== "") {
      operand.check?.(value);
      operands[operand.name.toLowerCase()] = value;
    } else if (operand.required) complain(`Cannot run ${verb.name} without ${operand.name}: ${operand.help}`);
    else if (value === "") complain(`Cannot use an empty ${operand.name}`);
  }
  const extra = given[verb.operands.length];
  if (extra !== undefined) {
    const most = verb.operands.length === 0 ? "no operands" : `at most ${verb.operands.map((o) => o.name).join(" ")}`;
    complain(`Cannot use ${JSON.stringify(extra)}: ${verb.name} takes ${most}`);
  }
  return operands;
}

function pick<T extends OptionTable>(values: Readonly<Record<string, unknown>>, table: T): OptionValues<T> {
  // Each value came from the parser of that option, so it has the option's type.
  return Object.fromEntries(Object.keys(table).map((name) => [name, values[name]])) as OptionValues<T>;
}

/** The parser sets flags that were not given to false, and lists to empty ones. */
function isGiven(parsed: unknown): boolean {
  return Array.isArray(parsed) ? parsed.length > 0 : parsed !== undefined && parsed !== false;
}

/** The option as it was given, without its value. */
function optionText(argument: string): string {
  const equals = argument.indexOf("=");
  return equals < 0 ? argument : argument.slice(0, equals);
}

/** `, did you mean --depth` for a name with one typing mistake. */
function hint(table: OptionTable, given: string): string {
  const near = Object.keys(table).find((name) => isOneSlipAway(name, given) || name.startsWith(given));
  return near === undefined || given.length < 2 ? "" : `, did you mean --${near}`;
}

/** True if one letter was dropped, added or changed, or two neighbours were swapped. */
export function isOneSlipAway(right: string, given: string): boolean {
  if (Math.abs(right.length - given.length) > 1) return false;
  let head = 0;
  while (head < right.length && right[head] === given[head]) head++;
  const rest = right.slice(head), other = given.slice(head);
  if (rest.slice(1) === other.slice(1) || rest.slice(1) === other || rest === other.slice(1)) return true;
  return rest[0] === other[1] && rest[1] === other[0] && rest.slice(2) === other.slice(2);
}

/** The short form of an option, if it has one, and the long form. */
export function optionNames(option: Option, name: string): string[] {
  return option.short === undefined ? [`--${name}`] : [`-${option.short}`, `--${name}`];
}
