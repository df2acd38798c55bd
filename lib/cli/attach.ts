/**
 * `xenblk attach DOMAIN IMAGE [VDEV]`: attaches a disk to a guest, serves it, and detaches it at the end. It can create the
 * image first. If it fails before the guest has connected, it leaves no nodes and no new image behind.
 */

import { attachOn } from "../attach.ts";
import type { AttachedDisk, ServedDisk } from "../attached_disk.ts";
import type { CloseOptions } from "../backend/close_options.ts";
import { XenblkError } from "../errors.ts";
import type { NativePlatform } from "../host_platform.ts";
import { chooseFilters } from "../storage/filter/spec.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { describeDevice } from "../toolstack/list.ts";
import { parseVdev } from "../xenbus/vdev.ts";
import { DEFAULT_KIND } from "../xenbus/paths.ts";
import { usageError } from "./args.ts";
import { attachInBackground } from "./background.ts";
import { COMPANION_OPTIONS, startCompanions } from "./companions.ts";
import { loadConfig } from "./config/file.ts";
import { optionsForAttach } from "./config/for_attach.ts";
import { DEVICE_OPTIONS, KIND, settingsOf, TIMEOUT } from "./device_options.ts";
import { checkCreating, CREATING_OPTIONS, imageForAttach } from "./image/for_attach.ts";
import { pluginSettingsOf } from "./plugin_options.ts";
import { defaulting, flag, type OptionValues } from "./options.ts";
import { CONFIG_OPTIONS } from "./serve_options.ts";
import { showWait } from "./progress.ts";
import { type Context, defineVerb } from "./verb.ts";

const OPTIONS = {
  ...DEVICE_OPTIONS,
  ...COMPANION_OPTIONS,
  ...CONFIG_OPTIONS,
  "kind": defaulting(KIND, DEFAULT_KIND),
  "shared": flag(
    "Others may write to the image at the same time (mode w!): for a cluster file system, or to insist on an image that " +
      "the host or another guest uses",
  ),
  ...CREATING_OPTIONS,
  "cdrom": flag("Attach as a CD-ROM, read-only"),
  "keep": flag("At the end leave the disk Connected; serve can continue with it"),
  "background": flag(
    "Have a running `serve` of the kind serve the disk, and return once the guest has connected; options left at " +
      "their defaults are those of `serve`",
    "b",
  ),
  "timeout": TIMEOUT,
  "json": flag("Print the connected disk as JSON", "J"),
} as const;

type Options = OptionValues<typeof OPTIONS>;

const IMAGE_HELP = "a path, format:target, a URI, plugin:MODULE?TARGET, or xl's format=qcow2,...,target=...";

/** The verb. */
export const attach = defineVerb({
  name: "attach",
  keepsRunning: true,
  summary: "Attach a disk to a running guest and serve it until INT, TERM or detach",
  description:
    "Writes the nodes that xl would write, serves the disk, and prints the device's name once the guest has " +
    "connected. On INT, TERM or HUP it detaches the disk and removes the nodes; it also ends when another command detaches the " +
    "disk. A serve of the same kind leaves the disk alone meanwhile. With --overlay the operands are DOMAIN and VDEV. A " +
    "configuration file applies as it does to serve; the command line takes precedence.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "IMAGE", help: IMAGE_HELP, required: false, isPath: true },
    {
      name: "VDEV",
      help: "the virtual device, such as xvdb; default: the first free one",
      required: false,
      check: parseVdev,
    },
  ],
  options: OPTIONS,
  permissions:
    "--allow-ffi --allow-read --allow-write --allow-env, read and write limited to the checkout, /run/xenblk " +
    "and IMAGE if it is a regular file, read also to /etc/xenblk and the directory of an IMAGE that is written to; --allow-net for the control socket and --metrics; " +
    "--allow-ffi is as good as all permissions. For --create also " +
    "--allow-run=qemu-img; images of other formats than raw, and plugins, need --allow-all.",
  examples: [
    "xenblk attach web disk.img",
    "xenblk attach web disk.img --create 10G",
    "xenblk attach web disk.img --background",
    "xenblk attach 5 raw:/dev/vg/lv xvdc --read-only",
    "xenblk attach web 'plugin:./my_disk.ts?https://host/disk.img' --plugin-allow net=host",
    "xenblk attach test7 --overlay qcow2:base.qcow2",
  ],
  async run(context, given, operands): Promise<number> {
    const { host, signals, output } = context;
    checkCreating(given);
    await chooseFilters(given.filter); // a wrong one is refused before anything is looked for
    const { named, vdev } = imageAndVdev(operands, given.overlay !== undefined);
    const wanted = { domain: operands["domain"]!, image: named, vdev };
    if (given.background) return await attachInBackground(context, given, wanted);
    const config = await loadConfig("attach", given);
    const platform = await host.openNativePlatform();
    const options = await optionsForAttach(platform, config, { options: given, given: context.given }, wanted);
    const timeoutMs = options.timeout * 1000;
    const image = await imageForAttach(context, options, named);
    const attaching = attachOn(platform, {
      ...settingsOf(options),
      domain: operands["domain"]!,
      image: image.name,
      ...(vdev === undefined ? {} : { vdev }),
      ...(options.shared ? { shared: true } : {}),
      cdrom: options.cdrom,
      kind: options.kind,
      journal: !options["no-journal"],
      writeLog: !options["no-write-log"],
      plugin: pluginSettingsOf(options),
      daemonPerDisk: options["daemon-per-disk"],
      ...(options["daemon-user"] === undefined ? {} : { daemonUser: options["daemon-user"] }),
      workers: options.workers,
      balance: !options["no-balance"],
      timeoutMs,
      signal: signals.signal,
      guestFound: (domain, name) => void context.guestNames.set(domain, name),
    }).catch(async (error) => {
      await image.undo();
      throw error;
    });
    const quiet = context.quiet || options.json;
    const disk = await showWait({ output, quiet, what: "waiting for the guest to connect", timeoutMs }, attaching);
    await orClose(disk, endingOf(options), () => tellOf(disk, context, platform, options));
    await serveUntilEnd(context, platform, disk, options);
    await image.release();
    return 0;
  },
});

