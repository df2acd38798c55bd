/**
 * Attaching a disk to a guest so that a service of this process, which serves all devices of a kind, serves it too: looks
 * at the image, claims the device, writes its nodes and waits until the guest has it. What fails before that leaves
 * nothing behind.
 */

import {
  abortOf,
  attachClaimed,
  type AttachOptions,
  prepareAttach,
  type PreparedAttach,
  removeNodes,
} from "./attach.ts";
import { DeviceClaim } from "./backend/claim.ts";
import { SYSTEM_CLOCK } from "./clock.ts";
import type { HostPlatform } from "./host_platform.ts";
import { createLogger } from "./log.ts";
import type { Service } from "./service.ts";
import { literalPattern } from "./storage/qemu/allow.ts";
import { waitForConnected } from "./toolstack/attach.ts";
import { backendPath, type DeviceAddress } from "./xenbus/paths.ts";
import { formatVdev } from "./xenbus/vdev.ts";
import { endsWithin } from "./within.ts";

/** How long a device that could not be attached may take to be released. */
const RELEASE_MS = 5_000;

/** How a disk is attached to a service that runs: what concerns a process of its own is left out. */
export interface AttachToOptions extends
  Omit<
    AttachOptions,
    "kind" | "journal" | "workers" | "balance" | "daemonPerDisk" | "daemonUser" | "writeLog" | "plugin" | "guestFound"
  > {
  /** The backend kind, which is the service's. */
  readonly kind: string;
}

/** A disk that a service serves. */
export interface ServedByService extends Pick<PreparedAttach, "guest" | "params"> {
  readonly address: DeviceAddress;
}

/**
 * Settings that are absent are the service's; patterns of images are added to its own. Rejects with {@linkcode
 * XenblkError}, as the library's `attach` does.
 */
export async function attachTo(
  service: Pick<Service, "devices" | "failed">,
  platform: HostPlatform,
  options: AttachToOptions,
): Promise<ServedByService> {
  const { signal, clock = SYSTEM_CLOCK, timeoutMs = 60_000, logger = createLogger("backend") } = options;
  const { devices } = service;
  const { image: _image, ...settings } = devices.settings;
  const wanted = { ...settings, ...options, allowImages: [...settings.allowImages, ...(options.allowImages ?? [])] };
  const prepared = await prepareAttach(platform, wanted);
  const { guest, params } = prepared;
  const { domain: _d, image: _i, vdev: _v, shared: _s, cdrom: _c, kind: _k, signal: _g, ...rest } = options;
  const { timeoutMs: _t, logger: _l, clock: _o, readOnly: _r, ...chosen } = rest;
  const own = { ...chosen, allowImages: [...(options.allowImages ?? []), literalPattern(params)] };
  using store = platform.openXenstore();
  await using undo = new AsyncDisposableStack();
  const claim = new DeviceClaim(platform.journals);
  let expected: DeviceAddress | undefined;
  undo.defer(() => {
    // A device that has appeared keeps its claim until it is gone.
    if (expected === undefined || devices.reportOf(backendPath(expected)) !== undefined) return;
    devices.forget(expected);
    claim[Symbol.dispose]();
  });
  const claimed = (device: DeviceAddress): void => {
    if (expected !== undefined) devices.forget(expected);
    devices.expect(expected = device, { settings: own, claim });
  };
  const { limits, weight } = options;
  const kept = { ...(limits === undefined ? {} : { limits }), ...(weight === undefined ? {} : { weight }) };
  const address = await attachClaimed(store, claim, prepared, { signal, clock, chosen: kept, claimed });
  undo.defer(async () => {
    await removeNodes(platform, address, logger);
    await released(service, address);
  });
  const connected = waitForConnected(store, address, { timeoutMs, clock, ...(signal === undefined ? {} : { signal }) });
  try {
    await Promise.race([connected, service.failed]);
  } catch (error) {
    throw signal?.aborted ? abortOf(formatVdev(address.vdev), signal) : error;
  }
  undo.move();
  return { guest, params, address };
}

/** Resolves when the device is gone, or takes too long. */
async function released({ devices }: Pick<Service, "devices">, address: DeviceAddress): Promise<void> {
  const path = backendPath(address);
  const gone = Promise.withResolvers<void>();
  const look = (): void => devices.reportOf(path) === undefined ? gone.resolve() : undefined;
  using _changes = devices.onChange(look);
  look();
  await endsWithin(gone.promise, RELEASE_MS);
}
