/**
 * `xenblk image convert SOURCE TARGET`: copies an image into a new one of another format, and shows how far it is.
 */

import { formatSize } from "../../sizes.ts";
import { imageLabel } from "../../storage/image/spec.ts";
import { isLocked, makeByQemuImg, qemuImgError } from "../../storage/qemu/qemu_img.ts";
import { flag, optional, size, text } from "../options.ts";
import { type Context, defineVerb } from "../verb.ts";
import { endingBySignal } from "./cancel.ts";
import { readFacts } from "./facts.ts";
import { FORMAT_OPTIONS, layoutArguments, layoutOf, newName } from "./making.ts";
import { type ExistingImage, fileArgument, findImage, findNamedImage, parseGiven, sourceArguments } from "./name.ts";
import { ImagePlace } from "./place.ts";
import { ConvertProgress } from "./convert_progress.ts";
import { inUseError } from "./use.ts";

const VERB = "image convert";

const OPTIONS = {
  ...FORMAT_OPTIONS,
  "snapshot": optional({
    ...text("NAME", "Copy a snapshot inside SOURCE, not its present content"),
    allowed: "its name, as image info shows it",
  }),
  "compress": flag("Compress the data: for archives, since it costs CPU time with every read (qcow2, vmdk)"),
  "rate": optional(size("Most bytes per second", 1024, 64 * 1024, 2 ** 40), "as fast as it can"),
  "json": flag("Print events as JSON, one a line: progress, then done", "J"),
} as const;

/** The verb. */
export const convert = defineVerb({
  name: VERB,
  summary: "Copy an image into a new one of another format",
  description:
    "Copies what a guest would read, with the content of backing images. An image can name any file of this host as its " +
    "backing image: look at one that a stranger made with image info, which opens no other file, first. Prints the new image's name as attach takes it. " +
    "TARGET gets its name when it is complete: until then it is in the directory TARGET.part, which is removed if the " +
    "verb fails or INT, TERM or HUP end it. Zeroes are not written, so the target is sparse. A source that a guest " +
    "writes to is refused.",
  operands: [
    { name: "SOURCE", help: "a path, FORMAT:PATH such as qcow2:disk.img, or a URI", required: true, isPath: true },
    { name: "TARGET", help: "a path that does not exist, or FORMAT:PATH", required: true, isPath: true },
  ],
  options: OPTIONS,
  permissions:
    "--allow-run=qemu-img --allow-env=XENBLK_QEMU_IMG --allow-read --allow-write; for --force also --allow-ffi, which " +
    "is as good as all permissions.",
  examples: [
    "xenblk image convert vmdk:old.vmdk web.qcow2",
    "xenblk image convert disk.img qcow2:/dev/vg/web --force --rate 100M",
  ],
  async run(context, options, operands): Promise<number> {
    const { host, signals } = context;
    const source = await findNamedImage(operands["source"]!, "convert");
    const target = await parseGiven(operands["target"]!);
    const layout = layoutOf(VERB, target, options);
    const layoutGiven = layoutArguments(layout);
    const name = newName(target.target, layout);
    const what = `Cannot convert ${imageLabel(source)} to ${name}`;
    return await endingBySignal(context, what, async () => {
      const given = await sourceArguments(source);
      using place = await ImagePlace.take({ target: target.target, force: options.force, host });
      const { snapshot, rate } = options;
      const args = [
        ...["convert", "-p", ...given.objects, "-O", layout.format],
        // The cache mode unsafe, which is the default, would call an image done that is not on the disk yet.
        ...["-t", "writeback", ...layoutGiven],
        ...(options.compress ? ["-c"] : []),
        ...(rate === undefined ? [] : ["-r", String(rate)]),
        ...(snapshot === undefined ? [] : ["-l", `snapshot.name=${snapshot.replaceAll(",", ",,")}`]),
        ...[...given.image, fileArgument(place.path)],
      ];
      const startMs = performance.now();
      {
        using progress = new ConvertProgress(context, options.json);
        const outcome = await makeByQemuImg(args, {
          signal: signals.signal,
          onPercent: (percent) => progress.update(percent),
        });
        if (isLocked(outcome)) throw await inUseError(host, what, source.target, false);
        if (outcome.status !== 0) throw qemuImgError(what, place.renamed(outcome));
      }
      await place.finish();
      await reportDone(context, name, options.json, performance.now() - startMs);
      return 0;
    });
  },
});

async function reportDone(
  { output, signals, inform }: Context,
  name: string,
  json: boolean,
  ms: number,
): Promise<void> {
  const made: ExistingImage = await findImage(name);
  const [facts] = await readFacts(made, { signal: signals.signal });
  const { sizeBytes, allocatedBytes = sizeBytes } = facts!;
  const seconds = Math.round(ms) / 1000;
  if (json) {
    output.data(JSON.stringify({ event: "done", image: name, sizeBytes, allocatedBytes, seconds }) + "\n");
    return;
  }
  inform(
    `made ${name} (${formatSize(sizeBytes)}, ${formatSize(allocatedBytes)} allocated) in ${seconds.toFixed(1)} s`,
  );
  output.data(`${name}\n`);
}
