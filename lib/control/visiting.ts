/**
 * Work that needs a disk in its storage daemon: a raw disk enters it for that, and leaves it when the work, and the job
 * that it has begun, is over.
 */

import type { Pause } from "../jobs/visits.ts";
import { addressOf, type ControlledProcess, type Handlers } from "./methods.ts";
import { readParams, TEXT } from "./params.ts";

/** The method that tells of a disk's visit. */
export function visitMethods({ service, visits }: ControlledProcess): Handlers {
  return {
    daemonVisit: async (params) => {
      const { device } = readParams("daemonVisit", { device: TEXT }, params, ["device"]);
      addressOf(service, device);
      return await visits?.settled(device) ?? { visits: false };
    },
  };
}

/**
 * What the work resolves with, and how long the guest's requests waited if the disk has entered its daemon for it. `why`:
 * `back up vbd3/5/51712`. Rejects with XenblkError as the work does, or if the disk cannot enter.
 */
export async function inDaemon<R extends object>(
  { visits }: Pick<ControlledProcess, "visits">,
  device: string,
  why: string,
  work: () => Promise<R>,
): Promise<R & { readonly entered?: Pause }> {
  using visit = await visits?.enter(device, why);
  const result = await work();
  return visit?.entered === undefined ? result : { ...result, entered: visit.entered };
}
