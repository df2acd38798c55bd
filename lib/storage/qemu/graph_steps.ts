/**
 * The QMP requests that open and export one disk of a daemon (QEMU: qapi/block-core.json, block-export.json).
 */

import { XenblkError } from "../../errors.ts";
import type { Reroute } from "../disk.ts";
import { type AioModes, type DiskPlan, modesAfter } from "./plan.ts";
import { QmpError, type QmpObject } from "./qmp.ts";
import { closeDisk, type DiskParts, endExport, type Execute, exportsOf, isExported, nodeNames } from "./removal.ts";
import { repair, wasLeftOpen } from "./repair.ts";

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
 * Exports the disk anew: the node that was exported, which a job or a snapshot may have put in place of the disk's top node, or
 * the one that `change` resolves with while nobody uses the disk. Its client loses its connection; the images stay open.
 */
export async function exportAnew(execute: Execute, options: QmpObject, change?: Reroute): Promise<void> {
  const id = `${options.id}`;
  const present = (await exportsOf(execute)).find((known) => known.id === id);
  const node = `${(present ?? options)["node-name"]}`;
  await endExport(execute, id);
  await exportDisk(execute, { ...options, "node-name": change === undefined ? node : await change(node) });
}

/** More than any node has. */
const TOO_LARGE = 2 ** 62;

/**
 * The size of a node, in bytes. Only the refusal of a part that is larger than the node has it, and no other node's: the list
 * of all nodes fails as a whole while the image of one disk is marked as damaged.
 */
export async function nodeSize(execute: Execute, name: string): Promise<number> {
  const part = { driver: "raw", "node-name": `${name}-size`, "read-only": true, size: TOO_LARGE };
  try {
    await execute("blockdev-add", { ...part, file: name });
  } catch (error) {
    const size = error instanceof QmpError && /actual size of the containing file \((\d+)\)/.exec(error.description);
    if (!size) throw error;
    return Number(size[1]);
  }
  await execute("blockdev-del", { "node-name": part["node-name"] });
  throw new XenblkError(`Cannot tell the size of ${name}: its storage daemon opened a part that is larger`);
}

/** Which parts of a disk are there. */
export async function presentParts(
  execute: Execute,
  { nodes: wanted, exportId }: Pick<DiskParts, "nodes" | "exportId">,
): Promise<{ readonly nodes: boolean; readonly exported: boolean }> {
  const names = new Set(await nodeNames(execute));
  return { nodes: wanted.every((name) => names.has(name)), exported: await isExported(execute, exportId) };
}
