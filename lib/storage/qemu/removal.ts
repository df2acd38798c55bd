/**
 * The QMP requests that take a disk out of a daemon: its export, what was added for work beside its guest's (jobs, exports
 * and nodes, whose names begin as the disk's own do, see DiskDaemon), its nodes and objects. A bitmap goes with its node; a
 * persistent one of qcow2 stays in the image.
 */

import { XenblkError } from "../../errors.ts";
import { QmpError, type QmpObject } from "./qmp.ts";

/** How long an export may take to end: the requests of its client end before that. */
const EXPORT_MS = 5_000;
/** How long a cancelled job may take to end: what it has started ends before. */
const JOB_MS = 5_000;
const FIRST_LOOK_MS = 2;
const LONGEST_LOOK_MS = 100;

/** Carries out one request. Rejects with {@linkcode QmpError} or QmpSilentError. */
export type Execute = (command: string, args?: QmpObject, timeoutMs?: number) => Promise<unknown>;

/** The parts of a disk that are in a daemon, by name. */
export interface DiskParts {
  readonly exportId: string;
  readonly nodes: readonly string[];
  readonly objects: readonly string[];
}

/**
 * Removes whatever is there of a disk: its own export with its client, jobs and exports that were added for it, then nodes
 * and objects, the last ones first. Rejects with {@linkcode XenblkError}.
 */
export async function closeDisk(execute: Execute, parts: DiskParts): Promise<void> {
  const { exportId, nodes, objects } = parts;
  const prefix = prefixOf(nodes);
  // First: a mirror must not end while it has requests of the guest's (jobs/mirror.ts).
  if (await isExported(execute, exportId)) await endExport(execute, exportId);
  if (prefix !== "") await endAddedWork(execute, prefix, exportId);
  if (prefix !== "") await removeNamed(execute, prefix, parts);
  for (const name of nodes.toReversed()) await ifPresent(execute("blockdev-del", { "node-name": name }));
  for (const id of objects.toReversed()) await ifPresent(execute("object-del", { id }));
}

/** Removes what was added for work beside the guest's, while nobody uses the disk. Rejects with {@linkcode XenblkError}. */
export async function removeAdded(execute: Execute, parts: DiskParts): Promise<void> {
  const prefix = prefixOf(parts.nodes);
  if (prefix === "") return;
  await endAddedWork(execute, prefix, parts.exportId);
  await removeNamed(execute, prefix, parts);
}

/** Removes nodes and objects whose names begin so, but for a disk's own; what is in use stays. Rejects as `execute` does. */
export async function removeNamed(
  execute: Execute,
  prefix: string,
  { nodes, objects }: Pick<DiskParts, "nodes" | "objects"> = { nodes: [], objects: [] },
): Promise<void> {
  await removeAddedNodes(execute, prefix, nodes);
  for (const id of await objectsOf(execute)) {
    if (id.startsWith(prefix) && !objects.includes(id)) await unlessRefused(execute("object-del", { id }));
  }
}

/** Ends an export once its requests have ended. Rejects with {@linkcode XenblkError} if they do not in time. */
export async function endExport(execute: Execute, id: string): Promise<void> {
  await ifPresent(execute("block-export-del", { id, mode: "hard" }));
  for (const wait = new Wait(EXPORT_MS); await isExported(execute, id); await wait.next()) {
    if (!wait.isOver) continue;
    throw new XenblkError(`Cannot remove the export ${id}: its requests have not ended for ${EXPORT_MS / 1000} s`, {
      remedy: "look at the storage of the image: it does not answer",
    });
  }
}

/** Whether there is an export of that name. */
export async function isExported(execute: Execute, id: string): Promise<boolean> {
  return (await exportsOf(execute)).some((known) => known.id === id);
}

function prefixOf([first = ""]: readonly string[]): string {
  return first.slice(0, first.indexOf("-") + 1);
}

