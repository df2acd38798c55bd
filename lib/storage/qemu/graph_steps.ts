/**
 * The QMP requests that open, export and close one disk of a daemon (QEMU: qapi/block-core.json, block-export.json).
 */

import { XenblkError } from "../../errors.ts";
import { type AioModes, type DiskPlan, modesAfter } from "./plan.ts";
import { QmpError, type QmpObject } from "./qmp.ts";
import { repair, wasLeftOpen } from "./repair.ts";

/** How long an export may take to end: the requests of its client end before that. */
const EXPORT_MS = 5_000;
const FIRST_LOOK_MS = 2;
const LONGEST_LOOK_MS = 100;

/** Carries out one request. Rejects with {@linkcode QmpError} or {@linkcode QmpSilentError}. */
export type Execute = (command: string, args?: QmpObject, timeoutMs?: number) => Promise<unknown>;

/** The parts of a disk that are in a daemon, by name. */
export interface DiskParts {
  readonly exportId: string;
  readonly nodes: readonly string[];
  readonly objects: readonly string[];
}

/**
 * Adds the disk's objects and nodes; by other system calls where the host does not let the daemon have the fastest, for
 * all later disks, too. An image that its last writer left open is repaired. Rejects as `execute` does; then some may have
 * been added.
 */
export async function openDiskAsPermitted(
  execute: Execute,
  plan: DiskPlan,
  environment: { aio: AioModes },
  warn: (message: string) => void,
): Promise<void> {
  for (let isRepaired = false;;) {
    try {
      return await openDisk(execute, plan, environment.aio);
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
      const modes = modesAfter(error.description, environment.aio);
      if (modes !== undefined) {
        warn(`opened with aio=${modes.aio}, which is slower: ${error.description}`);
        environment.aio = modes;
      } else if (!isRepaired && wasLeftOpen(error)) {
        warn(await repair(plan.nodes(environment.aio), error));
        isRepaired = true;
      } else {
        throw error;
      }
      await closeDisk(execute, { exportId: plan.exportId, nodes: plan.nodeNames, objects: plan.objectIds });
    }
  }
}

async function openDisk(execute: Execute, plan: DiskPlan, modes: AioModes): Promise<void> {
  for (const object of plan.objects) await execute("object-add", object);
  for (const node of plan.nodes(modes)) await execute("blockdev-add", node);
}

/** Exports the disk's top node. */
export async function exportDisk(execute: Execute, options: QmpObject): Promise<void> {
  await execute("block-export-add", options);
}

/**
 * Exports the disk anew, for an export that does not notice what has changed, or from the node that `call` resolves with. Its
 * client loses its connection; the images stay open. `call` gets the node that is exported now: a job or a snapshot may have
 * put another one in place of the disk's top node.
 */
export async function exportAnew(
  execute: Execute,
  options: QmpObject,
  call: (node: string) => Promise<string> = (node) => Promise.resolve(node),
): Promise<void> {
  const id = `${options.id}`;
  const present = (await exportsOf(execute)).find((known) => known.id === id);
  const node = `${(present ?? options)["node-name"]}`;
  await endExport(execute, id);
  await exportDisk(execute, { ...options, "node-name": await call(node) });
}

/** The size of a node, in bytes. */
export async function nodeSize(execute: Execute, name: string): Promise<number> {
  const nodes = await execute("query-named-block-nodes", { flat: true }) as readonly QmpObject[];
  const node = nodes.find((each) => each["node-name"] === name);
  return Number((node?.image as QmpObject | undefined)?.["virtual-size"]);
}

/** Which parts of a disk are there. */
export async function presentParts(
  execute: Execute,
  { nodeNames, exportId }: DiskPlan,
): Promise<{ readonly nodes: boolean; readonly exported: boolean }> {
  const nodes = await execute("query-named-block-nodes", { flat: true }) as readonly QmpObject[];
  const names = new Set(nodes.map((node) => node["node-name"]));
  return { nodes: nodeNames.every((name) => names.has(name)), exported: await isExported(execute, exportId) };
}

/** Removes whatever is there of a disk: its export with its client, then nodes and objects, the last ones first. */
export async function closeDisk(execute: Execute, { exportId, nodes, objects }: DiskParts): Promise<void> {
  if (await isExported(execute, exportId)) await endExport(execute, exportId);
  for (const name of nodes.toReversed()) await ifPresent(execute("blockdev-del", { "node-name": name }));
  for (const id of objects.toReversed()) await ifPresent(execute("object-del", { id }));
}

/** Ends an export once its requests have ended. Rejects with {@linkcode XenblkError} if they do not in time. */
export async function endExport(execute: Execute, id: string): Promise<void> {
  await ifPresent(execute("block-export-del", { id, mode: "hard" }));
  const deadline = performance.now() + EXPORT_MS;
  for (let waitMs = FIRST_LOOK_MS; await isExported(execute, id); waitMs = Math.min(2 * waitMs, LONGEST_LOOK_MS)) {
    if (performance.now() >= deadline) {
      throw new XenblkError(`Cannot remove the export ${id}: its requests have not ended for ${EXPORT_MS / 1000} s`, {
        remedy: "look at the storage of the image: it does not answer",
      });
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
}

async function isExported(execute: Execute, id: string): Promise<boolean> {
  return (await exportsOf(execute)).some((known) => known.id === id);
}

/** All exports of the daemon. */
export async function exportsOf(execute: Execute): Promise<readonly QmpObject[]> {
  return await execute("query-block-exports") as readonly QmpObject[];
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
