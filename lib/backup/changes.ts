/**
 * The records of changes in a disk's image, and the backup that an incremental one can be made on.
 */

import { errorText, XenblkError } from "../errors.ts";
import type { DaemonMonitor } from "../storage/disk.ts";
import { QmpError, type QmpObject } from "../storage/qemu/qmp.ts";
import { type BackupFile, readBackup } from "./file.ts";
import { parseChanges } from "./names.ts";

/** A disk's top node, as far as backups are concerned. */
export interface TopNode {
  /** It can hold records of changes. */
  readonly keepsChanges: boolean;
  readonly bitmaps: readonly ChangesBitmap[];
}

/** A record of changes. */
export interface ChangesBitmap {
  /** The bitmap's. */
  readonly name: string;
  readonly id: string;
  /** Of the backup. */
  readonly path: string;
  /** All changes since the backup are in it. */
  readonly isWhole: boolean;
}

/** Which backup to go on from; or why there is none. */
export type Base = { readonly file: BackupFile; readonly bitmap: string } | { readonly lack: string };

/** Looks at the node. Rejects with XenblkError. */
export async function topNode({ execute }: Pick<DaemonMonitor, "execute">, top: string): Promise<TopNode> {
  const nodes = await execute("query-named-block-nodes", { flat: true }).catch((error) => {
    throw error instanceof QmpError ? cannotLook(error) : error;
  }) as readonly QmpObject[];
  const node = nodes.find((each) => each["node-name"] === top);
  const all = (node?.["dirty-bitmaps"] ?? []) as readonly QmpObject[];
  const bitmaps = all.flatMap(({ name, recording, inconsistent, persistent }): ChangesBitmap[] => {
    const changes = parseChanges(`${name}`);
    const isWhole = recording === true && persistent === true && inconsistent !== true;
    return changes === undefined ? [] : [{ name: `${name}`, ...changes, isWhole }];
  });
  return {
    keepsChanges: node?.["drv"] === "qcow2" && JSON.stringify(node["image"]).includes('"compat":"1.1"'),
    bitmaps,
  };
}

/** QEMU tells of all nodes or of none: of none while it has "ejected" a damaged image. */
function cannotLook(error: QmpError): XenblkError {
  return new XenblkError(`Cannot look at the disk's records of changes: ${error.description}`, {
    cause: error,
    remedy: "if the image of another disk of this guest is damaged, detach that one, and check the image with " +
      "`xenblk image check`; then repeat this",
  });
}

/** The last backup that is still there and whose record of changes is whole. */
export async function findBase({ bitmaps }: TopNode): Promise<Base> {
  const newest = bitmaps.toSorted((one, other) => one.id < other.id ? 1 : -1);
  const lacks: string[] = [];
  for (const { name, id, path, isWhole } of newest) {
    if (!isWhole) lacks.push(`the record of changes since ${path} is not whole: the storage daemon had died`);
    else {
      const found = await baseAt(path, id);
      if (typeof found !== "string") return { file: found, bitmap: name };
      lacks.push(found);
    }
  }
  return {
    lack: lacks[0] ?? "there is no record of changes: no backup was made, or the storage daemon has died since",
  };
}

/** The backup; or why it cannot be used. */
async function baseAt(path: string, id: string): Promise<BackupFile | string> {
  try {
    const file = await readBackup(path);
    return file.mark?.id === id ? file : `${path} is not the backup that was made there last`;
  } catch (error) {
    return errorText(error);
  }
}
