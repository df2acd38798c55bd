/**
 * Reads TOML into a tree in which each key and each value has its line, so that a message about one can name it.
 */

import type { AST } from "npm:toml-eslint-parser@1.0.3";
import { errorText, XenblkError } from "../errors.ts";

/** Keys and their values. */
export interface TomlTable {
  readonly kind: "table";
  readonly line: number;
  readonly entries: ReadonlyMap<string, TomlNode>;
}

/** An array. */
export interface TomlList {
  readonly kind: "list";
  readonly line: number;
  readonly items: readonly TomlNode[];
}

/** A value of one of TOML's simple types. */
export interface TomlScalar {
  readonly kind: "string" | "number" | "boolean" | "time";
  /** The line of its key. */
  readonly line: number;
  /** A string's characters; of another value, how it is written in the file. */
  readonly text: string;
}

/** Anything in a file. */
export type TomlNode = TomlTable | TomlList | TomlScalar;

/** A text that is not TOML. */
export class TomlError extends Error {
  /** Tells it from other errors. */
  override readonly name = "TomlError";

  constructor(message: string, readonly line: number) {
    super(message);
  }
}

/** A table while it is read. */
interface GrowingTable extends TomlTable {
  readonly entries: Map<string, Growing>;
}

/** A list while it is read. */
interface GrowingList extends TomlList {
  readonly items: Growing[];
}

type Growing = GrowingTable | GrowingList | TomlScalar;

/**
 * Reads a text. Rejects with {@linkcode TomlError} for the first place that is not TOML, and with {@linkcode XenblkError}
 * if the parser, which is loaded now, cannot be.
 */
export async function readToml(text: string): Promise<TomlTable> {
  const parse = await loadParser();
  try {
    return treeOf(parsed(parse, text));
  } catch (error) {
    // The parser and what follows call themselves for each level, and the parser's patterns for each character.
    if (!(error instanceof RangeError)) throw error;
    throw new TomlError("it is nested too deeply, or a text in it is too long", 1);
  }
}

function treeOf({ body: [top] }: AST.TOMLProgram): TomlTable {
  const root = emptyTable(1);
  for (const item of top.body) {
    if (item.type === "TOMLKeyValue") put(root, item);
    else {
      const table = tableAt(root, item.resolvedKey, item.loc.start.line);
      for (const entry of item.body) put(table, entry);
    }
  }
  return root;
}

type Parser = typeof import("npm:toml-eslint-parser@1.0.3").parseTOML;

async function loadParser(): Promise<Parser> {
  try {
    return (await import("npm:toml-eslint-parser@1.0.3")).parseTOML;
  } catch (error) {
    throw new XenblkError(`Cannot load the TOML parser, npm package toml-eslint-parser: ${errorText(error)}`, {
      cause: error,
      remedy: "run `deno install` in the checkout once, with network access; packages of xenblk have the parser",
    });
  }
}

function parsed(parse: Parser, text: string): AST.TOMLProgram {
  try {
    return parse(text);
  } catch (error) {
    if (error instanceof RangeError) throw error;
    const line = error instanceof Error && "lineNumber" in error ? Number(error.lineNumber) : 1;
    const why = errorText(error);
    // Where a value is missing, the parser names the place of the next token; or the end of the file.
    const isAfter = why.startsWith("Unspecified values") && !/=\s*(#.*)?$/.test(text.split("\n")[line - 1] ?? "");
    throw new TomlError(why, isAfter ? line - 1 : line);
  }
}

/** The table at a path, where a number is a place in a list. The parser has refused what contradicts itself. */
function tableAt(root: GrowingTable, path: readonly (string | number)[], line: number): GrowingTable {
  let node: Growing = root;
  for (const [index, step] of path.entries()) {
    const fresh = (): Growing =>
      typeof path[index + 1] === "number" ? { kind: "list", line, items: [] } : emptyTable(line);
    node = childOf(node, step, fresh);
  }
  if (node.kind !== "table") throw new TomlError(`${path.join(".")} is no table`, line);
  return node;
}

/** The child at a step; a new one if there is none. */
function childOf(node: Growing, step: string | number, fresh: () => Growing): Growing {
  if (node.kind === "list" && typeof step === "number") return node.items[step] ??= fresh();
  if (node.kind !== "table") throw new TomlError(`${step} is within no table`, node.line);
  const key = String(step);
  const child = node.entries.get(key) ?? fresh();
  node.entries.set(key, child);
  return child;
}

function emptyTable(line: number): GrowingTable {
  return { kind: "table", line, entries: new Map() };
}

function put(table: GrowingTable, { key, value }: AST.TOMLKeyValue): void {
  const { line } = key.loc.start;
  const names = key.keys.map((part) => part.type === "TOMLBare" ? part.name : part.value);
  const last = names.pop()!;
  tableAt(table, names, line).entries.set(last, nodeOf(value, line));
}

function nodeOf(value: AST.TOMLContentNode, line: number): Growing {
  if (value.type === "TOMLArray") {
    const items = value.elements.map((element) => nodeOf(element, element.loc.start.line));
    return { kind: "list", line, items };
  }
  if (value.type === "TOMLInlineTable") {
    const table = emptyTable(line);
    for (const entry of value.body) put(table, entry);
    return table;
  }
  switch (value.kind) {
    case "string":
      return { kind: "string", line, text: value.value };
    case "integer":
    case "float":
      return { kind: "number", line, text: String(value.value) };
    case "boolean":
      return { kind: "boolean", line, text: String(value.value) };
    default:
      return { kind: "time", line, text: value.datetime };
  }
}
