/**
 * `xenblk attach DOMAIN IMAGE [VDEV]`: writes a disk's nodes, serves it, and takes it away again when told to end. What
 * fails before the guest has the disk leaves nothing behind.
 */

import { DeviceClaim, DeviceClaimedError } from "../backend/claim.ts";
import { ownDomain } from "../backend/kind.ts";
import type { DeviceStatus } from "../backend/status.ts";
import { SYSTEM_CLOCK } from "../clock.ts";
import { errorText, XenblkError } from "../errors.ts";
import type { Xenstore } from "../hypervisor.ts";
import { createLogger } from "../log.ts";
import { checkFree } from "../storage/image/lock.ts";
import { openDisk } from "../storage/open.ts";
import { type ImageSpec, parseImage } from "../storage/image/spec.ts";
import { attachDevice, type AttachRequest, removeDevice, waitForConnected } from "../toolstack/attach.ts";
import { domainLabel, resolveDomain } from "../toolstack/domains.ts";
import { describeDevice } from "../toolstack/list.ts";
import type { DeviceAddress } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import { DEFAULT_KIND, DEVICE_OPTIONS, KIND, settingsOf, TIMEOUT } from "./device_options.ts";
import type { NativePlatform } from "./host.ts";
import { defaulting, flag, type OptionValues } from "./options.ts";
import { checkDataPath } from "./serve.ts";
import { type Service, startService } from "../service.ts";
import { type Context, defineVerb } from "./verb.ts";

const OPTIONS = {
  ...DEVICE_OPTIONS,
  "kind": defaulting(KIND, DEFAULT_KIND),
  "cdrom": flag("Attach as a CD-ROM, read-only"),
  "keep": flag("At the end leave the disk Connected, for serve to go on with"),
  "timeout": TIMEOUT,
  "json": flag("Print the connected disk as JSON", "J"),
} as const;

/** How often, and how many times, a device is asked for that another process has. */
const CLAIM_INTERVAL_MS = 200;
const MOST_CLAIMS = 50;

type Options = OptionValues<typeof OPTIONS>;

/** The verb. */
export const attach = defineVerb({
  name: "attach",
  summary: "Give a running guest a disk and serve it until told to end",
  description: "Writes the nodes that xl would write, serves the disk, prints the device's name once the guest has " +
    "connected, and stays. INT or TERM, or detach, takes the disk away from the guest and removes the nodes. A serve of " +
    "the same kind leaves the disk alone meanwhile.",
  operands: [
    { name: "DOMAIN", help: "the guest: a name, UUID or domid", required: true },
    { name: "IMAGE", help: "a path, format:target, or xl's format=raw,...,target=...", required: true, isPath: true },
    { name: "VDEV", help: "the virtual device, such as xvdb; absent: the first free one", required: false },
  ],
  options: OPTIONS,
  permissions:
    "--allow-ffi --allow-read --allow-write --allow-env, read and write limited to the checkout, /run/xenblk " +
    "and IMAGE if it is a regular file; --allow-ffi is as good as all permissions.",
  examples: ["xenblk attach web disk.img", "xenblk attach 5 raw:/dev/vg/lv xvdc --read-only"],
  async run(context, options, operands): Promise<number> {
    const image = parseImage(operands["image"]!);
    const readOnly = options["read-only"] || options.cdrom || (image.readOnly ?? false);
    const platform = await context.host.openNativePlatform();
    using store = platform.openXenstore();
    checkDataPath(platform);
    const guest = resolveDomain(store, operands["domain"]!);
    const params = await checkImage(platform, image, readOnly, options);
    const vdev = operands["vdev"] ?? image.vdev;
    using claim = new DeviceClaim(platform.journals);
    const device = await attachClaimed(context, store, claim, {
      domain: guest.domain,
      backendDomain: ownDomain(store),
      kind: options.kind,
      params,
      readOnly,
      cdrom: options.cdrom || (image.cdrom ?? false),
      ...(vdev === undefined ? {} : { vdev }),
    });
    const service = await serveUntilConnected(context, platform, store, device, options, claim);
    const name = formatVdev(device.vdev);
    context.output.message(`xenblk: ${params} is ${name} of ${domainLabel(guest)}`);
    const elsewhere = servedElsewhere(options.kind, service.devices.status());
    if (elsewhere !== undefined) context.output.message(`xenblk: ${elsewhere}`);
    if (options.json) context.output.json(describeDevice(store, device));
    else context.output.data(`${name}\n`);
    const { devices, failed } = service;
    await Promise.race([context.signals.drain, devices.retired, devices.guestGone, failed]);
    return await end(context, platform, service, device, options);
  },
});

