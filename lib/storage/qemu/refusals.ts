/**
 * Why a process opens no disk by a storage daemon, apart from what the daemon says.
 */

import { XenblkError } from "../../errors.ts";
import type { DiskOwner } from "../disk.ts";
import type { DaemonRecord } from "./record.ts";

/** Deno lets nobody read /proc who has less. */
export function notPermitted(name: string): XenblkError {
  return new XenblkError(`Cannot open ${name}: Deno was started without the permissions for storage daemons`, {
    remedy: "run deno with --allow-all",
  });
}

/** The daemon is another process's. */
export function busy({ guest, device }: DiskOwner, record?: DaemonRecord): XenblkError {
  const process = record === undefined ? "" : ` (process ${record.process.pid})`;
  return new XenblkError(
    `Cannot use the storage daemon of domain ${guest}${process} for ${device}: another process of ` +
      "xenblk has it",
    { remedy: "end that process, or wait until it has released the disk" },
  );
}

/** What is opened is not wanted any more. */
export function processEnds(name: string): XenblkError {
  return new XenblkError(`Cannot open ${name}: this process ends`);
}

/** A daemon ended before it could be asked anything. */
export function endedAtStart(daemon: string, how: string): XenblkError {
  return new XenblkError(`Cannot start ${daemon}: ${how}`, {
    remedy: "start qemu-storage-daemon by hand to see what it lacks",
  });
}

/** A daemon does not listen. */
export function tooLateAtStart(daemon: string, startMs: number): XenblkError {
  return new XenblkError(`Cannot start ${daemon}: it has not opened its socket for ${startMs / 1000} s`, {
    remedy: "look at the host's load, and start qemu-storage-daemon by hand",
  });
}

/** A daemon does not end. */
export function keptByKernel(daemon: string): XenblkError {
  return new XenblkError(`Cannot end ${daemon}: the kernel keeps it`, {
    remedy: "look at the storage of its images: it ends when that answers",
  });
}

/** Throws it, in an expression. */
export function fail(error: Error): never {
  throw error;
}
