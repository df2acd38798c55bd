/**
 * A disk at one instant, beside its guest, in a daemon: the QMP requests that add and remove it. A node copy-before-write
 * stands between the disk and its guest, and copies what the guest is about to overwrite into a scratch image first; a node
 * snapshot-access shows the disk as it was. What fails with the scratch image breaks that view, not the guest's writes
 * (QEMU 7.1: on-cbw-error). An NBD export shows the view to readers.
 */

import { XenblkError } from "../../errors.ts";
import type { DaemonMonitor } from "../disk.ts";

import { QmpError, type QmpObject } from "./qmp.ts";
import { endExport, type Execute, exportsOf, nodeNames } from "./removal.ts";
import type { Scratch } from "./scratch.ts";

/** How long a guest's write waits for the scratch file: then the view is given up. */
const COPY_SECONDS = 10;
/** How long a daemon may take to say what it does. */
const ASK_MS = 2_000;
/** The version of QEMU that gives a view up rather than a write. */
const LEAST_VERSION = [7, 1] as const;

/** The names of all nodes of a view, by the disk's prefix (`d51712-`); that of the view is its export's, too. */
export interface InstantNames {
  readonly file: string;
  readonly bound: string;
  readonly scratch: string;
  readonly filter: string;
  readonly view: string;
}

/** A disk has one view at a time. */
export function instantNames(prefix: string): InstantNames {
  const name = (part: string): string => `${prefix}export-${part}`;
  return {
    file: name("file"),
    bound: name("bound"),
    scratch: name("scratch"),
    filter: name("filter"),
    view: name("view"),
  };
}

/** The prefix of a node's name. */
export function prefixOf(node: string): string {
  return node.slice(0, node.indexOf("-") + 1);
}

/** Throws {@linkcode XenblkError} for a QEMU that is too old. `what`: the beginning of the sentence. */
export function checkVersion({ version }: DaemonMonitor, what: string): void {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > LEAST_VERSION[0] || (major === LEAST_VERSION[0] && minor >= LEAST_VERSION[1])) return;
  throw new XenblkError(`${what}: QEMU ${version} would fail the guest's writes when the scratch file is full`, {
    remedy: `install QEMU ${LEAST_VERSION.join(".")} or later`,
  });
}

/** Opens the scratch image. `bound` keeps it from becoming larger than its file is now. */
export async function openScratch(
  { execute, allow }: DaemonMonitor,
  names: InstantNames,
  scratch: Scratch,
): Promise<void> {
  const { file, bound } = names;
  const { path, limitBytes } = scratch;
  await allow([{ path, writable: true }]);
  await execute("blockdev-add", { driver: "file", "node-name": file, filename: path });
  await execute("blockdev-add", { driver: "raw", "node-name": bound, file, size: limitBytes });
  // Nobody reads it after a crash, so nothing has to be on the disk.
  const cache = { direct: false, "no-flush": true };
  await execute("blockdev-add", { driver: "qcow2", "node-name": names.scratch, file: bound, cache });
}

/**
 * Begins the view, on the node that is the guest's while its requests wait; the node that they must go through from then on.
 * The view has a copy of a bitmap, which stays as it is.
 */
export async function beginView(
  { execute }: DaemonMonitor,
  { filter, scratch, view }: InstantNames,
  { node, top, bitmap }: { readonly node: string; readonly top: string; readonly bitmap: string | undefined },
): Promise<string> {
  const gives = { "on-cbw-error": "break-snapshot", "cbw-timeout": COPY_SECONDS };
  await execute("blockdev-add", {
    driver: "copy-before-write",
    "node-name": filter,
    file: node,
    target: scratch,
    ...gives,
  });
  await execute("blockdev-add", { driver: "snapshot-access", "node-name": view, file: filter });
  if (bitmap === undefined) return filter;
  await execute("block-dirty-bitmap-add", { node: view, name: bitmap, disabled: true });
  const bitmaps = [{ node: top, name: bitmap }];
  await execute("block-dirty-bitmap-merge", { node: view, target: bitmap, bitmaps });
  return filter;
}

/** Exports the view by the daemon's NBD server, which is started if it does not run. */
export async function exportView(
  { execute }: DaemonMonitor,
  { view }: InstantNames,
  { socket, name, bitmap }: { readonly socket: string; readonly name: string; readonly bitmap: string | undefined },
): Promise<void> {
  await unless(/already running/, execute("nbd-server-start", { addr: { type: "unix", data: { path: socket } } }));
  const bitmaps = bitmap === undefined ? {} : { bitmaps: [bitmap] };
  await execute("block-export-add", { type: "nbd", id: view, "node-name": view, name, writable: false, ...bitmaps });
}

/**
 * Removes what is there of a view, but for its scratch image; its readers lose their connections. Rejects while the guest is
 * served through it: that goes first, by {@linkcode nodeBehind}.
 */
export async function removeView(execute: Execute, prefix: string): Promise<void> {
  const { filter, view } = instantNames(prefix);
  await endReaders(execute, prefix);
  await removeNodes(execute, [view, filter]);
}

/** Whether the nodes of a view are there. */
export async function isViewed(execute: Execute, prefix: string): Promise<boolean> {
  const { filter, view } = instantNames(prefix);
  return (await nodeNames(execute)).some((name) => name === filter || name === view);
}

