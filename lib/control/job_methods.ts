/**
 * The methods of the control socket about jobs: what storage daemons do on live disks beside their guests' requests. A
 * method that starts a job answers once it has begun; `jobs` and the events tell of the rest.
 */

import { XenblkError } from "../errors.ts";
import type { ControlledProcess, Handlers } from "./methods.ts";
import { readParams, TEXT } from "./params.ts";

/** The methods by name. */
export function jobMethods({ jobs }: Pick<ControlledProcess, "jobs">): Handlers {
  return {
    jobs: (params) => {
      const { device, id } = readParams("jobs", { device: TEXT, id: TEXT }, params);
      const all = jobs?.reports() ?? [];
      const isMeant = (value: string, wanted: string | undefined): boolean => wanted === undefined || value === wanted;
      return { jobs: all.filter((job) => isMeant(job.device, device) && isMeant(job.id, id)) };
    },
    jobCancel: async (params) => {
      const { id } = readParams("jobCancel", { id: TEXT }, params, ["id"]);
      const job = jobs?.reports().find((each) => each.id === id);
      if (job === undefined) {
        throw new XenblkError(`Cannot find job ${id}`, { kind: "not-found", remedy: "see `xenblk job list`" });
      }
      return { job: await (await jobs!.load()).cancel(id) };
    },
  };
}
