/**
 * Whether a file or block device that a job is about to overwrite is in use: the storage daemon, which writes to it, looks
 * at files only, and a guest should not wait before that.
 */

import { type HostPlatform, imageLocksOf } from "../host_platform.ts";

/** What rejects with {@linkcode XenblkError} if somebody uses what is at that path. `by` names who asks. */
export function deviceCheck(platform: HostPlatform, by: string): (path: string) => Promise<void> {
  return async (path) => {
    const { checkUnused } = await import("../storage/unused.ts");
    await checkUnused(path, { native: platform.files, locks: imageLocksOf(platform, () => {}), by });
  };
}