/** Throws {@linkcode XenblkError} if the disk has a view, through which the guest is served. `what`: as above. */
export async function checkNotViewed(execute: Execute, prefix: string, what: string): Promise<void> {
  if (!await isViewed(execute, prefix)) return;
  throw new XenblkError(`${what}: the disk is exported, and the export has to see the guest's writes first`, {
    remedy: "end it (`xenblk export DOMAIN VDEV --end`), or wait for its end",
  });
}

/** What the daemon does on a disk beside its guest's requests, in a word; undefined: nothing. A job that is over is nothing. */
export async function workOn(execute: Execute, prefix: string): Promise<string | undefined> {
  const jobs = await execute("query-jobs", undefined, ASK_MS) as readonly QmpObject[];
  const isOver = ({ status }: QmpObject): boolean => status === "concluded" || status === "null";
  const job = jobs.find((job) => `${job.id}`.startsWith(prefix) && !isOver(job));
  if (job !== undefined) return `${job.id}`.slice(prefix.length);
  return await isViewed(execute, prefix) ? "export" : undefined;
}

/** Closes the scratch image, if it is there, after {@linkcode removeView}. The path of its file. */
export async function closeScratch(execute: Execute, prefix: string): Promise<string[]> {
  const { file, bound, scratch } = instantNames(prefix);
  const path = await pathOf(execute, file);
  await removeNodes(execute, [scratch, bound, file]);
  return path === undefined ? [] : [path];
}

/** Those that are there, in that order. */
async function removeNodes(execute: Execute, names: readonly string[]): Promise<void> {
  const present = await nodeNames(execute);
  for (const name of names) if (present.includes(name)) await execute("blockdev-del", { "node-name": name });
}

/** The path of a node's file; undefined if there is no such node, or the daemon does not tell: see nodeNames. */
async function pathOf(execute: Execute, name: string): Promise<string | undefined> {
  if (!(await nodeNames(execute)).includes(name)) return undefined;
  try {
    return `${(await nodesOf(execute)).find((node) => node["node-name"] === name)?.["file"]}`;
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    return undefined;
  }
}

/**
 * Ends the export of a view. The NBD server goes on without exports: QEMU 7.2 hangs in nbd-server-stop, with all of the
 * guest's disks, if a reader connects at that moment.
 */
export async function endReaders(execute: Execute, prefix: string): Promise<void> {
  const { view } = instantNames(prefix);
  if ((await exportsOf(execute)).some(({ id }) => id === view)) await endExport(execute, view);
}

/** What the guest is to be served from once the view is gone: the node behind the filter, if it is served through that. */
export async function nodeBehind(execute: Execute, prefix: string, node: string): Promise<string> {
  return node === instantNames(prefix).filter ? await nodeBelow(execute, node) : node;
}

/** The node that a filter stands over at present: another one than when it was added, if a snapshot was taken since. */
export async function nodeBelow(execute: Execute, node: string): Promise<string> {
  const { nodes, edges } = await execute("x-debug-query-block-graph") as Graph;
  const parent = nodes.find(({ name }) => name === node)?.id;
  const child = edges.find((edge) => edge.parent === parent && edge.name === "file")?.child;
  const behind = nodes.find(({ id }) => id === child)?.name;
  if (behind === undefined) throw new XenblkError(`Cannot find the node behind ${node} in its storage daemon`);
  return behind;
}

/** What is left of a disk whose view was ended. */
export interface LeftOfView {
  /** The disk's own export went with the view: the node that it must be made from anew. */
  readonly node?: string;
  /** The path of the file that was closed. */
  readonly closed: readonly string[];
}

/** Ends what an earlier process has begun, while nobody is connected to the disk's own export. */
export async function endLeftView(execute: Execute, prefix: string, exportId: string): Promise<LeftOfView> {
  const node = (await exportsOf(execute)).find(({ id }) => id === exportId)?.["node-name"];
  const isThrough = node === instantNames(prefix).filter;
  const behind = isThrough ? { node: await nodeBehind(execute, prefix, node) } : {};
  if (isThrough) await endExport(execute, exportId);
  await removeView(execute, prefix);
  return { ...behind, closed: await closeScratch(execute, prefix) };
}

/** The bitmaps that a node has. Rejects while the image of any disk of the daemon is marked as damaged, see nodeNames. */
export async function bitmapsOf(execute: Execute, name: string): Promise<readonly string[]> {
  const node = (await nodesOf(execute)).find((each) => each["node-name"] === name);
  return ((node?.["dirty-bitmaps"] ?? []) as readonly QmpObject[]).map(({ name }) => `${name}`);
}

/** Of x-debug-query-block-graph, which all versions of QEMU since 4.0 have. */
interface Graph {
  readonly nodes: readonly { readonly id: number; readonly name: string }[];
  readonly edges: readonly { readonly parent: number; readonly child: number; readonly name: string }[];
}

async function nodesOf(execute: Execute): Promise<readonly QmpObject[]> {
  return await execute("query-named-block-nodes", { flat: true }) as readonly QmpObject[];
}

/** Resolves also if the daemon refuses for that reason. */
async function unless(reason: RegExp, request: Promise<unknown>): Promise<void> {
  try {
    await request;
  } catch (error) {
    if (!(error instanceof QmpError) || !reason.test(error.description)) throw error;
  }
}
