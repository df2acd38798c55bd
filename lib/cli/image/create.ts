/**
 * `xenblk image create IMAGE [SIZE]`: creates an image, with the defaults that measured best where none are given.
 */

import { formatSize, parseDiskSize } from "../../sizes.ts";
import { usageError } from "../args.ts";
import { choice, flag, optional, path } from "../options.ts";
import { defineVerb } from "../verb.ts";
import { endingBySignal } from "./cancel.ts";
import { readFacts } from "./facts.ts";
import { checkSize, createImage, findBacking, FORMAT_OPTIONS, layoutOf, newName } from "./making.ts";
import { findImage, MADE_FORMATS, parseGiven } from "./name.ts";

const VERB = "image create";

const OPTIONS = {
  ...FORMAT_OPTIONS,
  "backing": optional(
    path(
      "BASE",
      "The new image is an overlay of this one, named with its format: qcow2:base.qcow2; BASE stays as it is",
    ),
  ),
  "backing-format": optional(choice("Format of BASE", MADE_FORMATS), "the one its name begins with"),
  "json": flag("Print what was created as JSON", "J"),
} as const;

/** The verb. */
export const create = defineVerb({
  name: VERB,
  summary: "Create an image",
  description:
    "Prints the image's name as attach takes it. A raw image is sparse. The image gets its name when it is complete: " +
    "until then it is in the directory IMAGE.part, which is removed if the verb fails or INT, TERM or HUP end it. " +
    "It needs qemu-img (Debian: qemu-utils), by PATH or XENBLK_QEMU_IMG, as all image verbs do.",
  operands: [
    { name: "IMAGE", help: "a path that does not exist, or FORMAT:PATH", required: true, isPath: true },
    { name: "SIZE", help: "such as 64M or 10G; default: that of BASE", required: false, check: parseDiskSize },
  ],
  options: OPTIONS,
  permissions:
    "--allow-run=qemu-img --allow-env=XENBLK_QEMU_IMG --allow-read --allow-write; for --force also --allow-ffi, which " +
    "is as good as all permissions.",
  examples: [
    "xenblk image create web.qcow2 20G",
    "xenblk image create raw:swap.img 4G --preallocate falloc",
    "xenblk image create test1.qcow2 --backing qcow2:base.qcow2",
    "xenblk attach web $(xenblk image create data.qcow2 100G)",
  ],
  async run(context, options, operands): Promise<number> {
    const { host, output, signals, inform } = context;
    const image = await parseGiven(operands["image"]!);
    const layout = layoutOf(VERB, image, options);
    const size = operands["size"];
    const sizeBytes = size === undefined ? undefined : parseDiskSize(size);
    checkSize(layout.format, sizeBytes);
    if (sizeBytes === undefined && options.backing === undefined) {
      throw usageError(VERB, `Cannot run ${VERB} without SIZE: such as 64M or 10G, unless --backing has one`);
    }
    if (options.backing === undefined && options["backing-format"] !== undefined) {
      throw usageError(VERB, "Cannot use --backing-format without --backing");
    }
    const backing = options.backing === undefined
      ? undefined
      : await findBacking(options.backing, options["backing-format"]);
    const name = newName(image.target, layout);
    return await endingBySignal(context, `Cannot create image ${name}`, async () => {
      await createImage(
        { ...layout, path: image.target, sizeBytes, backing, force: options.force },
        host,
        signals.signal,
      );
      const [facts] = await readFacts(await findImage(name), { signal: signals.signal });
      inform(`created ${name} (${formatSize(facts!.sizeBytes)})`);
      if (options.json) output.json(facts);
      else output.data(`${name}\n`);
      return 0;
    });
  },
});
