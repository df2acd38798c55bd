/**
 * The methods of the control socket that change disks: attach, detach, resize, swap, weight, and the limits of the filter
 * throttle. What attaches is loaded with the first call. What detaches and resizes is not: the program's files may have
 * been replaced by then.
 */

import { unlessAborted } from "../abort.ts";
import { deviceLabel } from "../backend/journals.ts";
import { ABI_NAMES } from "../blkif/abi.ts";
import { LEAST_WEIGHT, MOST_WEIGHT } from "../dataplane/fairness.ts";
import { XenblkError } from "../errors.ts";
import type { DomId } from "../hypervisor.ts";
import type { Service } from "../service.ts";
import type { LiveFilter } from "../storage/filter/stack.ts";
import { paramsOfText } from "../storage/image/spec.ts";
import { detachDevice } from "../toolstack/detach.ts";
import { resizeDevice } from "../toolstack/resize.ts";
import { MOST_INDIRECT_SEGMENTS, MOST_QUEUES, MOST_RING_PAGE_ORDER } from "../xenbus/features.ts";
import { type DeviceAddress, parseBackendPath } from "../xenbus/paths.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import type { Call } from "./connection.ts";
import { type ControlledProcess, type Handlers, ofLabel } from "./methods.ts";
import { FLAG, list, object, type Param, readParams, TEXT, whole, word } from "./params.ts";
import type { Attached, Limits } from "./protocol.ts";

type Params = Readonly<Record<string, unknown>>;

const DEFAULT_TIMEOUT_MS = 60_000;
/** How long a guest's requests may wait for another image: less than it takes a guest to complain. */
const SWAP_TIMEOUT_MS = 10_000;
const TIMEOUT = whole(1, 86_400_000);
const DOMAIN: Param<string | number> = {
  allowed: "a name, UUID or domid",
  read: (value) => typeof value === "number" ? value : TEXT.read(value),
};
/** A number of bytes, or a text such as `10M`; the filter reads it. */
const RATE: Param<string | number> = { ...DOMAIN, allowed: "a number of bytes, or a text such as 10M" };

const WEIGHT = whole(LEAST_WEIGHT, MOST_WEIGHT);

const ATTACH = {
  domain: DOMAIN,
  image: TEXT,
  vdev: TEXT,
  readOnly: FLAG,
  shared: FLAG,
  cdrom: FLAG,
  timeoutMs: TIMEOUT,
  grants: word(["auto", "copy", "persistent", "map", "map-each"]),
  maxPersistentGrants: whole(1, 65_536),
  engine: word(["auto", "uring", "file", "qemu", "memory", "null"]),
  cache: word(["none", "writeback", "writethrough", "unsafe"]),
  weight: WEIGHT,
  maxRequests: whole(1, 512),
  maxRingPageOrder: whole(0, MOST_RING_PAGE_ORDER),
  maxIndirectSegments: whole(0, MOST_INDIRECT_SEGMENTS),
  maxQueues: whole(1, MOST_QUEUES),
  discard: FLAG,
  allowImages: list(TEXT),
  filters: list(TEXT),
  defaultProtocol: word(ABI_NAMES),
} as const;

const LIMITS = object({ iops: whole(0, 1e9), iopsBurst: whole(0, 1e9), bytesPerSecond: RATE, bytesBurst: RATE });

/** The methods by name. `attach` is among them where the process serves all devices of its kind. */
export function deviceMethods(process: ControlledProcess): Handlers {
  const { service } = process;
  return {
    ...(process.attaches ? { attach: (params: Params, call: Call) => attach(process, params, call) } : {}),
    detach: async (params, { signal, progress }) => {
      const table = { device: TEXT, force: FLAG, timeoutMs: TIMEOUT };
      const { device, force = false, timeoutMs = DEFAULT_TIMEOUT_MS } = readParams("detach", table, params, ["device"]);
      const address = addressOf(service, device);
      using store = process.platform.openXenstore();
      progress(`waiting until the guest has closed ${formatVdev(address.vdev)}`);
      await detachDevice(store, address, { timeoutMs, force, signal });
      return {};
    },
    resize: async (params, { signal }) => {
      const table = { device: TEXT, sizeBytes: whole(512, Number.MAX_SAFE_INTEGER), timeoutMs: TIMEOUT };
      const { device, sizeBytes, timeoutMs = DEFAULT_TIMEOUT_MS } = readParams("resize", table, params, ["device"]);
      const address = addressOf(service, device);
      using store = process.platform.openXenstore();
      const size = sizeBytes === undefined ? {} : { sizeBytes };
      return await resizeDevice(store, address, { timeoutMs, signal, ...size });
    },
    swap: async (given, { signal, progress }) => {
      const table = { device: TEXT, image: TEXT, timeoutMs: TIMEOUT };
      const required = ["device", "image"] as const;
      const { device, image, timeoutMs = SWAP_TIMEOUT_MS } = readParams("swap", table, given, required);
      const served = service.devices.find(addressOf(service, device))!;
      const params = await paramsOfText(image);
      progress("opening the new image");
      return await unlessAborted(served.exchange({ params, timeoutMs }), signal);
    },
    limit: (params) => {
      const { device, limits } = readParams("limit", { device: TEXT, limits: LIMITS }, params, ["device"]);
      const throttle = throttleOf(service, addressOf(service, device));
      if (limits !== undefined) throttle.set(limits);
      return { limits: limitsOf(throttle) };
    },
    weight: (params) => {
      const { device, weight } = readParams("weight", { device: TEXT, weight: WEIGHT }, params, ["device"]);
      const present = service.devices.heldBy(addressOf(service, device))!.weight;
      if (weight !== undefined) present.value = weight;
      return { weight: present.value };
    },
  };
}

async function attach(
  { service, platform, kind }: ControlledProcess,
  params: Params,
  { signal, progress }: Call,
): Promise<Attached> {
  const wanted = readParams("attach", ATTACH, params, ["domain", "image"]);
  progress("looking at the image");
  const { attachTo } = await import("../attach_to.ts");
  const { address, guest, params: image } = await attachTo(service, platform, { ...wanted, kind, signal });
  return { device: deviceLabel(address), vdev: formatVdev(address.vdev), params: image, guest };
}

/** The address of a device that is served here. Throws {@linkcode XenblkError} (`not-found`). */
export function addressOf(service: Service, label: string): DeviceAddress {
  return parseBackendPath(ofLabel(service.devices.reports(), label)[0]!.backendPath, 0 as DomId);
}

/** Throws {@linkcode XenblkError} if there is none. */
function throttleOf({ devices }: Service, address: DeviceAddress): LiveFilter {
  const throttle = devices.filtersOf(address).find(({ name }) => name === "throttle");
  if (throttle !== undefined) return throttle;
  throw new XenblkError(
    `Cannot limit ${
      formatVdev(address.vdev)
    } of domain ${address.frontendDomain}: no filter throttle is in front of it`,
    {
      remedy: "attach it with --filter throttle; without limits it lets everything pass until they are set",
    },
  );
}

function limitsOf({ options }: LiveFilter): Required<Limits> {
  const number = (name: string): number => Number(options[name] ?? 0);
  return {
    iops: number("iops"),
    iopsBurst: number("iopsBurst"),
    bytesPerSecond: number("bytesPerSecond"),
    bytesBurst: number("bytesBurst"),
  };
}
