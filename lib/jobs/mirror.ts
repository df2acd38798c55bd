/**
 * Mirrors: a disk of a storage daemon is copied to another image while its guest writes, from then on to both; once all is
 * copied, the disk goes on with that image, by the exchange of images that `swap` uses. Up to its commit the present image
 * has everything, whoever dies.
 */

import { errorText, XenblkError } from "../errors.ts";
import { lookWithin } from "../path_lookup.ts";
import type { DaemonMonitor, DiskDaemon } from "../storage/disk.ts";
import { isFile } from "../storage/image/formats.ts";
import { activeImage } from "../storage/image/overlay_note.ts";
import { imageName, parseParams, withoutPasswords } from "../storage/image/spec.ts";
import { imageGraph } from "../storage/qemu/chain.ts";
import { explainQmpError } from "../storage/qemu/explain.ts";
import type { BlockGraph } from "../storage/qemu/graph.ts";
import { nodeSize } from "../storage/qemu/graph_steps.ts";
import { type ImageInspector, QemuImg } from "../storage/qemu/image_info.ts";
import { checkNotViewed } from "../storage/qemu/instant.ts";
import { removeNamed } from "../storage/qemu/removal.ts";
import { type DiskPlan, planDisk } from "../storage/qemu/plan.ts";
import { QmpError } from "../storage/qemu/qmp.ts";
import { SECTOR_BYTES } from "../units.ts";
import { jobsOf, stateOf } from "./daemon_jobs.ts";
import type { JobKind, JobOrder, ReadyJob } from "./job.ts";

/** Between two questions whether the daemon has let go of the target. */
const LOOK_MS = 5;
/** How long a guest's requests wait for the end of a mirror that is cancelled. */
const CANCEL_MS = 2_000;

/** What is kept of a mirror. */
export interface MirrorDetails {
  /** The new value of the node `params`. */
  readonly params: string;
  /** How long the guest's requests may wait at the switch-over. */
  readonly timeoutMs: number;
  /** Files of the target, which the daemon reaches meanwhile. */
  readonly files: readonly string[];
}

/** An exchange of images, as a mirror ends with it. */
export interface Switchover extends Omit<MirrorDetails, "files"> {
  /** Called once nothing is in flight and the present image is flushed, before the new one is opened. */
  readonly finish: (signal: AbortSignal) => Promise<void>;
}

/** The disks of a process, as mirrors change them. */
export interface MirrorDisks {
  /** Rejects with {@linkcode XenblkError}; the disk then has its image. */
  exchange(device: string, switchover: Switchover): Promise<unknown>;
  /** The image of a disk, once it is open, for which it waits a while; undefined if none is. */
  paramsOf(device: string): Promise<string | undefined>;
}

/** What a disk is to be mirrored to. */
export interface TargetRequest extends Pick<MirrorDetails, "params"> {
  readonly device: string;
  /** Of the disk. */
  readonly rings: number;
  /** What may be named, as in DiskRequest. */
  readonly allowImages: readonly string[];
  /** Rejects with {@linkcode XenblkError} if somebody uses the file or block device of that path, or it cannot be written to. */
  readonly checkUnused: (path: string) => Promise<void>;
}

/** What is wanted. */
export interface MirrorRequest extends TargetRequest, Omit<MirrorDetails, "files"> {
  readonly daemon: DiskDaemon;
  /** The most that is copied in a second, beside what the guest writes. Absent: as much as both images take. */
  readonly bytesPerSecond?: number;
}

/** An image that a disk could be mirrored to. */
interface Target {
  readonly label: string;
  readonly graph: BlockGraph;
  readonly plan: DiskPlan;
  /** Of the disk in it. Absent: whoever opens it learns that. */
  readonly sizeBytes?: number;
}

/**
 * Whether a disk of so many bytes can be mirrored, as far as that can be said before a daemon opens the target: it is there,
 * allowed, of its format, large enough, can be written to, and nobody uses it. Rejects with {@linkcode XenblkError}.
 */
export async function checkTarget(request: TargetRequest & { readonly needBytes: number }): Promise<void> {
  const { label, plan, sizeBytes } = await findTarget(request, "target-");
  if (sizeBytes !== undefined && sizeBytes < request.needBytes) throw tooSmall(label, sizeBytes, request.needBytes);
  for (const { path } of plan.files.filter(({ writable }) => writable)) {
    const info = await lookAt(path);
    // What is shorter than a sector is no disk, but may be the description of one.
    if (info?.isBlockDevice || (info?.size ?? 0) >= SECTOR_BYTES) await request.checkUnused(path);
  }
}

