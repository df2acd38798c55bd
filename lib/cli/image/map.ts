/**
 * `xenblk image map IMAGE`: shows which ranges of an image hold data, and where in which file.
 */

import { formatSize } from "../../sizes.ts";
import { imageLabel } from "../../storage/image/spec.ts";
import { isLocked, qemuImgError, runQemuImg } from "../../storage/qemu/qemu_img.ts";
import { flag } from "../options.ts";
import { renderTable } from "../table.ts";
import { showWait } from "../progress.ts";
import { defineVerb } from "../verb.ts";
import { endingBySignal } from "./cancel.ts";
import { findNamedImage, IMAGE_OPERAND, sourceArguments } from "./name.ts";
import { inUseError } from "./use.ts";

/** A range of the disk with one kind of content. */
interface MapRange {
  readonly startBytes: number;
  readonly lengthBytes: number;
  /** `unallocated`: nothing in the whole chain of images; it reads as zeroes. */
  readonly content: "data" | "compressed" | "zeroes" | "unallocated";
  /** The image that has it: 0 is IMAGE, 1 its backing image. */
  readonly depth: number;
  /** Where it is in that image's file, if it is there as it is (neither compressed nor encrypted). */
  readonly hostOffsetBytes?: number;
}

/** What qemu-img prints (qapi/block-core.json, MapEntry). */
interface MapEntry {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly zero: boolean;
  readonly data: boolean;
  readonly present?: boolean;
  readonly compressed?: boolean;
  readonly offset?: number;
}

/** The verb. */
export const map = defineVerb({
  name: "image map",
  summary: "Show which ranges of an image hold data, and where",
  description:
    "DEPTH says which image of the chain has the range: 0 is IMAGE, 1 its backing image, and so on. OFFSET is the place in " +
    "that image's file. All numbers are bytes.",
  operands: [IMAGE_OPERAND],
  options: {
    "json": flag("Print JSON", "J"),
    "no-headings": flag("Print the table without its headings"),
  },
  permissions: "--allow-run=qemu-img --allow-env=XENBLK_QEMU_IMG --allow-read.",
  examples: [
    "xenblk image map qcow2:web.qcow2",
    "xenblk image map qcow2:web.qcow2 --json | jq 'map(select(.depth == 0))'",
  ],
  async run(context, options, operands): Promise<number> {
    const { host, output, signals } = context;
    const image = await findNamedImage(operands["image"]!, "map");
    const what = `Cannot map image ${imageLabel(image)}`;
    return await endingBySignal(context, what, async () => {
      const source = await sourceArguments(image);
      const args = ["map", "--output=json", ...source.objects, ...source.image];
      const outcome = await showWait(
        { output, quiet: context.quiet || options.json, what: `reading the map of ${imageLabel(image)}` },
        runQemuImg(args, { signal: signals.signal }),
      );
      if (isLocked(outcome)) throw await inUseError(host, what, image.target, false);
      if (outcome.status !== 0) throw qemuImgError(what, outcome);
      const ranges = (JSON.parse(outcome.stdout) as MapEntry[]).map(rangeOf);
      if (options.json) output.json(ranges);
      else output.data(renderRanges(ranges, !options["no-headings"], output.columns));
      return 0;
    });
  },
});

function rangeOf({ start, length, depth, zero, data, present = true, compressed, offset }: MapEntry): MapRange {
  const content = compressed ? "compressed" : data ? "data" : zero && present ? "zeroes" : "unallocated";
  const place = offset === undefined ? {} : { hostOffsetBytes: offset };
  return { startBytes: start, lengthBytes: length, content, depth, ...place };
}

function renderRanges(ranges: readonly MapRange[], headings: boolean, terminalColumns: number): string {
  const columns = [
    { heading: "START", align: "right" },
    { heading: "LENGTH", align: "right" },
    { heading: "SIZE", align: "right", leaveOut: 1 },
    { heading: "CONTENT" },
    { heading: "DEPTH", align: "right" },
    { heading: "OFFSET", align: "right", leaveOut: 2 },
  ] as const;
  const rows = ranges.map(({ startBytes, lengthBytes, content, depth, hostOffsetBytes }) => [
    String(startBytes),
    String(lengthBytes),
    formatSize(lengthBytes),
    content,
    content === "unallocated" ? "-" : String(depth),
    hostOffsetBytes === undefined ? "-" : String(hostOffsetBytes),
  ]);
  return renderTable(columns, rows, headings, terminalColumns);
}
