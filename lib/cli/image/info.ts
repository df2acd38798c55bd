/**
 * `xenblk image info IMAGE`: describes an image by its metadata, and says who uses it.
 */

import { formatSize } from "../../sizes.ts";
import { isFile } from "../../storage/image/formats.ts";
import { imageLabel } from "../../storage/image/spec.ts";
import { SECTOR_BYTES } from "../../units.ts";
import { flag } from "../options.ts";
import { renderFields, renderTable } from "../table.ts";
import { defineVerb } from "../verb.ts";
import { endingBySignal } from "./cancel.ts";
import { type ImageFacts, readFacts } from "./facts.ts";
import { type ExistingImage, findImage, IMAGE_OPERAND } from "./name.ts";
import { guestsOf, holderOf, type ImageUse, useText } from "./use.ts";

/** An image with its users. */
interface Description extends ImageFacts {
  /** How its format is known. */
  readonly formatBy: ExistingImage["knownBy"] | "image";
  /** Guests that have it, by xenstore. */
  readonly guests: readonly ImageUse[];
  /** The process that writes to it, if it can be named. */
  readonly holder?: string;
}

/** The verb. */
export const info = defineVerb({
  name: "image info",
  summary: "Describe an image: format, sizes, backing image, snapshots, users",
  description:
    "Without FORMAT the format is found by the image's first bytes, which a guest can have written to a raw image; " +
    "attach serves such an image raw. An image in use is described as far as it is written down. Users are shown where " +
    "xenstore is, and where Deno may use FFI.",
  operands: [IMAGE_OPERAND],
  options: {
    "chain": flag("Describe its backing images too"),
    "json": flag("Print JSON: a list, with --chain of several images", "J"),
  },
  permissions:
    "--allow-run=qemu-img --allow-env=XENBLK_QEMU_IMG --allow-read; to show users also --allow-ffi --allow-env.",
  examples: ["xenblk image info qcow2:web.qcow2", "xenblk image info web.qcow2 --chain --json"],
  async run(context, options, operands): Promise<number> {
    const { host, output, signals } = context;
    const image = await findImage(operands["image"]!);
    return await endingBySignal(context, `Cannot look at image ${imageLabel(image)}`, async () => {
      const [facts, ...backing] = await readFacts(image, { chain: options.chain, signal: signals.signal });
      const holder = facts!.inUse && isFile(image) ? await holderOf(host, image.target, false) : undefined;
      const top: Description = {
        ...facts!,
        formatBy: image.knownBy,
        guests: !isFile(image) ? [] : await guestsOf(host, image.target),
        ...(holder === undefined ? {} : { holder }),
      };
      const all = [top, ...backing.map((facts): Description => ({ ...facts, formatBy: "image", guests: [] }))];
      if (options.json) output.json(all);
      else output.data(all.map((image) => renderDescription(image, output.columns)).join("\n"));
      return 0;
    });
  },
});

/** The image as lines of names and values, and its snapshots as a table. */
function renderDescription(image: Description, terminalColumns: number): string {
  const { backing, encryption, allocatedBytes, clusterBytes, snapshots } = image;
  const byContent = image.formatBy === "content" ? ", by its content; no format was named" : "";
  const fields: [string, string | undefined][] = [
    ["image", image.name],
    ["format", `${image.format}${byContent}`],
    ["size", `${formatSize(image.sizeBytes)}, ${Math.floor(image.sizeBytes / SECTOR_BYTES)} sectors`],
    ["allocated", allocatedBytes === undefined ? undefined : formatSize(allocatedBytes)],
    [
      "clusters",
      clusterBytes === undefined ? undefined : `${formatSize(clusterBytes)}${image.subclusters ? ", subclusters" : ""}`,
    ],
    ["encryption", encryption],
    ["backing", backing && `${backing.format === undefined ? "" : `${backing.format}:`}${backing.path}`],
    ["condition", conditionText(image)],
    ["used by", usersText(image)],
  ];
  const known = fields.flatMap(([name, value]) => value === undefined ? [] : [[name, value] as const]);
  const text = renderFields(known, terminalColumns);
  if (snapshots.length === 0) return text;
  const columns = [
    { heading: "SNAPSHOT" },
    { heading: "NAME", cut: "end" },
    { heading: "TAKEN" },
    { heading: "STATE", align: "right" },
  ] as const;
  return text + renderTable(
    columns,
    snapshots.map(({ id, name, takenAt, vmStateBytes }) => [id, name, takenAt, formatSize(vmStateBytes)]),
    true,
    terminalColumns,
  );
}

function conditionText({ dirty, corrupt, inUse }: Description): string | undefined {
  if (corrupt) return "corrupt: QEMU opens it read-only until `xenblk image check --repair all` has repaired it";
  if (dirty) return inUse ? "dirty: it is in use" : "dirty: it was not closed; QEMU repairs it when it is next opened";
  return undefined;
}

function usersText({ guests, holder, inUse }: Description): string | undefined {
  const users = guests.map(useText);
  // A guest that writes is served by the process that holds the lock.
  if (inUse && guests.every(({ readOnly }) => readOnly)) {
    users.push(holder?.replace(/ uses it$/, "") ?? "another process, which writes to it");
  }
  return users.length === 0 ? undefined : users.join("; ");
}
