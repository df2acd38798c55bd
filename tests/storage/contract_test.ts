/**
 * Every engine and every format keeps the one contract of disks: data arrives where it belongs, operations complete once,
 * errors are reported; and no descriptor of an image is left open.
 */

import { assertEquals } from "@std/assert";
import "../ffi/libraries.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import { kernelSetup, type SetupCall } from "../../ffi/uring/setup.ts";
import { EINVAL } from "../../lib/errno.ts";
import type { Platform } from "../../lib/hypervisor.ts";
import type { CacheMode, Disk } from "../../lib/storage/disk.ts";
import { chooseFilters, type FilterChoice } from "../../lib/storage/filter/spec.ts";
import { filterDisk } from "../../lib/storage/filter/stack.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { PluginProcess } from "../../lib/storage/plugin/types.ts";
import type { VhostDevice } from "../../lib/storage/vhost.ts";
import { type DiskContract, diskContract } from "../../lib/testing/contract.ts";
import type { ContractStage } from "../../lib/testing/contract_stage.ts";
import { powerLossFilter } from "../../lib/testing/power_loss.ts";
import { PluginRig } from "../ffi/plugin/rig.ts";
import { type DaemonOptions, HAS_DAEMON, StorageDaemon, VhostRig } from "../ffi/vhost/daemon.ts";
import { Folder, openBelow, openFile, PoolRig, simulatedPlatform, UringRig } from "./rig.ts";
import { maskedDisk } from "../dataplane/modules/masked_disk.ts";

const SIZE_BYTES = 4 << 20;

/** Makes the stage of one test; what is in `undo` is disposed after its disk. */
type Opener = (undo: AsyncDisposableStack, readOnly: boolean) => Promise<ContractStage>;

/** Knows none of the setup flags that came after Linux 5.13. */
const oldKernel: SetupCall = (entries, params) => {
  const flags = new Uint32Array(params.view.buffer)[2]!;
  return (flags & ~0x18) !== 0 ? -EINVAL : kernelSetup(entries, params);
};

function sized(format: string): Opener {
  return async (_undo, readOnly) => ({
    disk: await openDisk({ format, target: `${SIZE_BYTES}`, readOnly, engine: "auto" }),
  });
}

/** A file of zeroes in a folder in which nothing is open at the end. */
function file(undo: AsyncDisposableStack, under?: string): string {
  const folder = undo.use(new Folder(under));
  undo.defer(() => assertEquals(openBelow(folder.path), 0, "descriptors that are left open"));
  return folder.file("disk.img", SIZE_BYTES);
}

const inline: Opener = async (undo, readOnly) => ({ disk: await openFile(file(undo), {}, readOnly) });

function pooled(makePlatform: () => Platform): Opener {
  return async (undo, readOnly) => {
    const path = file(undo);
    const rig = undo.use(new PoolRig({ platform: makePlatform(), workers: 3 }));
    return { disk: await openFile(path, { pool: rig.pool }, readOnly), place: rig.place };
  };
}

/** Through a ring of this thread's own; `under` is where the file is made. */
function ring(cache: CacheMode, options: { setup?: SetupCall; under?: string } = {}): Opener {
  return async (undo, readOnly) => {
    const path = file(undo, options.under);
    const rig = undo.use(new UringRig(options.setup === undefined ? {} : { setup: options.setup }));
    return { disk: await rig.open(path, { readOnly, cache }), place: rig.place };
  };
}

/** Through a storage daemon's export. */
function exported(options: DaemonOptions, prepare?: (undo: AsyncDisposableStack) => Promise<DaemonOptions>): Opener {
  return async (undo, readOnly) => {
    const more = await prepare?.(undo) ?? {};
    const daemon = undo.use(
      await StorageDaemon.start({ sizeBytes: SIZE_BYTES, writable: !readOnly, queues: 4, ...options, ...more }),
    );
    const rig = undo.use(new VhostRig());
    undo.defer(() => assertEquals(openBelow(daemon.folder.path), 0, "descriptors that are left open"));
    const device = await rig.connect(daemon.socket, { readOnly, queues: 4 });
    return { disk: withoutLife(device, "export of a storage daemon"), place: rig.place };
  };
}

/** What storage makes of an export or a process, without the life of that. */
function withoutLife(device: VhostDevice | PluginProcess, description: string): Disk {
  return {
    description,
    get properties() {
      return device.properties;
    },
    attachment: (lane) => device.attachment(lane),
    [Symbol.asyncDispose]: () => device[Symbol.asyncDispose](),
  };
}

/** Another daemon exports the image by NBD on a Unix socket. */
async function servedByNbd(undo: AsyncDisposableStack): Promise<DaemonOptions> {
  const server = undo.use(await StorageDaemon.start({ format: "raw", sizeBytes: SIZE_BYTES }));
  const path = `${server.folder.path}/nbd.sock`;
  await server.command("nbd-server-start", { addr: { type: "unix", data: { path } } });
  await server.command("block-export-add", { type: "nbd", id: "nbd", "node-name": "disk", writable: true });
  return { file: `nbd,node-name=file,discard=unmap,server.type=unix,server.path=${path},export=disk` };
}

