/**
 * `xenblk snapshot commit DOMAIN VDEV [NAME]`: merges snapshots of a disk into the image below them, while the guest uses
 * the disk.
 */

import { deviceLabel } from "../../backend/journals.ts";
import { findDisk } from "../../toolstack/detach.ts";
import { followJob } from "../job/follow.ts";
import { flag, optional, size } from "../options.ts";
import { clientOfServing } from "../through_socket.ts";
import { defineVerb } from "../verb.ts";
import { DOMAIN, PERMISSIONS, VDEV } from "./disks.ts";

/** The verb. */
export const commit = defineVerb({
  name: "snapshot commit",
  summary: "Merge snapshots of a disk into the image below, while its guest uses it",
  description:
    "Merges the newest snapshot, or all from the newest to NAME: what was written since is copied into the image that " +
    "held NAME, the guest goes on with that image, and the overlays are removed. The snapshots are then gone, and the disk " +
    "holds the same as before. It is a job: INT cancels it, unless it is in the background; then, and if the process that " +
    "serves the disk or its storage daemon ends meanwhile, all snapshots stay, and it can be repeated. Only overlays that " +
    "`snapshot create` made are merged, so a template below them is not written to. Exit statuses as of `job wait`.",
  operands: [
    DOMAIN,
    VDEV,
    { name: "NAME", help: "the oldest snapshot that is merged; default: the newest", required: false },
  ],
  options: {
    "rate": optional(size("Most bytes per second", 1024, 64 * 1024, 2 ** 40), "as fast as it can"),
    "background": flag("Return once it has begun, and print the job's name"),
    "json": flag("Print the job as JSON", "J"),
  },
  permissions: PERMISSIONS,
  examples: ["xenblk snapshot commit web xvda", "xenblk snapshot commit web xvda before-upgrade --rate 50M"],
  async run(context, options, operands): Promise<number> {
    const { host, output } = context;
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "merge snapshots of");
    const snapshot = operands["name"];
    const { job } = await client.call("snapshotCommit", {
      device: deviceLabel(found.device),
      ...(snapshot === undefined ? {} : { snapshot }),
      ...(options.rate === undefined ? {} : { bytesPerSecond: options.rate }),
    });
    if (!options.background) {
      return await followJob(context, client, job, { json: options.json, cancels: true, leaves: true });
    }
    if (options.json) output.json(job);
    else output.data(`${job.id}\n`);
    return 0;
  },
});
