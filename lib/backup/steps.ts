/**
 * The QMP requests of a backup (QEMU: qapi/block-core.json). The guest's requests are led through a filter that copies
 * what they overwrite to a scratch file before (copy-before-write), and a node shows the disk as it was at that instant
 * (snapshot-access); the backup's job reads that. QEMU's own backup job without them fails a guest's write if the target
 * fails. If the filter cannot copy, or not in time, the instant is lost and with it the backup, and the guest goes on.
 */

import type { DaemonMonitor, DiskDaemon } from "../storage/disk.ts";
import { XenblkError } from "../errors.ts";
import type { BlockGraph } from "../storage/qemu/graph.ts";
import { nodeBelow } from "../storage/qemu/instant.ts";
import { QmpError } from "../storage/qemu/qmp.ts";
import { nodeNames } from "../storage/qemu/removal.ts";

/** How long a write of the guest may wait until the earlier data is copied, in seconds. */
const WAIT_S = 5;

/** The nodes and objects of one backup, in the order in which they are added. */
export interface BackupParts {
  /** Of the target and of the scratch file. */
  readonly nodes: readonly string[];
  readonly objects: readonly string[];
}

/** What is written to. */
export interface BackupGraphs {
  readonly target: BlockGraph;
  readonly scratch: BlockGraph;
}

/** One backup to begin. */
export interface BackupSteps {
  readonly graphs: BackupGraphs;
  /** Of the job. */
  readonly name: string;
  /** Records changes from this instant on. Absent: the image cannot hold a record. */
  readonly changes?: string;
  /** Has what changed since the backup that this one is based on. Absent: a full one. */
  readonly since?: string;
  readonly bytesPerSecond: number;
}

/** The filter, and the disk as it was. */
function names({ prefix }: DiskDaemon): { readonly filter: string; readonly instant: string } {
  return { filter: `${prefix}backup-filter`, instant: `${prefix}backup-instant` };
}

/** What {@linkcode openGraphs} adds. */
export function partsOf({ target, scratch }: BackupGraphs): BackupParts {
  const all = [target, scratch];
  return {
    nodes: all.flatMap(({ nodes }) => nodes.map((node) => node["node-name"])),
    objects: all.flatMap(({ credentials = [] }) => credentials.map(({ id }) => id)),
  };
}

/** Opens target and scratch file. Rejects with XenblkError; then some may have been added. */
export async function openGraphs(
  { execute, allow, disallow }: DaemonMonitor,
  graphs: BackupGraphs,
): Promise<void> {
  const { target, scratch } = graphs;
  const credentials = target.credentials ?? [];
  const directories = credentials.map(({ directory }) => ({ path: directory, writable: false }));
  const files = [...target.files, ...scratch.files, ...directories];
  await allow(files);
  for (const { id, directory } of credentials) {
    await execute("object-add", { "qom-type": "tls-creds-x509", id, dir: directory, endpoint: "client" });
  }
  for (const node of [...target.nodes, ...scratch.nodes]) await execute("blockdev-add", node);
  await disallow(files.map(({ path }) => path));
}

/** Begins, between two requests of the guest. Rejects with XenblkError; then the guest's requests go where they went. */
export async function beginJob(monitor: DaemonMonitor, daemon: DiskDaemon, steps: BackupSteps): Promise<void> {
  const { execute } = monitor;
  const { graphs: { target, scratch }, name, changes, since, bytesPerSecond } = steps;
  const { filter, instant } = names(daemon);
  const { top } = daemon;
  await monitor.reroute(async (node) => {
    if (node !== top) throw isLed(node);
    try {
      if (changes !== undefined) {
        await execute("block-dirty-bitmap-add", { node: top, name: changes, persistent: true });
      }
      await execute("blockdev-add", {
        driver: "copy-before-write",
        "node-name": filter,
        file: top,
        target: scratch.top,
        "on-cbw-error": "break-snapshot",
        "cbw-timeout": WAIT_S,
      });
      await execute("blockdev-add", { driver: "snapshot-access", "node-name": instant, file: filter });
      if (since !== undefined) {
        await execute("block-dirty-bitmap-add", { node: instant, name: "since", disabled: true });
        const bitmaps = [{ node: top, name: since }];
        await execute("block-dirty-bitmap-merge", { node: instant, target: "since", bitmaps });
      }
      await execute("blockdev-backup", {
        "job-id": name,
        device: instant,
        target: target.top,
        "auto-dismiss": false,
        speed: bytesPerSecond,
        ...(since === undefined ? { sync: "full" } : { sync: "bitmap", bitmap: "since", "bitmap-mode": "never" }),
      });
    } catch (error) {
      await removeInstant(execute, daemon);
      if (changes !== undefined) await removeBitmaps(execute, top, [changes]);
      throw error;
    }
    return filter;
  });
}

/** What began last would have to end first. */
function isLed(node: string): XenblkError {
  return new XenblkError(`Cannot back up the disk: other work on it has to see the guest's writes (node ${node})`, {
    remedy: "wait for the end of its export",
  });
}

/** Leads the guest's requests to its disk again, and closes all that was opened. Rejects with XenblkError. */
export async function endJob(
  monitor: DaemonMonitor,
  daemon: DiskDaemon,
  { nodes, objects }: BackupParts,
): Promise<void> {
  const { execute } = monitor;
  const { filter } = names(daemon);
  if ((await nodeNames(execute)).includes(filter)) {
    await monitor.reroute(async (node) => {
      // Not the daemon's top: a snapshot may have been taken since it was asked.
      const below = node === filter ? await nodeBelow(execute, node) : node;
      await removeInstant(execute, daemon);
      return below;
    });
  }
  await closeParts(execute, { nodes, objects });
}

/** Closes target and scratch file; what is not there is passed over. */
export async function closeParts(
  execute: DaemonMonitor["execute"],
  { nodes, objects }: BackupParts,
): Promise<void> {
  for (const node of nodes.toReversed()) await ifPossible(execute("blockdev-del", { "node-name": node }));
  for (const id of objects) await ifPossible(execute("object-del", { id }));
}

/** Removes records of changes; what is not there is passed over. */
export async function removeBitmaps(
  execute: DaemonMonitor["execute"],
  top: string,
  bitmaps: readonly string[],
): Promise<void> {
  for (const name of bitmaps) await ifPossible(execute("block-dirty-bitmap-remove", { node: top, name }));
}

async function removeInstant(execute: DaemonMonitor["execute"], daemon: DiskDaemon): Promise<void> {
  const { filter, instant } = names(daemon);
  for (const node of [instant, filter]) await ifPossible(execute("blockdev-del", { "node-name": node }));
}

/** Resolves also if the daemon refuses it. */
async function ifPossible(request: Promise<unknown>): Promise<void> {
  await request.catch((error) => {
    if (!(error instanceof QmpError)) throw error;
  });
}
