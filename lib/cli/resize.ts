/**
 * `xenblk resize DOMAIN VDEV`: notifies a guest that the image of its disk has grown.
 * The guest can use the disk meanwhile.
 */

import { SECTOR_BYTES } from "../units.ts";
import { formatSize } from "../sizes.ts";
import { findDisk } from "../toolstack/detach.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { resizeDevice } from "../toolstack/resize.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { TIMEOUT } from "./device_options.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const resize = defineVerb({
  name: "resize",
  summary: "Notify a guest that the image of its disk has grown",
  description:
    "Grow the image first (truncate -s, lvextend). The process that serves the disk then reads the image's size, " +
    "accepts requests up to the new end, and notifies the guest. The guest can use the disk meanwhile. A disk cannot " +
    "shrink.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
  ],
  options: { timeout: TIMEOUT },
  permissions: "--allow-ffi --allow-env.",
  examples: ["truncate -s 20G disk.img && xenblk resize web xvdb"],
  async run({ host, signals, output }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const { guest, device } = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const timeoutMs = options.timeout * 1000;
    const { before, now } = await resizeDevice(store, device, { timeoutMs, signal: signals.signal });
    const size = formatSize(now * SECTOR_BYTES);
    const news = now === before
      ? `still has ${size}, the size of its image`
      : `has grown from ${formatSize(before * SECTOR_BYTES)} to ${size}`;
    output.message(`xenblk: ${formatVdev(device.vdev)} of ${domainLabel(guest)} ${news}`);
    return 0;
  },
});
