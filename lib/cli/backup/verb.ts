/**
 * `xenblk backup DOMAIN VDEV TARGET`: copies a disk as it is at one instant, while its guest uses it.
 */

import { deviceLabel } from "../../backend/journals.ts";
import { findDisk } from "../../toolstack/detach.ts";
import { parseVdev } from "../../xenbus/vdev.ts";
import { followJob } from "../job/follow.ts";
import { jobText } from "../job/text.ts";
import { choice, type Description, flag, optional, path, size } from "../options.ts";
import { clientOfServing } from "../through_socket.ts";
import { defineVerb } from "../verb.ts";
import { enteredText } from "../visit.ts";

/** Making the target's metadata may take so long. */
const BEGIN_MS = 150_000;
const MOST_BYTES = 2 ** 50;

function rate(help: string): Description<number> {
  return { ...size(help, 1, 0, MOST_BYTES), allowed: "a size such as 64K or 10M, or 0" };
}

/** The verb. */
export const backup = defineVerb({
  name: "backup",
  summary: "Back up a disk while its guest uses it, in full or what has changed",
  description:
    "The storage daemon of the disk copies it as it is at one instant. A file has the name TARGET.partial until it is " +
    "complete. With --incremental it is a qcow2 file with what has changed since the last backup, which is its backing " +
    "file; where that is not known, it is a full one, and the verb says why. A raw disk that has no daemon enters one for " +
    "this, and leaves it afterwards: a pause each time. INT cancels the backup. See docs/backup.md.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
    {
      name: "TARGET",
      help: "a file that does not exist, a block device, or an nbd:// URI",
      required: true,
      isPath: true,
    },
  ],
  options: {
    "incremental": flag("Copy only what has changed since the last backup"),
    "format": optional(
      choice("Format of TARGET", ["qcow2", "raw"]),
      "as a file's name ends: .qcow2, .raw, .img; else raw",
    ),
    "rate": optional(rate("The most that is copied in a second"), "as fast as it goes"),
    "scratch": optional(
      path("DIRECTORY", "Where what the guest overwrites meanwhile is kept: storage as fast as the disk's"),
      "the directory of the disk's image",
    ),
    "background": flag("Return once it has begun; see `xenblk job`", "b"),
    "json": flag("Print the backup's end as JSON", "J"),
  },
  permissions:
    "--allow-ffi --allow-env --allow-net, and --allow-read and --allow-write of /run/xenblk; for a relative TARGET " +
    "also --allow-read.",
  examples: [
    "xenblk backup web xvda /backup/web-1.qcow2",
    "xenblk backup web xvda /backup/web-2.qcow2 --incremental",
    "xenblk backup web xvda nbd://backup.example/web --rate 50M",
  ],
  async run(context, options, operands): Promise<number> {
    const { host, output, inform } = context;
    using store = (await host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "back up");
    const { format, incremental, json } = options;
    const bytesPerSecond = options.rate;
    const scratch = options.scratch === undefined ? undefined : fromRoot(options.scratch);
    const { job, entered } = await client.call("backup", {
      device: deviceLabel(found.device),
      target: targetName(operands["target"]!),
      incremental,
      ...(format === undefined ? {} : { format }),
      ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
      ...(scratch === undefined ? {} : { scratch }),
    }, { timeoutMs: BEGIN_MS });
    if (!options.background) {
      return await followJob(context, client, job, { json, cancels: true, ...(entered && { entered }) });
    }
    if (json) output.json({ ...job, ...(entered && { entered }) });
    else {
      if (entered !== undefined) inform(enteredText(job.device, entered));
      inform(jobText(job));
    }
    return 0;
  },
});

/** With an absolute path: others are relative to the serving process. */
function targetName(text: string): string {
  if (/^nbds?(\+unix)?:\/\//i.test(text)) return text;
  const [, format = "", name] = /^(qcow2:|raw:)?(.*)$/s.exec(text)!;
  return `${format}${fromRoot(name!)}`;
}

function fromRoot(path: string): string {
  return path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
}
