/**
 * `xenblk cd-eject DOMAIN VDEV` and `xenblk cd-insert DOMAIN VDEV IMAGE`: the disc of a guest's CD-ROM drive.
 */

import { deviceLabel } from "../backend/journals.ts";
import { formatSize } from "../sizes.ts";
import { paramsOfText } from "../storage/image/spec.ts";
import { findDisk } from "../toolstack/detach.ts";
import { changeDisc, type DiscChange } from "../toolstack/disc.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { SECTOR_BYTES } from "../units.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { namedDisk } from "./disk_result.ts";
import { defaulting, flag, integer, type OptionValues } from "./options.ts";
import { showWait } from "./progress.ts";
import { CALL_SLACK_MS, throughSocket } from "./through_socket.ts";
import { type Context, defineVerb } from "./verb.ts";

const OPTIONS = {
  timeout: defaulting(integer("How long the backend may take for each step", 1, 600, "SECONDS"), "30"),
  json: flag("Print what the drive has as JSON", "J"),
} as const;
const DRIVE = [
  { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
  { name: "VDEV", help: "the virtual device, such as xvdc", required: true, check: parseVdev },
] as const;
const PERMISSIONS =
  "--allow-ffi --allow-env; to ask the serving process also --allow-net, and --allow-read and --allow-write of /run/xenblk.";
const LOCK = "blkif has no lock of the tray, so the guest is not asked; unmount the disc in the guest before.";

/** Takes the disc out. */
export const cdEject = defineVerb({
  name: "cd-eject",
  summary: "Take the disc out of a guest's CD-ROM drive",
  description: "Requests in flight are answered, then the guest has an empty drive: its reads fail. " + LOCK +
    " Writes the nodes that `xl cd-eject` writes, for PV guests, too.",
  operands: [...DRIVE],
  options: OPTIONS,
  permissions: PERMISSIONS,
  examples: ["xenblk cd-eject web xvdc"],
  async run(context, options, operands): Promise<number> {
    return await change(context, options, operands, undefined);
  },
});

/** Puts a disc in. */
export const cdInsert = defineVerb({
  name: "cd-insert",
  summary: "Put a disc into a guest's CD-ROM drive",
  description:
    "The disc that is in the drive is taken out first. A disc that cannot be opened leaves the drive empty; the " +
    "next one can be put in. " + LOCK + " The guest's configuration, as xl keeps it, stays as it is: a guest that is " +
    "created anew has the disc that is named there.",
  operands: [...DRIVE, { name: "IMAGE", help: "the disc, as `attach` takes an image", required: true, isPath: true }],
  options: OPTIONS,
  permissions: `--allow-read; ${PERMISSIONS}`,
  examples: ["xenblk cd-insert web xvdc debian.iso"],
  async run(context, options, operands): Promise<number> {
    return await change(context, options, operands, await paramsOfText(operands["image"]!));
  },
});

async function change(
  { host, signals: { signal }, output, quiet, inform }: Context,
  options: OptionValues<typeof OPTIONS>,
  operands: Readonly<Record<string, string>>,
  params: string | undefined,
): Promise<number> {
  using store = (await host.openNativePlatform()).openXenstore();
  const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
  const { guest, device } = found;
  const timeoutMs = options.timeout * 1000;
  const disc = params === undefined ? {} : { params };
  const changing = throughSocket(
    device,
    (client) =>
      client.call("disc", { device: deviceLabel(device), timeoutMs, ...disc }, {
        timeoutMs: 2 * timeoutMs + CALL_SLACK_MS,
        signal,
      }),
    () => changeDisc(store, device, { timeoutMs, signal, ...disc }),
  );
  const name = formatVdev(device.vdev);
  const wait = { output, quiet: quiet || options.json, what: `waiting for the backend of ${name}`, timeoutMs };
  const { sectors }: DiscChange = await showWait(wait, changing);
  if (options.json) {
    output.json({
      ...namedDisk(found),
      ...disc,
      ...(sectors === undefined ? {} : { sizeBytes: sectors * SECTOR_BYTES }),
    });
  } else inform(`${name} of ${domainLabel(guest)} ${stateOf(params, sectors)}`);
  return 0;
}

function stateOf(params: string | undefined, sectors: number | undefined): string {
  const has = params === undefined ? "is empty" : `has ${params}`;
  if (sectors === undefined) return `${has} once the guest connects`;
  return params === undefined ? has : `${has} (${formatSize(sectors * SECTOR_BYTES)})`;
}