async function findTarget(
  { device, params, rings, allowImages }: TargetRequest,
  prefix: string,
): Promise<Target> {
  const label = `image ${withoutPasswords(params)}`;
  const name = imageName(await parseParams(params));
  const active = await activeImage(name, true);
  if (active !== name) throw isLedOn(label, active.target);
  const inspector = new QemuImg();
  /** By the file of the image: a backing file that the name has comes before the image that is on it. */
  const sizes = new Map<unknown, number | undefined>();
  const inspect: ImageInspector["inspect"] = async (tree, of) => {
    const info = await inspector.inspect(tree, of);
    sizes.set(tree["file"], info.isEmpty ? 0 : info.sizeBytes);
    return info;
  };
  const context = { inspector: { inspect }, allowImages, readOnly: false };
  const { graph, tree } = await imageGraph(name, { ...context, prefix });
  // A store is not asked without need: its server may end with its first client.
  if (name.format === "raw" && isFile(name)) await inspect(tree, label);
  const sizeBytes = sizes.get(tree["file"]);
  const plan = planDisk({ graph, readOnly: false, name: label, owner: { guest: 0, device } }, {
    queues: 1,
    home: undefined,
  });
  if (plan.fragile && rings > 1) throw tooManyRings(label, rings);
  return { label, graph, plan, ...(sizeBytes === undefined ? {} : { sizeBytes }) };
}

/** A mirror to start. Rejects with {@linkcode XenblkError} if its target cannot be one. */
export async function orderMirror(request: MirrorRequest): Promise<JobOrder<MirrorDetails>> {
  const { device, daemon, params, timeoutMs, checkUnused, bytesPerSecond = 0 } = request;
  const { label, graph, plan } = await findTarget(request, `${daemon.prefix}mirror`);
  for (const { path, writable } of plan.files) {
    // The daemon, which locks files, does not look who uses a device.
    if (writable && (await lookAt(path))?.isBlockDevice) await checkUnused(path);
  }
  const files = plan.files.map(({ path }) => path);
  const begin = async (monitor: DaemonMonitor, name: string): Promise<void> => {
    const { execute } = monitor;
    await checkNotViewed(execute, daemon.prefix, `Cannot mirror to ${label}`);
    await monitor.allow(plan.files);
    const nodes = plan.nodes({ aio: "threads", native: false });
    try {
      for (const object of plan.objects) await execute("object-add", object);
      for (const node of nodes) await execute("blockdev-add", node);
      const [have, need] = [await nodeSize(execute, graph.top), await nodeSize(execute, daemon.top)];
      if (have < need) throw tooSmall(label, have, need);
      const target = have === need ? graph.top : `${daemon.prefix}mirror-part`;
      // QEMU wants a target that is as large as the disk: of a larger one, the first part.
      if (have > need) {
        await execute("blockdev-add", { "node-name": target, driver: "raw", file: graph.top, size: need });
      }
      await execute("blockdev-mirror", {
        "job-id": name,
        device: daemon.top,
        target,
        sync: "full",
        speed: bytesPerSecond,
        "copy-mode": "write-blocking",
        // One that ended by itself would end as `cancelMirror` must not.
        "on-source-error": "stop",
        "on-target-error": "stop",
        "auto-dismiss": false,
      });
    } catch (error) {
      await removeTarget(monitor, daemon.prefix, files);
      throw error instanceof QmpError ? explainQmpError(label, error) : error;
    }
  };
  const details = { params, timeoutMs, files };
  return { kind: "mirror", device, daemon, target: withoutPasswords(params), details, begin };
}

