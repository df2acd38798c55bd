/**
 * The methods of the control socket that change disks: attach, detach, resize, swap, mirror, limit and weight. What
 * attaches is loaded with the first call. What detaches and resizes is not: the program's files may have
 * been replaced by then.
 */

import { unlessAborted } from "../abort.ts";
import type { HeldDevice } from "../backend/exchange.ts";
import { deviceLabel } from "../backend/journals.ts";
import { ABI_NAMES } from "../blkif/abi.ts";
import { LEAST_WEIGHT, MOST_WEIGHT } from "../dataplane/fairness.ts";
import { XenblkError } from "../errors.ts";
import type { JobReport } from "../jobs/job.ts";
import type { TargetRequest } from "../jobs/mirror.ts";
import { paramsOfText } from "../storage/image/spec.ts";
import { detachDevice } from "../toolstack/detach.ts";
import { resizeDevice } from "../toolstack/resize.ts";
import { SECTOR_BYTES } from "../units.ts";
import { MOST_INDIRECT_SEGMENTS, MOST_QUEUES, MOST_RING_PAGE_ORDER } from "../xenbus/features.ts";
import { formatVdev } from "../xenbus/vdev.ts";
import type { Call } from "./connection.ts";
import { deviceCheck } from "./device_check.ts";
import { addressOf, type ControlledProcess, type Handlers } from "./methods.ts";
import { FLAG, list, object, type Param, readParams, TEXT, whole, word } from "./params.ts";
import type { Attached, Methods } from "./protocol.ts";
import { inDaemon } from "./visiting.ts";

type Params = Readonly<Record<string, unknown>>;

const DEFAULT_TIMEOUT_MS = 60_000;
/** How long a guest's requests may wait for another image: less than it takes a guest to complain. */
const SWAP_TIMEOUT_MS = 10_000;
const TIMEOUT = whole(1, 86_400_000);
const DOMAIN: Param<string | number> = {
  allowed: "a name, UUID or domid",
  read: (value) => typeof value === "number" ? value : TEXT.read(value),
};
/** A number of bytes, or a text such as `10M`; who sets the limits reads it. */
const RATE: Param<string | number> = { ...DOMAIN, allowed: "a number of bytes, or a text such as 10M" };

const WEIGHT = whole(LEAST_WEIGHT, MOST_WEIGHT);
const REQUESTS = whole(0, 1e9);
const LIMITS = object({
  iops: REQUESTS,
  iopsBurst: REQUESTS,
  bytesPerSecond: RATE,
  bytesBurst: RATE,
  readIops: REQUESTS,
  writeIops: REQUESTS,
  readBytesPerSecond: RATE,
  writeBytesPerSecond: RATE,
});

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
  limits: LIMITS,
  maxRequests: whole(1, 512),
  maxRingPageOrder: whole(0, MOST_RING_PAGE_ORDER),
  maxIndirectSegments: whole(0, MOST_INDIRECT_SEGMENTS),
  maxQueues: whole(1, MOST_QUEUES),
  discard: FLAG,
  allowImages: list(TEXT),
  filters: list(TEXT),
  defaultProtocol: word(ABI_NAMES),
} as const;

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
      const table = { device: TEXT, image: TEXT, timeoutMs: TIMEOUT, releaseFirst: FLAG };
      const required = ["device", "image"] as const;
      const { device, image, ...how } = readParams("swap", table, given, required);
      const served = service.devices.find(addressOf(service, device))!;
      checkNoJob(process, device);
      const params = await paramsOfText(image);
      await process.visits?.settled(device);
      checkNoJob(process, device);
      checkNotHeld(process, device);
      progress("opening the new image");
      return await unlessAborted(served.exchange({ timeoutMs: SWAP_TIMEOUT_MS, ...how, params }), signal);
    },
    disc: async (params, { signal }) => {
      const table = { device: TEXT, params: TEXT, timeoutMs: TIMEOUT };
      const read = readParams("disc", table, params, ["device"]);
      const { device, timeoutMs = DEFAULT_TIMEOUT_MS } = read;
      const address = addressOf(service, device);
      using store = process.platform.openXenstore();
      const disc = read.params === undefined ? {} : { params: read.params };
      const { changeDisc } = await import("../toolstack/disc.ts");
      return await changeDisc(store, address, { timeoutMs, signal, ...disc });
    },
    mirror: (given) => mirror(process, given),
    limit: (params) => {
      const { device, limits } = readParams("limit", { device: TEXT, limits: LIMITS }, params, ["device"]);
      const address = addressOf(service, device);
      if (limits !== undefined) service.devices.change(address, { limits });
      const { limits: present, limitedBy } = service.devices.heldBy(address)!.live;
      return { limits: present, ...(limitedBy === undefined ? {} : { by: limitedBy }) };
    },
    weight: (params) => {
      const { device, weight } = readParams("weight", { device: TEXT, weight: WEIGHT }, params, ["device"]);
      const address = addressOf(service, device);
      if (weight !== undefined) service.devices.change(address, { weight });
      return { weight: service.devices.heldBy(address)!.live.weight.value };
    },
  };
}

