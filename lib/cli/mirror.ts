/**
 * `xenblk mirror DOMAIN VDEV TARGET`: moves a guest's disk to another image while the guest reads and writes.
 */

import { deviceLabel } from "../backend/journals.ts";
import { paramsOfText } from "../storage/image/spec.ts";
import { findDisk } from "../toolstack/detach.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { followJob } from "./job/follow.ts";
import { jobText } from "./job/text.ts";
import { defaulting, flag, integer, optional, size } from "./options.ts";
import { clientOfServing } from "./through_socket.ts";
import { defineVerb } from "./verb.ts";
import { enteredText } from "./visit.ts";

/** Finding and opening the files of the target. */
const BEGIN_MS = 60_000;

/** The verb. */
export const mirror = defineVerb({
  name: "mirror",
  summary: "Move a disk to another image while its guest uses it",
  description:
    "The storage daemon that serves the disk copies it to TARGET, and what the guest writes meanwhile goes to both. Once " +
    "all is copied, the guest's requests wait, TARGET is finished, and the disk goes on with it, as by `xenblk swap`. " +
    "TARGET is an existing image, as large as the disk or larger; what is in it is overwritten. If anything fails, or the " +
    "job is cancelled, the disk keeps its image. A raw file or block device that has no daemon enters one for this, and " +
    "leaves it if the mirror fails: a pause each time.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
    { name: "TARGET", help: "the image to move to, as `attach` takes it", required: true, isPath: true },
  ],
  options: {
    timeout: defaulting(integer("How long the guest's requests may wait at the end", 1, 600, "SECONDS"), "10"),
    rate: optional(
      size("The most to copy in a second, beside what the guest writes", 1, 1, 2 ** 40),
      "as fast as both images are",
    ),
    background: flag("Return once it has begun; see `xenblk job`", "b"),
    json: flag("Print the job as JSON", "J"),
  },
  permissions: "--allow-ffi --allow-env --allow-net --allow-read, and --allow-write of /run/xenblk.",
  examples: ["xenblk mirror web xvdb qcow2:/new/web.qcow2", "xenblk mirror web xvdb raw:/dev/vg/web --background"],
  async run(context, options, operands): Promise<number> {
    const { host, output, signals, inform } = context;
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    const image = await paramsOfText(operands["target"]!);
    using client = await clientOfServing(found, "mirror");
    const rate = options.rate === undefined ? {} : { bytesPerSecond: options.rate };
    const params = { device: deviceLabel(found.device), image, timeoutMs: options.timeout * 1000, ...rate };
    const { job, entered } = await client.call("mirror", params, { timeoutMs: BEGIN_MS, signal: signals.signal });
    if (options.background !== true) {
      return await followJob(context, client, job, { json: options.json, cancels: true, ...(entered && { entered }) });
    }
    if (options.json) output.json({ ...job, ...(entered && { entered }) });
    else {
      if (entered !== undefined) inform(enteredText(job.device, entered));
      inform(`${formatVdev(found.device.vdev)}: ${jobText(job)}`);
    }
    return 0;
  },
});