async function endAddedWork(execute: Execute, prefix: string, exportId: string): Promise<void> {
  await endJobs(execute, prefix);
  for (const { id, "node-name": node } of await exportsOf(execute)) {
    if (id !== exportId && (`${node}`.startsWith(prefix) || `${id}`.startsWith(prefix))) {
      await endExport(execute, `${id}`);
    }
  }
}

async function endJobs(execute: Execute, prefix: string): Promise<void> {
  for (const wait = new Wait(JOB_MS);; await wait.next()) {
    const all = await execute("query-jobs") as readonly QmpObject[];
    const jobs = all.filter(({ id }) => `${id}`.startsWith(prefix));
    if (jobs.length === 0) return;
    if (wait.isOver) {
      throw new XenblkError(`Cannot end job ${jobs[0]!.id}: it has not ended for ${JOB_MS / 1000} s`, {
        remedy: "look at the storage of its target: it does not answer",
      });
    }
    // One may end by itself meanwhile, or be unable to take the request yet.
    for (const { id, status } of jobs) {
      await unlessRefused(execute(status === "concluded" ? "job-dismiss" : "job-cancel", { id }));
    }
  }
}

/** Those that use others first, whatever their order. Nodes that the disk's own use stay. */
async function removeAddedNodes(execute: Execute, prefix: string, own: readonly string[]): Promise<void> {
  let left = (await nodeNames(execute)).filter((name) => name.startsWith(prefix) && !own.includes(name));
  for (let before = Infinity; left.length < before;) {
    before = left.length;
    const used: string[] = [];
    for (const name of left) {
      if (!await unlessRefused(ifPresent(execute("blockdev-del", { "node-name": name })))) used.push(name);
    }
    left = used;
  }
}

/** The objects of the daemon. It has no list of them before it had the first one. */
async function objectsOf(execute: Execute): Promise<string[]> {
  try {
    const found = await execute("qom-list", { path: "/objects" }) as readonly QmpObject[];
    return found.map(({ name }) => `${name}`);
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    return [];
  }
}

/**
 * The names of all nodes. The usual request fails as a whole while the image of one disk is marked as damaged: QEMU then has
 * "ejected" it.
 */
export async function nodeNames(execute: Execute): Promise<string[]> {
  try {
    const nodes = await execute("query-named-block-nodes", { flat: true }) as readonly QmpObject[];
    return nodes.map((node) => `${node["node-name"]}`);
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    const { nodes } = await execute("x-debug-query-block-graph") as { readonly nodes: readonly QmpObject[] };
    return nodes.flatMap(({ name, type }) => type === "block-driver" ? [`${name}`] : []);
  }
}

/** All exports of the daemon. */
export async function exportsOf(execute: Execute): Promise<readonly QmpObject[]> {
  return await execute("query-block-exports") as readonly QmpObject[];
}

/** Waits between looks, each twice as long as the one before. */
class Wait {
  readonly #deadline: number;
  #waitMs = FIRST_LOOK_MS;

  constructor(limitMs: number) {
    this.#deadline = performance.now() + limitMs;
  }

  get isOver(): boolean {
    return performance.now() >= this.#deadline;
  }

  async next(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, this.#waitMs));
    this.#waitMs = Math.min(2 * this.#waitMs, LONGEST_LOOK_MS);
  }
}

/** Resolves also if what a request is about is not there. */
async function ifPresent(request: Promise<unknown>): Promise<void> {
  try {
    await request;
  } catch (error) {
    const absent = /Failed to find node|object '.*' not found|is not found|Export '.*' is not found/;
    if (!(error instanceof QmpError) || !absent.test(error.description)) throw error;
  }
}

/** False: the daemon has refused it. */
async function unlessRefused(request: Promise<unknown>): Promise<boolean> {
  try {
    await request;
    return true;
  } catch (error) {
    if (!(error instanceof QmpError)) throw error;
    return false;
  }
}
