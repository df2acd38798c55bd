/**
 * Whether somebody uses a file or block device that is about to be overwritten: the host (mounted, swap space), another
 * process, or a guest.
 */

import { checkFree, type ImageLocks } from "./image/lock.ts";
import { type OpenContext, openDisk } from "./open.ts";

/** Rejects with {@linkcode XenblkError} if somebody does, or it cannot be written to. `by` names who asks. */
export async function checkUnused(
  path: string,
  { native, locks, by }: {
    readonly native: OpenContext["native"] | undefined;
    readonly locks: ImageLocks;
    readonly by: string;
  },
): Promise<void> {
  const request = { format: "raw", target: path, readOnly: false, engine: "auto" } as const;
  await using disk = await openDisk(request, native === undefined ? {} : { native });
  if (disk.image !== undefined) await checkFree(locks, disk.image, { writes: true, shared: false, by });
}
