/**
 * `xenblk limit DOMAIN VDEV`: shows the limits of a disk that is served, or changes them while its guest uses it.
 */

import { deviceLabel } from "../backend/journals.ts";
import { findDisk } from "../toolstack/detach.ts";
import { parseVdev } from "../xenbus/vdev.ts";
import { LIMIT_CHANGES, limitsOf } from "./device_options.ts";
import { namedDisk } from "./disk_result.ts";
import { limitTexts } from "./live.ts";
import { flag } from "./options.ts";
import { renderFields } from "./table.ts";
import { clientOfServing } from "./through_socket.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const limit = defineVerb({
  name: "limit",
  summary: "Show or change the limits of a disk while its guest uses it",
  description:
    "Asks the process that serves the disk, by its control socket. Limits that are not named stay; 0 is none. They hold " +
    "at once, over all rings of the disk, and until it is detached: a process that takes over finds them again. They are " +
    "in front of all filters; but a disk with a filter throttle of its own has them there, and this says so. The options " +
    "of the same names of attach, serve and the configuration file have those that disks begin with.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
  ],
  options: { ...LIMIT_CHANGES, "json": flag("Print the limits as JSON", "J") },
  permissions: "--allow-ffi --allow-env --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: ["xenblk limit web xvdb", "xenblk limit web xvdb --iops 500 --bytes-per-second 10M"],
  async run({ host, output }, options, operands): Promise<number> {
    const named = limitsOf(options); // what is wrong with them is said where there is no Xen, too
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "limit");
    const { limits, by } = await client.call("limit", { device: deviceLabel(found.device), limits: named });
    if (options.json) output.json({ ...namedDisk(found), limits, ...(by === undefined ? {} : { by }) });
    else {
      const { iops = "no limit", bytes = "no limit" } = limitTexts(limits);
      const place: readonly (readonly [string, string])[] = by === undefined ? [] : [["limited by", by]];
      output.data(renderFields([["iops", iops], ["bytes per second", bytes], ...place]));
    }
    return 0;
  },
});
