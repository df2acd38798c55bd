/**
 * `xenblk snapshot delete DOMAIN VDEV NAME`: gives up one snapshot of a disk and keeps the others, while the guest uses the
 * disk.
 */

import { deviceLabel } from "../../backend/journals.ts";
import { findDisk } from "../../toolstack/detach.ts";
import { followJob } from "../job/follow.ts";
import { flag, optional, size } from "../options.ts";
import { clientOfServing } from "../through_socket.ts";
import { defineVerb } from "../verb.ts";
import { DOMAIN, PERMISSIONS, VDEV } from "./disks.ts";

/** The verb. */
export const remove = defineVerb({
  name: "snapshot delete",
  summary: "Give up one snapshot of a disk and keep the others, while its guest uses it",
  description:
    "What was written from the snapshot to the next one is copied into the image that held it, and the overlay with that is " +
    "removed. The disk and all other snapshots hold the same as before. It is a job: INT cancels it, unless it is in the " +
    "background; then, and if the process that serves the disk or its storage daemon ends meanwhile, the disk and the other " +
    "snapshots stay, and it can be repeated; but nobody can go back to this one. Exit statuses as of `job wait`.",
  operands: [DOMAIN, VDEV, { name: "NAME", help: "the snapshot", required: true }],
  options: {
    "rate": optional(size("Most bytes per second", 1024, 64 * 1024, 2 ** 40), "as fast as it can"),
    "background": flag("Return once it has begun, and print the job's name"),
    "json": flag("Print the job as JSON", "J"),
  },
  permissions: PERMISSIONS,
  examples: [
    "xenblk snapshot delete web xvda monday",
    "xenblk snapshot delete web xvda monday --rate 50M --background",
  ],
  async run(context, options, operands): Promise<number> {
    const { host, output } = context;
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "delete a snapshot of");
    const { job } = await client.call("snapshotDelete", {
      device: deviceLabel(found.device),
      snapshot: operands["name"]!,
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