async function mirror(process: ControlledProcess, given: Params): Promise<Methods["mirror"]["result"]> {
  const table = { device: TEXT, image: TEXT, timeoutMs: TIMEOUT, bytesPerSecond: whole(1, Number.MAX_SAFE_INTEGER) };
  const required = ["device", "image"] as const;
  const { device, image, ...how } = readParams("mirror", table, given, required);
  addressOf(process.service, device);
  const params = await paramsOfText(image);
  const wanted = { device, params, ...how };
  await checkMirror(process, wanted);
  return await inDaemon(process, device, `mirror ${device}`, () => startMirror(process, wanted));
}

/** A mirror, as it was asked for. */
interface MirrorParams {
  readonly device: string;
  readonly params: string;
  readonly timeoutMs?: number;
  readonly bytesPerSecond?: number;
}

/** A guest does not wait for its disk to enter a daemon if the target is no good. */
async function checkMirror(process: ControlledProcess, { device, params }: MirrorParams): Promise<void> {
  const held = process.service.devices.heldBy(addressOf(process.service, device));
  if (held?.image === undefined) return;
  const { checkTarget } = await import("../jobs/mirror.ts");
  const needBytes = held.image.disk.properties.sectors * SECTOR_BYTES;
  await checkTarget({ ...targetOf(process, device, held), params, needBytes });
}

function targetOf(
  { service: { devices }, platform }: ControlledProcess,
  device: string,
  { rings }: HeldDevice,
): Omit<TargetRequest, "params"> {
  const { allowImages } = devices.settings;
  return { device, rings: rings.length, allowImages, checkUnused: deviceCheck(platform, `the mirror of ${device}`) };
}

async function startMirror(
  process: ControlledProcess,
  { timeoutMs = SWAP_TIMEOUT_MS, ...wanted }: MirrorParams,
): Promise<{ readonly job: JobReport }> {
  const { device } = wanted;
  const { service, jobs } = process;
  const held = service.devices.heldBy(addressOf(service, device));
  const daemon = held?.image?.disk.daemon;
  if (daemon === undefined || jobs === undefined) {
    throw new XenblkError(`Cannot mirror ${device}: no storage daemon serves it`, {
      remedy: "copy its image while nothing writes to it, then use `xenblk swap`",
    });
  }
  const { orderMirror } = await import("../jobs/mirror.ts");
  const order = await orderMirror({ ...targetOf(process, device, held!), ...wanted, daemon, timeoutMs });
  return { job: await (await jobs.load()).start(order) };
}

/** Two at a time would each undo what the other does. */
function checkNoJob({ jobs }: ControlledProcess, device: string): void {
  const [job] = jobs?.active(device) ?? [];
  if (job === undefined) return;
  throw new XenblkError(`Cannot swap the image of ${device}: its ${job.kind} is running`, {
    remedy: `wait for it (\`xenblk job wait ${job.id}\`), or cancel it (\`xenblk job cancel ${job.id}\`)`,
  });
}

/** Work that is about to begin is nothing that its daemon knows of; it refuses an exchange that has begun. */
function checkNotHeld({ visits }: ControlledProcess, device: string): void {
  const work = visits?.heldTo(device);
  if (work === undefined) return;
  throw new XenblkError(`Cannot swap the image of ${device}: its storage daemon is asked to ${work}`, {
    remedy: "wait until that is over (`xenblk job list`); end an export with `xenblk export DOMAIN VDEV --end`",
  });
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