/** By the process of a plugin. */
function plugin(makePlatform: () => Platform, target: string): Opener {
  return async (undo, readOnly) => {
    const rig = undo.use(await PluginRig.start({ disk: "memory_disk.ts", target, readOnly, platform: makePlatform() }));
    return { disk: withoutLife(rig.disk, "process of a plugin"), place: rig.place };
  };
}

/** Behind filters. */
function filtered(open: Opener, ...filters: readonly FilterChoice[]): Opener {
  return async (undo, readOnly) => {
    const { disk, ...stage } = await open(undo, readOnly);
    return { ...stage, disk: filterDisk(disk, await chooseFilters(filters)) };
  };
}

/** The disk is only read; its guest may write. */
function overlaid(open: Opener): Opener {
  return filtered((undo) => open(undo, true), "cow,size=8M");
}

/** Filters that let everything pass at once, and such that make it wait. */
const IDLE = ["throttle", "delay", "error,rate=0"];
const SLOW = [
  "throttle,iops=20000,iops-burst=8",
  "delay,read=0.2,write=0.4,flush=0.1,discard=0.3",
  "hang,count=0,rate=0",
];

/** With a volatile write cache, and a switch for its power. */
function powered(open: Opener, seed: number): Opener {
  return async (undo, readOnly) => {
    const power = undo.use(powerLossFilter({ seed }));
    const stage = await filtered(open, power.filter)(undo, readOnly);
    return { ...stage, cutPower: () => power.cut() };
  };
}

/** A qcow2 frees whole clusters only. */
const QCOW2: DaemonOptions = { format: "qcow2", create: "cluster_size=4096" };

/** Its blocks cannot be freed without native calls. */
const FILE = { discards: false, grows: true };

const DISKS: Readonly<Record<string, { readonly open: Opener } & Partial<Omit<DiskContract, "open">>>> = {
  memory: { open: sized("memory") },
  null: { open: sized("null"), keepsData: false },
  "a disk from outside the project": {
    open: () => Promise.resolve({ disk: maskedDisk(SIZE_BYTES) }),
    opensReadOnly: false,
  },
  "file-inline": { open: inline, ...FILE },
  file: { open: pooled(simulatedPlatform), ...FILE },
  "file, real memory": { open: pooled(openNativePlatform), ...FILE },
  uring: { open: ring("writeback"), grows: true },
  "uring, past the page cache": { open: ring("none"), grows: true },
  "uring, written through": { open: ring("writethrough"), grows: true },
  "uring, on a file system in memory": { open: ring("writeback", { under: "/dev/shm" }), grows: true },
  "uring, as on an old kernel": { open: ring("writeback", { setup: oldKernel }), grows: true },
  plugin: { open: plugin(openNativePlatform, "async,flush") },
  "plugin, in a simulation": { open: plugin(simulatedPlatform, "") },
  "memory, with a volatile write cache": { open: powered(sized("memory"), 1), discards: false, cutsPower: true },
  "file, with a volatile write cache": { open: powered(pooled(simulatedPlatform), 2), ...FILE, cutsPower: true },
  "uring, with a volatile write cache": { open: powered(ring("writeback"), 3), ...FILE, cutsPower: true },
  "memory behind filters": { open: filtered(sized("memory"), ...IDLE) },
  "memory behind slow filters": { open: filtered(sized("memory"), ...SLOW) },
  "memory behind an overlay": { open: overlaid(sized("memory")), opensReadOnly: false, sharesChannels: false },
  "uring behind filters": { open: filtered(ring("writeback"), ...IDLE), grows: true },
  ...(HAS_DAEMON && {
    "vhost-user-blk, qcow2 behind an overlay": {
      open: overlaid(exported(QCOW2)),
      opensReadOnly: false,
      sharesChannels: false,
    },
    "vhost-user-blk, qcow2": { open: exported(QCOW2) },
    "vhost-user-blk, vhdx": { open: exported({ format: "vhdx" }), discardsToZeroes: false },
    "vhost-user-blk, raw": { open: exported({ format: "raw" }) },
    "vhost-user-blk, raw by NBD": { open: exported({ format: "raw" }, servedByNbd) },
  }),
};

for (const [name, { open, ...traits }] of Object.entries(DISKS)) {
  diskContract({
    name,
    sizeBytes: SIZE_BYTES,
    discards: true,
    discardsToZeroes: true,
    ...traits,
    open: async ({ readOnly }) => {
      await using undo = new AsyncDisposableStack();
      const stage = await open(undo, readOnly);
      const owned = undo.move();
      return { ...stage, [Symbol.asyncDispose]: () => owned.disposeAsync() };
    },
  });
}
