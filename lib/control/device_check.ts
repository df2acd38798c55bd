/**
 * Whether a block device that a job is about to overwrite is in use: the storage daemon, which writes to it, does not look.
 */

import { type HostPlatform, imageLocksOf } from "../host_platform.ts";

/** What rejects with {@linkcode XenblkError} if somebody uses the device of that path. `by` names who asks. */
export function deviceCheck(platform: HostPlatform, by: string): (path: string) => Promise<void> {
  return async (path) => {
    const { checkUnused } = await import("../storage/unused.ts");
    await checkUnused(path, { native: platform.files, locks: imageLocksOf(platform, () => {}), by });
  };
}
