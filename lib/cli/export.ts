/**
 * `xenblk export DOMAIN VDEV`: shows a disk as it is now, read-only, over NBD, while its guest goes on. Stays until INT,
 * TERM or HUP, or the end of the export.
 */

import { deviceLabel } from "../backend/journals.ts";
import { ConnectionLostError, type ControlClient } from "../control/client.ts";
import type { ExportParams } from "../control/protocol.ts";
import { XenblkError } from "../errors.ts";
import type { VisitState } from "../jobs/visits.ts";
import { formatSize } from "../sizes.ts";
import { findDisk, type FoundDisk } from "../toolstack/detach.ts";
import { domainLabel } from "../toolstack/domains.ts";
import { formatVdev, parseVdev } from "../xenbus/vdev.ts";
import { usageError } from "./args.ts";
import { namedDisk } from "./disk_result.ts";
import { parseAddress } from "./metrics.ts";
import { flag, integer, optional, type OptionValues, path, size, text } from "./options.ts";
import { clientOfServing } from "./through_socket.ts";
import { type Context, defineVerb } from "./verb.ts";
import { enteredText, leftText, visitOf } from "./visit.ts";

/** How long it may take to begin and to end: QEMU has 10 s for each request. */
const PATIENCE_MS = 60_000;
/** Longer than an export lasts: setTimeout takes no more. */
const FOREVER_MS = 2 ** 31 - 1;

const OPTIONS = {
  "socket": optional(path("PATH", "Make this Unix socket, with mode 0600"), "one below /run/xenblk"),
  "listen": optional({
    placeholder: "HOST:PORT",
    help: "Listen there by TCP: whoever can connect reads the whole disk, since nobody asks who it is",
    allowed: "an address and a port, such as 127.0.0.1:10809 or [::1]:10809",
    parse: parseAddress,
  }, "only a Unix socket"),
  "bitmap": optional(text("NAME", "Show what this bitmap of the disk has, as qemu:dirty-bitmap:NAME")),
  "scratch-dir": optional(
    path("DIRECTORY", "Keep what the guest overwrites meanwhile there, in a file without a name"),
    "/var/tmp",
  ),
  "scratch-size": optional(
    size("Most room for that; when it is full the export ends, and the guest goes on", 512, 2 ** 20, 2 ** 50),
    "10G",
  ),
  "time-limit": optional(integer("End after so long", 1, 2_000_000, "SECONDS"), "it has no limit"),
  "background": flag("Return once it has begun; it stays until --end, or until the disk or its process goes", "b"),
  "end": flag("End the export of the disk"),
  "json": flag("Print events as JSON, one a line: exported, then ended", "J"),
} as const;

type Options = OptionValues<typeof OPTIONS>;

/** The verb. */
export const exportDisk = defineVerb({
  name: "export",
  keepsRunning: true,
  summary: "Show a disk at one instant over NBD, read-only, while its guest goes on",
  description:
    "For mounting, scanning and backup programs. Prints a URI that nbdcopy, qemu-img, nbdinfo and others take. The disk's " +
    "storage daemon copies what the guest overwrites into a scratch file first, so a slow scratch file makes the guest's " +
    "writes slow; one that is full or fails ends the export alone. The content is what a power cut at that instant would " +
    "have left. It ends with INT, TERM or HUP, with the disk, and with the process or the daemon that serves it. A raw disk " +
    "that has no daemon enters one for as long: a pause at the beginning and at the end.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "VDEV", help: "the virtual device, such as xvdb", required: true, check: parseVdev },
  ],
  options: OPTIONS,
  permissions: "--allow-ffi --allow-env --allow-net, and --allow-read and --allow-write of /run/xenblk.",
  examples: [
    "xenblk export web xvdb",
    "xenblk export web xvdb --background --scratch-size 50G",
    "xenblk export web xvdb --end",
  ],
  async run(context, options, operands): Promise<number> {
    checkOptions(options, context.given);
    using store = (await context.host.openNativePlatform()).openXenstore();
    const found = findDisk(store, operands["domain"]!, operands["vdev"]!);
    using client = await clientOfServing(found, "export");
    if (!options.end) return await show(context, client, found, options);
    await client.call("endExport", { device: deviceLabel(found.device) }, { timeoutMs: PATIENCE_MS });
    const visit = await visitOf(client, deviceLabel(found.device));
    if (options.json) context.output.json({ ...namedDisk(found), ...(visit.left && { left: visit.left }) });
    else {
      context.inform(`the export of ${nameOf(found)} has ended`);
      tellLeft(context, found, visit);
    }
    return 0;
  },
});

