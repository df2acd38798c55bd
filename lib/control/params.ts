/**
 * Reads the parameters of requests: each has a row that says what is allowed, and one that has no row is refused.
 */

import { XenblkError } from "../errors.ts";

/** What a parameter may be, and how it is read. */
export interface Param<T> {
  /** As after "it takes". */
  readonly allowed: string;
  /** Undefined if the value is not allowed. */
  readonly read: (value: unknown) => T | undefined;
}

/** Parameters by name. */
export type ParamTable = Readonly<Record<string, Param<unknown>>>;

/** What a table reads. Each may be absent. */
export type ParamValues<T extends ParamTable> = {
  readonly [Name in keyof T]?: T[Name] extends Param<infer V> ? V : never;
};

/** A text that is not empty. */
export const TEXT: Param<string> = {
  allowed: "a text",
  read: (value) => typeof value === "string" && value !== "" ? value : undefined,
};

/** True or false. */
export const FLAG: Param<boolean> = {
  allowed: "true or false",
  read: (value) => typeof value === "boolean" ? value : undefined,
};

/** A whole number in a range. */
export function whole(least: number, most: number): Param<number> {
  return {
    allowed: `a whole number from ${least} to ${most}`,
    read: (value) =>
      typeof value === "number" && Number.isInteger(value) && value >= least && value <= most ? value : undefined,
  };
}

/** One of some words. */
export function word<const W extends string>(words: readonly W[]): Param<W> {
  return { allowed: `one of ${words.join(", ")}`, read: (value) => words.find((each) => each === value) };
}

/** A list. */
export function list<T>(element: Param<T>): Param<readonly T[]> {
  return {
    allowed: `a list, each ${element.allowed}`,
    read: (value) => {
      if (!Array.isArray(value)) return undefined;
      const read = value.map((each: unknown) => element.read(each));
      return read.every((each): each is NonNullable<typeof each> => each !== undefined) ? read : undefined;
    },
  };
}

/** An object of named values, read by a table of its own. */
export function object<T extends ParamTable>(table: T): Param<ParamValues<T>> {
  return {
    allowed: `an object with ${Object.entries(table).map(([name, { allowed }]) => `${name} (${allowed})`).join(", ")}`,
    read: (value) => {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
      const read = readEach(table, value);
      return read.every(([name, each]) => each !== undefined && Object.hasOwn(table, name))
        ? values(table, read)
        : undefined;
    },
  };
}

/**
 * Reads the parameters of a method. Throws {@linkcode XenblkError} (`usage`) for one that is not known or not allowed, or
 * that is required and absent.
 */
export function readParams<T extends ParamTable, R extends keyof T & string = never>(
  method: string,
  table: T,
  params: Readonly<Record<string, unknown>>,
  required: readonly R[] = [],
): ParamValues<T> & { readonly [Name in R]-?: NonNullable<ParamValues<T>[Name]> } {
  const refuse = (why: string, remedy?: string): never => {
    throw new XenblkError(`Cannot run ${method}: ${why}`, {
      kind: "usage",
      ...(remedy === undefined ? {} : { remedy }),
    });
  };
  const read = readEach(table, params);
  for (const [name, value] of read) {
    const param = Object.hasOwn(table, name) ? table[name] : undefined;
    if (param === undefined) {
      refuse(`there is no parameter ${JSON.stringify(name)}`, `use ${Object.keys(table).join(", ") || "none"}`);
    } else if (value === undefined) refuse(`${name} takes ${param.allowed}`);
  }
  const missing = required.find((name) => !read.some(([given]) => given === name));
  if (missing !== undefined) refuse(`it needs ${missing}: ${table[missing]!.allowed}`);
  return values(table, read) as ReturnType<typeof readParams<T, R>>;
}

function readEach(table: ParamTable, given: object): [string, unknown][] {
  return Object.entries(given).map(([name, value]) => [
    name,
    Object.hasOwn(table, name) ? table[name]!.read(value) : undefined,
  ]);
}

/** Each value was read by the row of its name. */
function values<T extends ParamTable>(_table: T, read: readonly [string, unknown][]): ParamValues<T> {
  return Object.fromEntries(read) as ParamValues<T>;
}
