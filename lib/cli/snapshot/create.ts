/**
 * `xenblk snapshot create DOMAIN [VDEV[,VDEV...]]`: takes a snapshot of disks that a storage daemon serves, all at one
 * instant, while the guest uses them.
 */

import { deviceLabel } from "../../backend/journals.ts";
import { LONG_CHAIN, MOST_OVERLAYS } from "../../storage/qemu/overlay_chain.ts";
import { parseVdev } from "../../xenbus/vdev.ts";
import { usageError } from "../args.ts";
import { namedDisk } from "../disk_result.ts";
import { flag, integer, optional, size, text } from "../options.ts";
import { showWait } from "../progress.ts";
import { defineVerb } from "../verb.ts";
import { enteredText } from "../visit.ts";
import { clientOfAll, DOMAIN, namedDisks, PERMISSIONS, writableDisks } from "./disks.ts";

/** As the daemon's transaction, and what comes before it. */
const CALL_MS = 180_000;
const VERB = "snapshot create";

/** The verb. */
export const create = defineVerb({
  name: VERB,
  summary: "Take a snapshot of disks while their guest uses them, all at one instant",
  description:
    "What the disks hold now stays in their images; from now on the guest writes to qcow2 overlays, which lie beside them " +
    "and are named after the snapshot. QEMU's storage daemon serves the disks from then on: a raw disk that has none enters " +
    "it, which is one more pause. The disks have to be in one daemon. A note beside each image leads every later start of the guest to " +
    "the overlay, so its configuration can go on naming the image: see docs/snapshots.md.",
  operands: [
    DOMAIN,
    {
      name: "VDEV",
      help: "the virtual device, or several with commas between them: xvda,xvdb",
      required: false,
      check: (vdevs) => vdevs.split(",").map(parseVdev),
    },
  ],
  options: {
    "all": flag("All disks that the guest writes to"),
    "name": optional({
      ...text("NAME", "The snapshot's name, which is a part of the overlays' names"),
      allowed: "letters, digits, `.`, `_` and `-`",
    }, "the time"),
    "keep": optional(
      integer("Most snapshots of a disk: the oldest are given up, in the background", 1, MOST_OVERLAYS - 1),
      "all",
    ),
    "rate": optional(size("For --keep: most bytes per second", 1024, 64 * 1024, 2 ** 40), "as fast as it can"),
    "json": flag("Print the overlays as JSON", "J"),
  },
  permissions: PERMISSIONS,
  examples: [
    "xenblk snapshot create web xvda",
    "xenblk snapshot create web --all --name before-upgrade",
    "xenblk snapshot create web xvda --keep 7 --rate 50M",
  ],
  async run({ host, output, quiet, inform }, options, operands): Promise<number> {
    const vdevs = operands["vdev"];
    if ((vdevs === undefined) !== options.all) throw usageError(VERB, "Cannot tell which disks: name VDEV, or --all");
    using store = (await host.openNativePlatform()).openXenstore();
    const domain = operands["domain"]!;
    const disks = vdevs === undefined ? writableDisks(store, domain) : namedDisks(store, domain, vdevs);
    using client = await clientOfAll(disks, "take a snapshot of");
    const snapshot = options.name ?? nameOf(new Date());
    const devices = disks.map(({ device }) => deviceLabel(device));
    const wait = { output, quiet: quiet || options.json, what: "taking the snapshot" };
    const { keep, rate } = options;
    const shorten = { ...(keep !== undefined && { keep }), ...(rate !== undefined && { bytesPerSecond: rate }) };
    const asked = client.call("snapshotCreate", { devices, snapshot, ...shorten }, { timeoutMs: CALL_MS });
    const taken = await showWait(wait, asked);
    const all = taken.disks.map(({ device: _device, ...made }, at) => ({ ...namedDisk(disks[at]!), ...made }));
    if (options.json) {
      const { pauseMs, jobs, warnings } = taken;
      output.json({ snapshot, pauseMs, disks: all, jobs, warnings });
      return 0;
    }
    for (const { device, entered } of taken.disks) if (entered !== undefined) inform(enteredText(device, entered));
    for (const { name, base, image, count } of all) {
      inform(`${name}: ${base} holds the snapshot ${snapshot}; the guest writes to ${image}`);
      if (count >= LONG_CHAIN && keep === undefined) {
        inform(
          `${name} has ${count} snapshots, which makes reads slower: give some up with \`xenblk snapshot delete\``,
        );
      }
    }
    for (const { id } of taken.jobs) inform(`the oldest snapshot is being given up: job ${id}`);
    for (const warning of taken.warnings) inform(`the disk has more snapshots than --keep: ${warning}`);
    inform("A configuration that names the base still works, with this xenblk: a note beside the base leads on");
    output.data(`${snapshot}\n`);
    return 0;
  },
});

/** `2026-11-30T08-15-00`: local times jump. */
function nameOf(time: Date): string {
  return time.toISOString().slice(0, 19).replaceAll(":", "-");
}
