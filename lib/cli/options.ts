/**
 * The kinds of options that verbs declare: a flag, or a value with its parser, its default, and a description of the
 * allowed values. One table per verb drives parsing, help and completion.
 */

import { formatSize, parseSize } from "../sizes.ts";

/** An option without a value. */
export interface Flag {
  readonly kind: "flag";
  readonly short?: string;
  readonly help: string;
}

/** An option with a value of type `V`. `F` is the type of the default: `V`, or undefined without a default. */
export interface Valued<V, F extends V | undefined> {
  readonly kind: "value";
  readonly short?: string;
  readonly help: string;
  /** The word for the value in help texts: `SIZE`. */
  readonly placeholder: string;
  /** The allowed values, as the end of a sentence: `a whole number from 1 to 32`. */
  readonly allowed: string;
  /** Returns the value, or undefined if the text is not allowed. */
  readonly parse: (text: string) => V | undefined;
  readonly fallback: F;
  /** The default in words, for help texts. */
  readonly fallbackText?: string;
  /** For completion: all allowed values. */
  readonly choices?: readonly string[];
  /** For completion: the value is a file name. */
  readonly isPath?: boolean;
  /** May be given several times. `V` is a list then, and `parse` reads one element. */
  readonly repeats?: boolean;
}

/** Any option. */
export type Option = Flag | Valued<unknown, unknown>;

/** Options by long name, without the dashes. */
export type OptionTable = Readonly<Record<string, Option>>;

/** The result of parsing with a table. */
export type OptionValues<T extends OptionTable> = {
  readonly [K in keyof T]: T[K] extends Valued<infer V, infer F> ? V | F : boolean;
};

/** An option without a value. */
export function flag(help: string, short?: string): Flag {
  return { kind: "flag", help, ...(short === undefined ? {} : { short }) };
}

/** The parts that all kinds of values share. */
export interface Description<V> {
  readonly placeholder: string;
  readonly help: string;
  readonly allowed: string;
  readonly parse: (text: string) => V | undefined;
  readonly short?: string;
  readonly choices?: readonly string[];
  readonly isPath?: boolean;
}

/** An option with a value; undefined if not given. `fallbackText` says in words what then applies. */
export function optional<V>(description: Description<V>, fallbackText?: string): Valued<V, undefined> {
  const common = { kind: "value", ...description, fallback: undefined } as const;
  return fallbackText === undefined ? common : { ...common, fallbackText };
}

/** An option with a value and a default, written as a user would write it. Throws RangeError if it does not parse. */
export function defaulting<V>(description: Description<V>, fallbackText: string): Valued<V, V> {
  const fallback = description.parse(fallbackText);
  if (fallback === undefined) throw new RangeError(`Cannot use ${fallbackText} as a default: ${description.allowed}`);
  return { kind: "value", ...description, fallback, fallbackText };
}

/** An option that may be given several times; the list is empty if it is not given. */
export function repeated<V>(element: Description<V>): Valued<readonly V[], readonly V[]> {
  const parse = (value: string): readonly V[] | undefined => {
    const parsed = element.parse(value);
    return parsed === undefined ? undefined : [parsed];
  };
  return { kind: "value", ...element, help: `${element.help}; may be repeated`, parse, fallback: [], repeats: true };
}

/** What {@linkcode text} allows; help leaves it out. */
export const ANY_TEXT = "a text that is not empty";

/** Any text except the empty one. */
export function text(placeholder: string, help: string): Description<string> {
  return { placeholder, help, allowed: ANY_TEXT, parse: (value) => value === "" ? undefined : value };
}

/** A file name. */
export function path(placeholder: string, help: string): Description<string> {
  return { ...text(placeholder, help), allowed: "a path", isPath: true };
}

/** A whole number in a range, in decimal. */
export function integer(help: string, least: number, most: number, placeholder = "N"): Description<number> {
  return {
    placeholder,
    help,
    allowed: `a whole number from ${least} to ${most}`,
    parse: (value) => within(/^\d{1,15}$/.test(value) ? Number(value) : NaN, least, most),
  };
}

/** A number in a range, with or without a fraction. */
export function decimal(help: string, least: number, most: number, placeholder = "N"): Description<number> {
  return {
    placeholder,
    help,
    allowed: `a number from ${least} to ${most}`,
    parse: (value) => within(/^\d{1,15}(\.\d+)?$/.test(value) ? Number(value) : NaN, least, most),
  };
}

function within(value: number, least: number, most: number): number | undefined {
  return value >= least && value <= most ? value : undefined;
}

/** One word of a fixed list. */
export function choice<const C extends string>(help: string, choices: readonly C[]): Description<C> {
  return {
    placeholder: choices.join("|"),
    help,
    allowed: `one of ${choices.join(", ")}`,
    parse: (value) => choices.find((candidate) => candidate === value),
    choices,
  };
}

/** A size in bytes: a multiple of `unitBytes`. */
export function size(help: string, unitBytes: number, leastBytes: number, mostBytes: number): Description<number> {
  return {
    placeholder: "SIZE",
    help,
    allowed: `a size such as 64K, 64M or 1G, from ${formatSize(leastBytes)} to ${formatSize(mostBytes)}, ` +
      `a multiple of ${unitBytes} bytes`,
    parse: (value) => {
      const bytes = within(sizeOf(value), leastBytes, mostBytes);
      return bytes !== undefined && bytes % unitBytes === 0 ? bytes : undefined;
    },
  };
}

/** Several values of one kind, separated by commas. */
export function list<V>(element: Description<V>): Description<readonly V[]> {
  return {
    placeholder: `${element.placeholder},...`,
    help: element.help,
    allowed: `a list separated by commas, each ${element.allowed}`,
    parse: (value) => {
      const values = value.split(",").map((part) => element.parse(part.trim()));
      return values.every((parsed): parsed is Awaited<V> & NonNullable<V> => parsed !== undefined) ? values : undefined;
    },
  };
}

function sizeOf(value: string): number {
  try {
    return parseSize(value);
  } catch {
    return NaN;
  }
}
