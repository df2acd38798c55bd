/**
 * `xenblk swap DOMAIN VDEV IMAGE`: gives a guest's disk another image while the guest uses it.
 */

import { deviceLabel } from "../backend/journals.ts";
import { SECTOR_BYTES } from "../units.ts";
import { formatSize } from "../sizes.ts";
import { findDisk } from "../toolstack/detach.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { paramsOfText } from "../storage/image/spec.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { namedDisk } from "./disk_result.ts";
import { defaulting, flag, integer } from "./options.ts";
import { showWait } from "./progress.ts";
import { CALL_SLACK_MS, clientOfServing } from "./through_socket.ts";
import { defineVerb } from "./verb.ts";

/** The verb. */
export const swap = defineVerb({
  name: "swap",
  summary: "Give a disk another image while its guest uses it",
  description:
    "The process that serves the disk opens IMAGE, has the guest's requests wait, flushes the present image, and goes on " +
    "with IMAGE. The guest sees a pause. It must find the same data in IMAGE: copy the image while nothing " +
    "writes to it. Only a disc in a CD-ROM drive may have another content. IMAGE must be as large as the disk or larger, " +
    "and free; a larger one makes the disk larger. If anything fails, the guest goes on with the present image. The node " +
    "params names IMAGE from then on; the toolstack's own configuration of the guest does not, so change that, too. " +
    "--release-first is for an image of this host that an NBD server of this host has exported as the disk's present image: " +
    "see docs/migration.md.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
    { name: "IMAGE", help: "the new image, as `attach` takes it", required: true, isPath: true },
  ],
  options: {
    timeout: defaulting(
      integer("How long opening IMAGE may take, and then how long the guest's requests may wait", 1, 600, "SECONDS"),
      "10",
    ),
    "release-first": flag(
      "If IMAGE is locked, close the present image first, and wait for the lock: its server has it",
    ),
    json: flag("Print both images and the pause as JSON", "J"),
  },
  permissions: "--allow-ffi --allow-env --allow-net --allow-read, and --allow-write of /run/xenblk.",
  examples: ["xenblk swap web xvdb /srv/fast/web.img", "xenblk swap web xvdb qcow2:/srv/web.qcow2 --timeout 3"],
  async run({ host, signals, output, quiet, inform }, options, operands): Promise<number> {
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const { guest, device } = found;
    const image = await paramsOfText(operands["image"]!);
    using client = await clientOfServing(found, "swap the image of");
    const timeoutMs = options.timeout * 1000;
    const releaseFirst = options["release-first"];
    const name = formatVdev(device.vdev);
    const swapping = client.call("swap", { device: deviceLabel(device), image, timeoutMs, releaseFirst }, {
      timeoutMs: 4 * timeoutMs + CALL_SLACK_MS,
      signal: signals.signal,
    });
    const what = `waiting for the new image of ${name}`;
    const wait = { output, quiet: quiet || options.json, what, timeoutMs: 4 * timeoutMs };
    const { before, now, sectorsBefore, sectors, pausedMs } = await showWait(wait, swapping);
    if (options.json) {
      const sizes = { sizeBytes: sectors * SECTOR_BYTES, sizeBytesBefore: sectorsBefore * SECTOR_BYTES };
      output.json({ ...namedDisk(found), before, now, ...sizes, ...(pausedMs === undefined ? {} : { pausedMs }) });
      return 0;
    }
    const pause = pausedMs === undefined ? "" : `; its requests waited for ${Math.ceil(pausedMs)} ms`;
    const grown = pausedMs !== undefined && sectors > sectorsBefore
      ? ` and has grown to ${formatSize(sectors * SECTOR_BYTES)}`
      : "";
    inform(`${name} of ${domainLabel(guest)} now has ${now}${grown}${pause}`);
    return 0;
  },
});
