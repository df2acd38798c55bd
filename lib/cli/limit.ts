/**
 * `xenblk limit DOMAIN VDEV`: shows the limits of the filter `throttle` in front of a disk that is served, or changes
 * them.
 */

import { deviceLabel } from "../backend/journals.ts";
import type { Limits } from "../control/protocol.ts";
import { formatSize } from "../sizes.ts";
import { findDisk } from "../toolstack/detach.ts";
import { parseVdev } from "../xenbus/vdev.ts";
import { namedDisk } from "./disk_result.ts";
import { type Description, flag, integer, optional, size } from "./options.ts";
import { renderFields } from "./table.ts";
import { clientOfServing } from "./through_socket.ts";
import { defineVerb } from "./verb.ts";

const MOST_IOPS = 1e9;
const MOST_BYTES = 2 ** 50;

function bytes(help: string): Description<number> {
  return { ...size(help, 1, 0, MOST_BYTES), allowed: "a size such as 64K or 10M, or 0" };
}

/** The verb. */
export const limit = defineVerb({
  name: "limit",
  summary: "Show or change the limits of a disk while its guest uses it",
  description:
    "Asks the process that serves the disk, by its control socket. The disk has to be attached or served with " +
    "--filter throttle, which lets everything pass until limits are set. Limits that are not named stay; 0 is none.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
  ],
  options: {
    "iops": optional(integer("Reads, writes and discards per second", 0, MOST_IOPS), "as it is"),
    "iops-burst": optional(integer("Most of them at once, after a pause", 0, MOST_IOPS), "as it is"),
    "bytes-per-second": optional(bytes("Bytes read and written per second"), "as it is"),
    "bytes-burst": optional(bytes("Most of them at once, after a pause"), "as it is"),
    "json": flag("Print the limits as JSON", "J"),
  },
  permissions: "--allow-ffi --allow-env --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: ["xenblk limit web xvdb", "xenblk limit web xvdb --iops 500 --bytes-per-second 10M"],
  async run({ host, output }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "limit");
    const wanted = {
      iops: options.iops,
      iopsBurst: options["iops-burst"],
      bytesPerSecond: options["bytes-per-second"],
      bytesBurst: options["bytes-burst"],
    };
    const named: Limits = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value !== undefined));
    const { limits } = await client.call("limit", { device: deviceLabel(found.device), limits: named });
    if (options.json) output.json({ ...namedDisk(found), limits });
    else {
      const { iops, iopsBurst, bytesPerSecond, bytesBurst } = limits;
      const size = (bytes: string | number): string => formatSize(Number(bytes));
      output.data(renderFields([
        ["iops", limitText(iops, String(iops), iopsBurst, String(iopsBurst))],
        ["bytes per second", limitText(bytesPerSecond, size(bytesPerSecond), bytesBurst, size(bytesBurst))],
      ]));
    }
    return 0;
  },
});

function limitText(limit: string | number, text: string, burst: string | number, burstText: string): string {
  if (limit === 0) return "no limit";
  return burst === 0 ? text : `${text}, ${burstText} at once`;
}