/** What a process does with its mirrors. */
export function mirrorKind(disks: MirrorDisks): JobKind {
  /** Switch-overs that are under way, by device. */
  const switching = new Map<string, Promise<unknown>>();
  /** Why the last one of a device failed. */
  const failures = new Map<string, string>();
  const isDone = async (device: string, details: unknown): Promise<boolean> =>
    await disks.paramsOf(device) === detailsOf(details).params;
  return {
    async ready({ device, daemon, name, details }): Promise<void> {
      const { params, timeoutMs } = detailsOf(details);
      const finish = (signal: AbortSignal): Promise<void> => finishMirror(daemon, name, signal);
      failures.delete(device);
      const switchover = disks.exchange(device, { params, timeoutMs, finish }).catch((error) => {
        failures.set(device, errorText(error));
        throw error;
      });
      switching.set(device, switchover);
      await switchover;
    },
    cancel: cancelMirror,
    async succeeded({ device, details }): Promise<boolean> {
      await switching.get(device)?.catch(() => {});
      return await isDone(device, details);
    },
    async end({ device, daemon, details, error }): Promise<undefined> {
      await daemon?.run((monitor) => removeTarget(monitor, daemon.prefix, detailsOf(details).files));
      if (error !== undefined) return;
      throw new XenblkError(failures.get(device) ?? "the process that was to switch the disk over has ended", {
        remedy: "the disk keeps its image, and what is in the target is of no use: mirror it anew",
      });
    },
  };
}

/**
 * The guest's requests wait meanwhile, for some milliseconds: QEMU (7.2, for one) crashes if a mirror ends without its target
 * while it writes there what the guest writes. Only a target that does not answer, and keeps such writes, ends with them.
 */
async function cancelMirror(
  { execute, reroute }: DaemonMonitor,
  { daemon: { top }, name }: Omit<ReadyJob, "details">,
): Promise<void> {
  const ends = async (): Promise<boolean> => {
    await execute("job-cancel", { id: name });
    for (const end = performance.now() + CANCEL_MS; performance.now() < end;) {
      const job = (await jobsOf({ execute })).find(({ id }) => id === name);
      if (job === undefined || stateOf(job) === "over") return true;
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    return false;
  };
  try {
    // The node is the mirror's own, above the disk's, which goes with it.
    await reroute(async (node) => await ends() ? top : node);
  } catch (error) {
    if (!(await jobsOf({ execute })).some((job) => job.id === name && stateOf(job) !== "over")) return;
    if (error instanceof QmpError) throw error;
    await execute("job-cancel", { id: name });
  }
}

/** The daemon lets go of the target, which has all that the disk has: nothing is in flight. */
async function finishMirror(daemon: DiskDaemon, name: string, signal: AbortSignal): Promise<void> {
  await daemon.run(({ execute }) => execute("block-job-cancel", { device: name, force: false }));
  for (;;) {
    signal.throwIfAborted();
    const job = (await daemon.run(jobsOf)).find(({ id }) => id === name);
    const failure = job?.error ?? job?.stopped;
    if (failure !== undefined) throw new XenblkError(`Cannot complete the mirror: ${failure}`);
    // Another daemon in its place knows nothing of it, nor of what the target still lacked.
    if (job === undefined) {
      throw new XenblkError("Cannot complete the mirror: its storage daemon has no such job any more");
    }
    if (job.status === "concluded") return;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/** Removes the target's nodes and secrets, and its files from the daemon's reach. It keeps what it does not let go of. */
async function removeTarget(
  { execute, disallow }: DaemonMonitor,
  prefix: string,
  files: readonly string[] = [],
): Promise<void> {
  await removeNamed(execute, `${prefix}mirror`).catch(() => {}); // they end with the disk
  await disallow(files);
}

async function lookAt(path: string): Promise<Deno.FileInfo | undefined> {
  return await lookWithin(path, () => Deno.stat(path).catch(() => undefined));
}

function detailsOf(details: unknown): MirrorDetails {
  return details as MirrorDetails;
}

/** What the guest writes would be in a base that an overlay covers, and the disk would go on with the overlay. */
function isLedOn(label: string, active: string): XenblkError {
  return new XenblkError(`Cannot mirror to ${label}: it is of a chain of snapshots that goes on with ${active}`, {
    remedy: "name a new image",
  });
}

/** The switch-over would refuse it when all is copied. */
function tooManyRings(label: string, rings: number): XenblkError {
  return new XenblkError(
    `Cannot mirror to ${label}: a disk on an NBD server has one ring, and the guest has ${rings}`,
    {
      remedy: "attach the disk anew with one queue (`xenblk serve --queues 1`)",
    },
  );
}

function tooSmall(label: string, have: number, need: number): XenblkError {
  return new XenblkError(`Cannot mirror to ${label}: it has ${have} bytes, and the disk ${need}`, {
    remedy: "create it as large as the disk, for instance with `xenblk image create`",
  });
}