function checkOptions(options: Options, given: ReadonlySet<string>): void {
  const other = [...given].find((name) => name in OPTIONS && name !== "end" && name !== "json");
  if (options.end && other !== undefined) throw usageError("export", `Cannot use --${other} with --end`);
  if (options.socket !== undefined && options.listen !== undefined) {
    throw usageError("export", "Cannot use --socket with --listen: an export has one address");
  }
}

function nameOf({ guest, device }: FoundDisk): string {
  return `${formatVdev(device.vdev)} of ${domainLabel(guest)}`;
}

/** Begins it and tells, then waits for its end unless it goes on in the background. */
async function show(context: Context, client: ControlClient, found: FoundDisk, options: Options): Promise<number> {
  const { signals: { signal }, inform, output } = context;
  const device = deviceLabel(found.device);
  const begun = await client.call("export", paramsOf(device, options), { timeoutMs: PATIENCE_MS, signal });
  const { uri, sizeBytes, taken, entered } = begun;
  if (options.json) event(context, { event: "exported", ...namedDisk(found), ...begun });
  else {
    if (entered !== undefined) inform(enteredText(device, entered));
    inform(`${nameOf(found)} as it was at ${taken} (${formatSize(sizeBytes)}), read-only; for instance:`);
    for (const line of usesOf(uri)) inform(`  ${line}`);
    output.data(`${uri}\n`);
  }
  if (options.background) return 0;
  const end = await endOf(client, device, signal);
  const visit = entered === undefined ? { visits: false } : await visitOf(client, device);
  if (options.json) event(context, { event: "ended", ...end, ...(visit.left && { left: visit.left }) });
  else tellLeft(context, found, visit);
  if (!end.failed) return 0;
  throw new XenblkError(`Cannot go on exporting ${nameOf(found)}: ${end.reason}`, {
    remedy:
      "what was read from it is complete only if its reader says so; repeat it, with more --scratch-size if need be",
  });
}

function tellLeft({ inform }: Context, { device }: FoundDisk, visit: VisitState): void {
  const text = leftText(deviceLabel(device), visit);
  if (text !== undefined) inform(text);
}

/** By a signal or by itself. */
async function endOf(
  client: ControlClient,
  device: string,
  signal: AbortSignal,
): Promise<{ readonly reason: string; readonly failed: boolean }> {
  const ended = client.call("exportEnded", { device }, { timeoutMs: FOREVER_MS }).catch((error) => {
    if (!(error instanceof ConnectionLostError)) throw error;
    return { reason: `the process that serves the disk is gone: ${error.message}`, failed: true };
  });
  const ending = async (): Promise<void> =>
    void await client.call("endExport", { device }, { timeoutMs: PATIENCE_MS }).catch(() => {});
  if (signal.aborted) void ending();
  else signal.addEventListener("abort", ending, { once: true });
  return await ended;
}

function paramsOf(device: string, options: Options): ExportParams {
  const { socket, listen, bitmap, background } = options;
  const [directory, bytes, seconds] = [options["scratch-dir"], options["scratch-size"], options["time-limit"]];
  return {
    device,
    stays: background,
    ...(socket === undefined ? {} : { socket: absolute(socket) }),
    ...(listen === undefined ? {} : { listen }),
    ...(bitmap === undefined ? {} : { bitmap }),
    ...(directory === undefined ? {} : { scratchDirectory: absolute(directory) }),
    ...(bytes === undefined ? {} : { scratchBytes: bytes }),
    ...(seconds === undefined ? {} : { limitMs: seconds * 1000 }),
  };
}

/** The other process has another directory. */
function absolute(given: string): string {
  return given.startsWith("/") ? given : `${Deno.cwd()}/${given}`;
}

/** Programs that read it. */
function usesOf(uri: string): string[] {
  return [
    `nbdcopy '${uri}' copy.img`,
    `qemu-img convert -f raw -O qcow2 '${uri}' copy.qcow2`,
    `qemu-nbd --read-only --format=raw --connect=/dev/nbd0 '${uri}' && mount -o ro,norecovery /dev/nbd0p1 /mnt`,
  ];
}

function event({ output }: Context, value: Readonly<Record<string, unknown>>): void {
  output.data(`${JSON.stringify(value)}\n`);
}