/** Opens the image as the backend will, before the guest hears of it; returns what goes into the node `params`. */
async function checkImage(
  platform: NativePlatform,
  { format, target }: ImageSpec,
  readOnly: boolean,
  { engine, cache }: Options,
): Promise<string> {
  const request = { format, target, readOnly, engine };
  const context = { native: platform.files };
  await using disk = await openDisk(cache === undefined ? request : { ...request, cache }, context);
  if (disk.image !== undefined) {
    checkFree(platform.imageLocks, disk.image, { writes: !readOnly, shared: false, by: "attach" });
  }
  return `${format}:${format === "raw" ? Deno.realPathSync(target) : target}`;
}

/**
 * Writes the nodes of a device that this process has taken: a `serve` of the kind leaves it alone. One that served a
 * device of that number before may not have let go yet.
 */
async function attachClaimed(
  context: Context,
  store: Xenstore,
  claim: DeviceClaim,
  request: AttachRequest,
): Promise<DeviceAddress> {
  for (let tries = 1;; tries++) {
    try {
      return attachDevice(store, request, (device) => claim.take(device));
    } catch (error) {
      const { signal } = context.signals;
      if (!(error instanceof DeviceClaimedError) || tries === MOST_CLAIMS || signal.aborted) throw error;
      await SYSTEM_CLOCK.sleep(CLAIM_INTERVAL_MS, signal);
    }
  }
}

/** Serves the device and waits for the guest; if that fails, takes back all that was written. */
async function serveUntilConnected(
  context: Context,
  platform: NativePlatform,
  store: Xenstore,
  device: DeviceAddress,
  options: Options,
  claim: DeviceClaim,
): Promise<Service> {
  const timeoutMs = options.timeout * 1000;
  let service: Service | undefined;
  try {
    service = await startService({
      platform,
      native: platform.files,
      openXenstore: () => platform.openXenstore(),
      imageLocks: platform.imageLocks,
      kind: device.kind,
      only: device,
      settings: settingsOf(options),
      journal: !options["no-journal"],
      journals: claim.journals,
      workers: options.workers,
      logger: createLogger("backend"),
      signal: context.signals.signal,
    });
    await waitForConnected(store, device, { timeoutMs, clock: SYSTEM_CLOCK, signal: context.signals.signal });
    return service;
  } catch (error) {
    await service?.close({ leave: "connected", timeoutMs });
    removeNodes(context, platform, device);
    const { received } = context.signals;
    throw received === undefined
      ? error
      : new XenblkError(`Cannot attach ${formatVdev(device.vdev)}: ended by ${received}`);
  }
}

/**
 * What to tell an operator whose guest is connected, but not to this process; undefined if it is. Then the disk is served
 * by a process that keeps its journals elsewhere, or by another program.
 */
export function servedElsewhere(kind: string, devices: readonly Pick<DeviceStatus, "connected">[]): string | undefined {
  if (devices.some(({ connected }) => connected)) return undefined;
  return `Another backend of kind ${kind} serves the disk, so the options given here have no effect; ` +
    "end that one, or attach with another --kind";
}

/** Takes the disk away and removes its nodes, unless they are to be kept or somebody else has removed them. */
async function end(
  context: Context,
  platform: NativePlatform,
  service: Service,
  device: DeviceAddress,
  options: Options,
): Promise<number> {
  const leave = options.keep ? "connected" : "detached";
  const closed = await service.close({ leave, timeoutMs: options.timeout * 1000 });
  if (!closed) context.output.message("xenblk: The disk was still busy at the end");
  const removed = options.keep || removeNodes(context, platform, device);
  return closed && removed ? 0 : 1;
}

/** Removes what attaching wrote, over a connection of its own: the one that wrote it may have been lost since. */
function removeNodes(context: Context, platform: NativePlatform, device: DeviceAddress): boolean {
  try {
    using store = platform.openXenstore();
    removeDevice(store, device);
    return true;
  } catch (error) {
    context.output.message(`xenblk: Cannot remove the disk's nodes: ${errorText(error)}`);
    return false;
  }
}