/** Says what the guest has. */
function tellOf(
  disk: ServedDisk,
  { output, inform }: Context,
  platform: NativePlatform,
  { kind, json }: Options,
): void {
  inform(`${disk.params} is ${disk.vdev} of ${domainLabel(disk.guest)}`);
  if (!disk.status().connected) inform(servedElsewhere(kind));
  if (!json) return output.data(`${disk.vdev}\n`);
  using store = platform.openXenstore();
  output.json(describeDevice(store, disk.address));
}

/** Does something with the disk. If that throws, the disk is closed first: nobody would serve it. */
export async function orClose(disk: AttachedDisk, ending: CloseOptions, action: () => void): Promise<void> {
  try {
    action();
  } catch (error) {
    await disk.close(ending);
    throw error;
  }
}

/** How the disk is left. */
function endingOf({ keep, timeout }: Options): CloseOptions {
  return { leave: keep ? "connected" : "detached", timeoutMs: timeout * 1000 };
}

/** Serves until a signal or the end of the disk, and closes it. */
async function serveUntilEnd(
  context: Context,
  platform: NativePlatform,
  disk: ServedDisk,
  options: Options,
): Promise<void> {
  const { kind } = options;
  const how = endingOf(options);
  const closingMs = how.leave === "connected" ? 0 : how.timeoutMs;
  const parts = { platform, service: disk.service, verb: "attach", servesAll: false, kind } as const;
  await using _companions = await startCompanions({ context, ...parts, options, closingMs });
  const end = await Promise.race([context.signals.drain, disk.ended]);
  if (typeof end === "object" && end.reason === "failed") throw died(end.error, kind);
  await disk.close(how);
}

/** With --overlay there is no IMAGE, so the second operand is VDEV. Throws {@linkcode XenblkError} (usage). */
function imageAndVdev(
  { image, vdev }: Readonly<Record<string, string>>,
  isOverlay: boolean,
): { readonly named: string | undefined; readonly vdev: string | undefined } {
  if (!isOverlay) {
    if (image === undefined) throw usageError("attach", `Cannot run attach without IMAGE: ${IMAGE_HELP}`);
    return { named: image, vdev };
  }
  if (vdev !== undefined) {
    throw usageError("attach", `Cannot use ${JSON.stringify(vdev)}: with --overlay, attach takes at most DOMAIN VDEV`);
  }
  if (image !== undefined) parseVdev(image);
  return { named: undefined, vdev: image };
}

/** The disk stays Connected when a thread of this process has died; another verb continues with it. */
export function died({ message, cause }: XenblkError, kind: string): XenblkError {
  return new XenblkError(message, {
    cause,
    remedy: `start \`xenblk serve --kind ${kind}\`, which continues with the disk; and report this defect`,
  });
}

/** The message for a disk that another program serves, or a process with another directory of journals. */
export function servedElsewhere(kind: string): string {
  return `Another backend of kind ${kind} serves the disk, so the options given here have no effect; ` +
    "end that backend, or attach with another --kind";
}
