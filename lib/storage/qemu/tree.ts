/**
 * A disk as QEMU's `json:` names it: a node with its children inside, up to the files. Walks such trees, and reads them
 * from JSON.
 */

import { XenblkError } from "../../errors.ts";
import { withoutPasswords } from "../image/spec.ts";

/**
 * A node and, as values of its options, its children. Options that name objects, such as `key-secret`, name the object's
 * file here, and `tls-creds` its directory.
 */
export interface BlockTree {
  /** A protocol (`file`, `nbd`, ...) or a format (`raw`, `qcow2`, ...). */
  readonly driver: string;
  /** The driver's own: text, numbers, children, lists of them. */
  readonly [option: string]: unknown;
}

/** Options with one child; a string there would refer to another node of the daemon. */
const CHILDREN = new Set(["file", "backing", "data-file"]);
/** Drivers of local files, with the option `filename`. */
const LOCAL = new Set(["file", "host_device", "host_cdrom"]);
/** Options that hold a secret, and those that name a file with it. */
const SECRETS: ReadonlyMap<string, string> = new Map([["password", "password-secret"], ["cookie", "cookie-secret"]]);
/** Deepest nesting of options; a chain of backing files has its own bound. */
const MOST_NESTED = 64;

/** Whether an option's value is a node. */
export function isTree(value: unknown): value is BlockTree {
  return isRecord(value) && typeof value["driver"] === "string";
}

/** Whether a value is an object with options. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The path of a node that is a local file or device; undefined for any other node. */
export function localPath({ driver, filename }: BlockTree): string | undefined {
  return LOCAL.has(driver) && typeof filename === "string" ? filename : undefined;
}

/** A child, and the option that names it. */
export interface Child {
  readonly option: string;
  readonly tree: BlockTree;
}

/** The node's children, in the order in which it names them. */
export function childrenOf(tree: BlockTree): Child[] {
  const found = (value: unknown, option: string): Child[] => {
    if (isTree(value)) return [{ option, tree: value }];
    return Array.isArray(value) ? value.flatMap((item) => found(item, option)) : [];
  };
  return Object.entries(tree).flatMap(([option, value]) => found(value, option));
}

/** The node with something in place of each child. */
export function withChildren<T>(tree: BlockTree, inPlace: ReadonlyMap<BlockTree, T>): BlockTree {
  const replaced = (value: unknown): unknown => {
    if (isTree(value)) return inPlace.get(value);
    return Array.isArray(value) ? value.map(replaced) : value;
  };
  const options = Object.entries(tree).map(([option, value]) => [option, replaced(value)]);
  return { ...Object.fromEntries(options), driver: tree.driver };
}

/** All nodes, a node before its children. */
export function nodesOf(tree: BlockTree): BlockTree[] {
  return [tree, ...childrenOf(tree).flatMap((child) => nodesOf(child.tree))];
}

/** The tree in which the image of that path, a backing file, is passed over: what is below it is in its place. */
export function withoutBacking(tree: BlockTree, path: string): BlockTree {
  const { backing } = tree;
  if (!isTree(backing)) return tree;
  const { file } = backing;
  const isIt = isTree(file) && localPath(file) === path;
  return { ...tree, backing: isIt ? backing["backing"] ?? null : withoutBacking(backing, path) };
}

/** The tree with every text replaced, however deep. */
export function mapOptions(tree: BlockTree, map: (option: string, value: string) => string): BlockTree {
  const replace = (option: string, value: unknown): unknown => {
    if (typeof value === "string") return map(option, value);
    if (Array.isArray(value)) return value.map((item) => replace(option, item));
    return isRecord(value)
      ? Object.fromEntries(Object.entries(value).map(([of, item]) => [of, replace(of, item)]))
      : value;
  };
  return replace("", tree) as BlockTree;
}

/** Makes the error about a tree. */
type Complaint = (why: string, remedy: string) => XenblkError;

/**
 * Reads what follows `json:`. As in QEMU, a key with dots is nested (`file.driver`), and a `file` without a driver is a
 * local file. Throws {@linkcode XenblkError} (usage) for anything that is not a tree of nodes, for a reference to a node
 * by its name, and for a password or cookie.
 */
export function parseTree(json: string, label: string): BlockTree {
  const bad: Complaint = (why, remedy) =>
    new XenblkError(`Cannot use image ${label}: ${why}`, { kind: "usage", remedy });
  const tree = nested(readJson(json, bad), bad, 0);
  const check = (node: unknown, option: string): unknown => {
    if (Array.isArray(node)) return node.map((item) => check(item, option));
    if (!isRecord(node)) {
      if (CHILDREN.has(option) && typeof node === "string") {
        throw bad(`its option ${option} refers to the node ${node}`, "write that node's options in place of its name");
      }
      return node;
    }
    for (const [of, file] of SECRETS) {
      if (of in node) throw bad(`it contains a ${of}`, `name a file that holds it in "${file}"`);
    }
    if (withoutPasswords(`${node["url"]}`) !== `${node["url"]}`) {
      throw bad("its url contains a password", 'write "username", and name a file in "password-secret"');
    }
    const { "node-name": _named, ...options } = node;
    const checked = Object.fromEntries(Object.entries(options).map(([of, value]) => [of, check(value, of)]));
    if (!CHILDREN.has(option) || "driver" in checked) return checked;
    if (typeof checked["filename"] === "string") return { ...checked, driver: "file" };
    throw bad(`its option ${option} has no driver`, 'add "driver"');
  };
  const checked = check(tree, "");
  if (isTree(checked)) return checked;
  throw bad("it has no driver, so a guest could choose the format", 'add "driver":"qcow2" or another format');
}

function readJson(json: string, bad: Complaint): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw bad("it is not JSON", "write it as blockdev-add takes it");
  }
  if (isRecord(value)) return value;
  throw bad("it is not an object", "write options in braces, as blockdev-add takes them");
}

/** Turns `{"file.driver":"nbd"}` into `{"file":{"driver":"nbd"}}`, and objects with the keys 0, 1, ... into lists. */
function nested(
  options: Record<string, unknown>,
  bad: Complaint,
  depth: number,
): Record<string, unknown> {
  const groups = new Map<string, unknown>();
  for (const [key, value] of Object.entries(options)) {
    const dot = key.indexOf(".");
    const [name, rest] = dot < 0 ? [key, undefined] : [key.slice(0, dot), key.slice(dot + 1)];
    const inner = rest === undefined ? value : { [rest]: value };
    const before = groups.get(name);
    const both = isRecord(before) && isRecord(inner) ? { ...before, ...inner } : inner;
    if (before !== undefined && both === inner) throw bad(`it has the option ${name} twice`, "leave one of them out");
    groups.set(name, both);
  }
  return Object.fromEntries([...groups].map(([name, value]) => [name, nestedValue(value, bad, depth + 1)]));
}

function nestedValue(value: unknown, bad: Complaint, depth: number): unknown {
  if (depth > MOST_NESTED) throw bad("its options are nested too deep", `nest at most ${MOST_NESTED}`);
  if (Array.isArray(value)) return value.map((item) => nestedValue(item, bad, depth + 1));
  return isRecord(value) ? listOf(nested(value, bad, depth)) : value;
}

function listOf(options: Record<string, unknown>): unknown {
  const keys = Object.keys(options);
  return keys.length > 0 && keys.every((key, at) => key === String(at)) ? Object.values(options) : options;
}
