/**
 * `xenblk resize DOMAIN VDEV [SIZE]`: makes the image of a guest's disk larger, or notifies the guest that it has grown.
 * The guest can use the disk meanwhile.
 */

import { deviceLabel } from "../backend/journals.ts";
import { SECTOR_BYTES } from "../units.ts";
import { formatSize, parseDiskSize } from "../sizes.ts";
import { findDisk } from "../toolstack/detach.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { resizeDevice } from "../toolstack/resize.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { TIMEOUT } from "./device_options.ts";
import { namedDisk } from "./disk_result.ts";
import { flag } from "./options.ts";
import { showWait } from "./progress.ts";
import { CALL_SLACK_MS, throughSocket } from "./through_socket.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const resize = defineVerb({
  name: "resize",
  summary: "Make a disk larger while its guest uses it",
  description:
    "The process that serves the disk makes its image SIZE large, accepts requests up to the new end, and notifies the " +
    "guest. Without SIZE it reads the size that the image has: grow a block device first (lvextend). The guest can use " +
    "the disk meanwhile. A disk cannot shrink.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
    {
      name: "SIZE",
      help: "the new size, such as 20G; default: that of the image",
      required: false,
      check: parseDiskSize,
    },
  ],
  options: { timeout: TIMEOUT, json: flag("Print the new size as JSON", "J") },
  permissions:
    "--allow-ffi --allow-env; to ask the serving process also --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: ["xenblk resize web xvdb 20G", "lvextend -L 20G /dev/vg/web && xenblk resize web xvdb"],
  async run({ host, signals, output, quiet, inform }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const { guest, device } = found;
    const timeoutMs = options.timeout * 1000;
    const { signal } = signals;
    const asked = operands["size"] === undefined ? {} : { sizeBytes: parseDiskSize(operands["size"]) };
    const name = formatVdev(device.vdev);
    const resizing = throughSocket(
      device,
      (client) => {
        const params = { device: deviceLabel(device), timeoutMs, ...asked };
        return client.call("resize", params, { timeoutMs: timeoutMs + CALL_SLACK_MS, signal });
      },
      () => resizeDevice(store, device, { timeoutMs, signal, ...asked }),
    );
    const what = `waiting for the backend of ${name}`;
    const { before, now } = await showWait({ output, quiet: quiet || options.json, what, timeoutMs }, resizing);
    if (options.json) {
      output.json({ ...namedDisk(found), sizeBytes: now * SECTOR_BYTES, sizeBytesBefore: before * SECTOR_BYTES });
      return 0;
    }
    const size = formatSize(now * SECTOR_BYTES);
    const news = now === before
      ? `still has ${size}, the size of its image`
      : `has grown from ${formatSize(before * SECTOR_BYTES)} to ${size}`;
    inform(`${name} of ${domainLabel(guest)} ${news}`);
    return 0;
  },
});
