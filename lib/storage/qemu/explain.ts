/**
 * Turns what QEMU says when it cannot open an image into an error with a remedy. The patterns are of QEMU 7.2 and 10.0.
 */

import { XenblkError } from "../../errors.ts";
import { SERVER_GONE } from "./qemu_img.ts";
import type { QmpError } from "./qmp.ts";

const LOCKED = /Failed to get .*lock|is already in use/;

/** What QEMU says, and what to do. */
const REMEDIES: readonly (readonly [RegExp, string])[] = [
  [LOCKED, "end the other use first: `fuser -v FILE` names it"],
  [/Failed to lock byte/, "its file system may have no locks: add locking=off by json:"],
  [/No such file or directory/, "check the path, and those of its backing files: `qemu-img info --backing-chain FILE`"],
  [
    /Permission denied|Operation not permitted/,
    "let the daemon's user (--daemon-user, else root) read and write the file and its backing files",
  ],
  [
    /Unknown driver|does not accept value|Unknown protocol|Driver '.*' (is not|can only)/,
    "install Debian's package qemu-block-extra, which has the drivers for rbd, iscsi, nfs, ssh and http",
  ],
  [
    /not in .* format|[Mm]agic|[Ss]ignature|Unsupported .*version|Could not find|not a VM|header/,
    "name the format that the image has: `qemu-img info FILE`",
  ],
  [/O_DIRECT|[Dd]irect I\/O/, "use cache mode writeback: its file system has no direct I/O"],
  [/key-secret|Invalid password|[Cc]annot unlock|Parameter 'key/, "name the file that holds the right passphrase"],
  [
    /does not support resize/,
    "move the disk to a larger image of any format (`xenblk mirror`); raw, qcow2 and luks images can grow",
  ],
  [/unshared by node '[^']*-backup-/, "wait for the disk's backup, or cancel it: `xenblk job list` has its name"],
  [/(resize|grow) NBD nodes/, "detach the disk, and grow the export where its server has it"],
  [/multiple of|[Ss]hrink|must be/, "name a size that is larger and a multiple of 512 bytes"],
  [/Permission conflict/, "end what works on the disk first, such as an export: `xenblk export DOMAIN VDEV --end`"],
  [/No space left|Disk quota/, "free space where the image is"],
  [/corrupt|Refusing/, "check it with `qemu-img check FILE`, with a copy of it in reserve"],
  [SERVER_GONE, "check the server that has it"],
];

/** Whether another user of the image, perhaps this process, keeps the daemon from it. */
export function isLockRefusal(error: unknown): boolean {
  return error instanceof XenblkError && LOCKED.test(error.message);
}

const OTHERWISE = "try `qemu-img info` on it, which opens it in the same way";

/** What failed, on which image and node, why, and what to do. `name` is the image's, with its noun. */
export function explainQmpError(name: string, error: QmpError): XenblkError {
  const { command, subject, description } = error;
  const remedy = REMEDIES.find(([pattern]) => pattern.test(description))?.[1] ?? OTHERWISE;
  const failed = `Cannot ${VERBS.get(command) ?? "serve"} ${name}`;
  const where = subject === undefined ? "" : `node ${subject}: `;
  return new XenblkError(`${failed}: ${where}${description}`, { cause: error, remedy });
}

const VERBS: ReadonlyMap<string, string> = new Map([
  ["blockdev-add", "open"],
  ["object-add", "open"],
  ["block-export-add", "export"],
  ["blockdev-mirror", "mirror to"],
  ["block_resize", "resize"],
  ["block-commit", "merge"],
]);
