/**
 * `xenblk image check IMAGE`: checks an image's metadata, and repairs it if asked.
 */

import { XenblkError } from "../../errors.ts";
import { formatSize } from "../../sizes.ts";
import { imageLabel } from "../../storage/image/spec.ts";
import { isLocked, qemuImgError, runQemuImg } from "../../storage/qemu/qemu_img.ts";
import { choice, flag, optional } from "../options.ts";
import { renderFields } from "../table.ts";
import { showWait } from "../progress.ts";
import { defineVerb } from "../verb.ts";
import { endingBySignal } from "./cancel.ts";
import { findNamedImage, IMAGE_OPERAND, sourceArguments } from "./name.ts";
import { inUseError } from "./use.ts";

/** Exit statuses of the verb beside 0, and those of all verbs. */
const CHECK_STATUS = { corrupt: 6, leaks: 7 } as const;

/** qemu-img's exit statuses (docs/tools/qemu-img.rst, check). */
const CLEAN = 0;
const CORRUPT = 2;
const LEAKS = 3;
const NOT_SUPPORTED = 63;

/** What a check found. */
interface Verdict {
  readonly image: string;
  readonly verdict: "clean" | "leaks" | "corrupt";
  /** Metadata that contradicts itself: data may be lost. */
  readonly corruptions: number;
  /** Clusters that are allocated but not used: space is lost. */
  readonly leaks: number;
  readonly corruptionsFixed: number;
  readonly leaksFixed: number;
  readonly allocatedClusters?: number;
  readonly totalClusters?: number;
  readonly fragmentedClusters?: number;
  readonly compressedClusters?: number;
  /** Where the last cluster that is used ends in the file. */
  readonly endBytes?: number;
}

/** What qemu-img prints (qapi/block-core.json, ImageCheck). */
interface ImageCheck {
  readonly corruptions?: number;
  readonly leaks?: number;
  readonly "corruptions-fixed"?: number;
  readonly "leaks-fixed"?: number;
  readonly "allocated-clusters"?: number;
  readonly "total-clusters"?: number;
  readonly "fragmented-clusters"?: number;
  readonly "compressed-clusters"?: number;
  readonly "image-end-offset"?: number;
}

/** The verb. */
export const check = defineVerb({
  name: "image check",
  summary: "Check an image's metadata, and repair it",
  description:
    `The exit status is 0 if the image is clean, ${CHECK_STATUS.corrupt} if it is corrupt, and ${CHECK_STATUS.leaks} if it ` +
    "only has leaks: space that is allocated but not used. After a repair it is that of the repaired image. An image that a " +
    "guest writes to is refused: its metadata is not all written yet. raw images have no metadata.",
  operands: [IMAGE_OPERAND],
  options: {
    "repair": optional(
      choice("Repair leaks, or all that is found, which can lose data: keep a copy of the image", ["leaks", "all"]),
    ),
    "json": flag("Print JSON", "J"),
  },
  permissions: "--allow-run=qemu-img --allow-env=XENBLK_QEMU_IMG --allow-read.",
  examples: ["xenblk image check qcow2:web.qcow2", "xenblk image check qcow2:web.qcow2 --repair leaks"],
  async run(context, options, operands): Promise<number> {
    const { host, output, signals } = context;
    const image = await findNamedImage(operands["image"]!, "check");
    const name = imageLabel(image);
    const verb = options.repair === undefined ? "check" : "repair";
    const what = `Cannot ${verb} image ${name}`;
    return await endingBySignal(context, what, async () => {
      const repair = options.repair === undefined ? [] : ["-r", options.repair];
      const source = await sourceArguments(image);
      const args = ["check", "--output=json", ...repair, ...source.objects, ...source.image];
      const outcome = await showWait(
        { output, quiet: context.quiet || options.json, what: `checking ${imageLabel(image)}` },
        runQemuImg(args, { signal: signals.signal }),
      );
      if (isLocked(outcome)) throw await inUseError(host, what, image.target, options.repair !== undefined);
      if (outcome.status === NOT_SUPPORTED) {
        throw new XenblkError(`${what}: the format ${image.format} cannot be checked`, { kind: "usage" });
      }
      if (![CLEAN, CORRUPT, LEAKS].includes(outcome.status)) throw qemuImgError(what, outcome);
      const verdict = verdictOf(name, outcome.status, JSON.parse(outcome.stdout) as ImageCheck);
      if (options.json) output.json(verdict);
      else output.data(renderVerdict(verdict, output.columns));
      return verdict.verdict === "clean" ? 0 : CHECK_STATUS[verdict.verdict];
    });
  },
});

function verdictOf(image: string, status: number, found: ImageCheck): Verdict {
  const verdict = status === CLEAN ? "clean" : status === LEAKS ? "leaks" : "corrupt";
  const optionals = {
    allocatedClusters: found["allocated-clusters"],
    totalClusters: found["total-clusters"],
    fragmentedClusters: found["fragmented-clusters"],
    compressedClusters: found["compressed-clusters"],
    endBytes: found["image-end-offset"],
  };
  return {
    image,
    verdict,
    corruptions: found.corruptions ?? 0,
    leaks: found.leaks ?? 0,
    corruptionsFixed: found["corruptions-fixed"] ?? 0,
    leaksFixed: found["leaks-fixed"] ?? 0,
    // JSON has no property for what is undefined.
    ...optionals as { [name in keyof typeof optionals]: number },
  };
}

function renderVerdict(verdict: Verdict, terminalColumns: number): string {
  const { image, corruptions, leaks, corruptionsFixed, leaksFixed, allocatedClusters, totalClusters, endBytes } =
    verdict;
  const remedies = {
    clean: "clean",
    leaks: "leaks: space is lost, no data; repair it with --repair leaks",
    corrupt: "corrupt: data may be lost; make a copy of it, then use --repair all",
  };
  const found = (count: number, fixed: number): string => fixed === 0 ? `${count}` : `${count}, ${fixed} repaired`;
  const fields: [string, string | undefined][] = [
    ["image", image],
    ["verdict", remedies[verdict.verdict]],
    ["corruptions", found(corruptions, corruptionsFixed)],
    ["leaks", found(leaks, leaksFixed)],
    ["clusters", totalClusters === undefined ? undefined : `${allocatedClusters ?? 0} of ${totalClusters} allocated`],
    ["end", endBytes === undefined ? undefined : formatSize(endBytes)],
  ];
  const known = fields.flatMap(([name, value]) => value === undefined ? [] : [[name, value] as const]);
  return renderFields(known, terminalColumns);
}
