/**
 * The backends that are measured, each in a process of its own on one host without a hypervisor: this project's
 * `serve`, with a real image or a null disk, QEMU's qdisk, and the C reference, with a process per disk. A storage daemon
 * of `serve` is a part of it.
 */

import { XenblkError } from "../lib/errors.ts";
import type { DomId } from "../lib/hypervisor.ts";
import { backendPath, frontendPath } from "../lib/xenbus/paths.ts";
import { parseVdev } from "../lib/xenbus/vdev.ts";
import type { NativeXen } from "../tests/native/harness.ts";
import { attach, BackendProcess } from "../tests/native/serve/backend.ts";
import type { GuestDisk, GuestProcess } from "../tests/native/serve/guest.ts";
import type { LoadedDisk } from "./guest.ts";
import { opensDirectly } from "./machine.ts";
import type { PackedProgram } from "./packed_program.ts";
import { buildReference, ReferenceProcess } from "./reference.ts";

/** Segments of a direct request. */
const DIRECT_SEGMENTS = 11;
/** Most segments that the frontend puts into one request: Linux's default. */
const FRONTEND_SEGMENTS = 32;
/** Where distributions put the QEMU that is built for Xen. */
const QEMU_PATHS = [
  "/usr/libexec/xen-qemu-system-i386",
  "/usr/lib/xen/bin/qemu-system-i386",
  "/usr/bin/qemu-system-i386",
];

/** A disk to serve. */
export interface DiskToServe {
  /** The name by which the bench finds it again. */
  readonly key: string;
  /** The size of the guest's ring for it. */
  readonly pages: number;
  /** As the backend's `params` node names it. */
  readonly params: string;
  /** The file that the backend must open with O_DIRECT; undefined: without O_DIRECT. */
  readonly directPath: string | undefined;
  /** Other disks have the same image. */
  readonly shared: boolean;
}

/** A backend, and its connected disks by their keys. */
export interface RunningBackend extends AsyncDisposable {
  readonly disks: ReadonlyMap<string, LoadedDisk>;
  /** Why the backend cannot serve a disk. */
  readonly lacks: ReadonlyMap<string, string>;
}

/** The host, and the guest on it. */
export interface BackendHost {
  readonly xen: NativeXen;
  readonly guest: GuestProcess;
}

/** Why QEMU cannot be measured; undefined if it can. */
export function missingQemu(): string | undefined {
  return qemuPath() === undefined ? "QEMU for Xen is missing (Debian package qemu-system-xen)" : undefined;
}

/** A QEMU that was built for Xen, or undefined. */
export function qemuPath(paths: readonly string[] = QEMU_PATHS): string | undefined {
  return paths.find((path) => {
    try {
      // Debian 12 has a QEMU of that name that was built without Xen: it lacks the machine.
      const command = new Deno.Command(path, { args: ["-M", "help"], stdin: "null", stderr: "null" });
      return new TextDecoder().decode(command.outputSync().stdout).includes("xenpv");
    } catch {
      return false;
    }
  });
}

/** Starts the program's `serve` for one kind of devices, in a run directory of its own. */
export async function startServe(
  host: BackendHost,
  { command }: PackedProgram,
  kind: string,
  disks: readonly DiskToServe[],
  args: readonly string[],
): Promise<RunningBackend> {
  await using undo = new AsyncDisposableStack();
  const directory = `${host.xen.directory}/${kind}`;
  await Deno.mkdir(directory);
  undo.defer(() => endDaemons(directory));
  const environment = ["env", `XENBLK_JOURNAL_DIR=${directory}`];
  const backend = undo.use(new BackendProcess(host.xen, ["serve", "--kind", kind, ...args], environment, 0, command));
  const devices = [];
  for (const disk of disks) {
    const path = await attachDisk(host, kind, disk);
    if (disk.shared) await host.xen.run("xenstore-write", [`${await backendOf(host, path)}/mode`, "w!"]);
    devices.push({ ...disk, path });
  }
  const explain = (error: unknown): Error =>
    new XenblkError(`Cannot measure serve: ${error instanceof Error ? error.message : error}; ${backend.messages}`);
  try {
    return running(undo.move(), await connectAll(host, devices, () => [backend.pid, ...daemons(directory)]));
  } catch (error) {
    throw explain(error);
  }
}

/** The storage daemons of a `serve`, by the records in its run directory. */
function daemons(directory: string): number[] {
  const pids: number[] = [];
  for (const folder of entries(`${directory}/daemons`)) {
    if (entries(folder).includes(`${folder}/record.json`)) {
      pids.push(JSON.parse(Deno.readTextFileSync(`${folder}/record.json`)).process.pid);
    }
  }
  return pids;
}

/** The paths of what is in a directory; none if it is not there. */
function entries(directory: string): string[] {
  try {
    return [...Deno.readDirSync(directory)].map(({ name }) => `${directory}/${name}`);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return [];
    throw error;
  }
}

/** Ends the storage daemons, which outlive a `serve` that is killed. */
function endDaemons(directory: string): void {
  for (const pid of daemons(directory)) {
    try {
      Deno.kill(pid, "SIGKILL");
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

/**
 * Starts QEMU as the guest's device model. The disks come from xenstore, as with xl; with O_DIRECT they come from the
 * command line, because the node `direct-io-safe` also asks for Linux AIO, which Debian's build lacks.
 */
export async function startQemu(host: BackendHost, wanted: readonly DiskToServe[]): Promise<RunningBackend> {
  await using undo = new AsyncDisposableStack();
  const { domid } = host.guest;
  const disks = wanted.map((disk, i) => ({ ...disk, name: `xvd${String.fromCharCode(113 + i)}` })); // xvdq on
  const args = disks.flatMap((disk) => directDisk(disk, domid));
  const child = new Deno.Command(qemuPath()!, {
    args: ["-xen-domid", `${domid}`, "-xen-attach", "-name", `domain-${domid}`, "-nographic", "-M", "xenpv"]
      .concat(["-nodefaults", "-no-user-config", "-monitor", "none", "-serial", "none"], args),
    env: host.xen.env(0),
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  undo.defer(async () => {
    child.kill("SIGKILL");
    await child.status;
  });
  const devices = [];
  for (const disk of disks) {
    const path = `/local/domain/${domid}/device/vbd/${parseVdev(disk.name)}`;
    if (disk.directPath === undefined) await attachDisk(host, "qdisk", disk, disk.name);
    else await appears(host, `${path}/backend`);
    devices.push({ ...disk, path });
  }
  return running(undo.move(), await connectAll(host, devices, () => [child.pid]));
}

/** Builds the C reference and starts it for each disk. */
export async function startReference(host: BackendHost, wanted: readonly DiskToServe[]): Promise<RunningBackend> {
  await using undo = new AsyncDisposableStack();
  const { xen, guest } = host;
  const program = await buildReference(xen.directory);
  const devices = [];
  const processes: ReferenceProcess[] = [];
  for (const disk of wanted) {
    const device = await attach(xen, { domain: guest.domid as DomId, kind: "vbdc", params: disk.params });
    const image = disk.params.slice(disk.params.indexOf(":") + 1);
    const served = { directory: backendPath(device), image, direct: disk.directPath !== undefined };
    processes.push(undo.use(new ReferenceProcess(xen, program, served)));
    devices.push({ ...disk, path: frontendPath(device) });
  }
  const failed = Promise.race(processes.map(async (process): Promise<never> => {
    const { code, messages } = await process.ended();
    throw new XenblkError(`Cannot measure the C reference: it ended with exit status ${code}: ${messages}`);
  }));
  failed.catch(() => {}); // it ends when it is not needed any more
  const connected = await Promise.race([connectAll(host, devices, () => processes.map(({ pid }) => pid)), failed]);
  return running(undo.move(), connected);
}

/** QEMU's arguments for a disk with O_DIRECT. It gets its own thread, as disks from xenstore do. */
function directDisk({ name, params, directPath }: DiskToServe & { name: string }, domid: number): string[] {
  if (directPath === undefined) return [];
  const driver = Deno.statSync(directPath).isBlockDevice ? "host_device" : "file";
  const file = `file.driver=${driver},file.filename=${directPath},file.cache.direct=on,file.locking=off`;
  const format = params.startsWith("qcow2:") ? "qcow2" : "raw";
  const options = "cache.direct=on,discard=unmap,file.discard=unmap";
  return ["-blockdev", `driver=${format},node-name=${name}-image,${options},${file}`]
    .concat(["-object", `iothread,id=${name}-thread`])
    .concat(["-device", `xen-disk,vdev=${name},drive=${name}-image,iothread=${name}-thread,frontend-id=${domid}`]);
}

/** Waits for a node that the backend writes when it starts. */
async function appears({ xen }: BackendHost, path: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    if (await xen.run("xenstore-read", [path]).then(() => true, () => false)) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new XenblkError(`Cannot measure QEMU: it does not write ${path}`);
}

/** A disk in xenstore. */
interface AttachedDisk extends DiskToServe {
  /** The frontend's directory. */
  readonly path: string;
}

async function attachDisk(
  { xen, guest }: BackendHost,
  kind: string,
  { params }: DiskToServe,
  vdev?: string,
): Promise<string> {
  const domain = guest.domid as DomId;
  return frontendPath(await attach(xen, { domain, kind, params, ...(vdev === undefined ? {} : { vdev }) }));
}

async function backendOf({ xen }: BackendHost, path: string): Promise<string> {
  return (await xen.run("xenstore-read", [`${path}/backend`])).trim();
}

/** The connected disks, and the reasons why others cannot be used, both by their keys. */
interface Connected {
  readonly disks: Map<string, LoadedDisk>;
  readonly lacks: Map<string, string>;
}

/** `pids` are the backend's processes once all disks are connected. */
async function connectAll(
  host: BackendHost,
  attached: readonly AttachedDisk[],
  pids: () => readonly number[],
): Promise<Connected> {
  const connected: (AttachedDisk & { disk: GuestDisk })[] = [];
  for (const planned of attached) {
    const { pages, path } = planned;
    const disk = await host.guest.disk(path, "x86_64-abi", {}, { ringPages: pages, segments: FRONTEND_SEGMENTS });
    await disk.connect();
    connected.push({ ...planned, disk });
  }
  const backendPids = pids();
  const disks = new Map<string, LoadedDisk>();
  const lacks = new Map<string, string>();
  for (const { key, pages, path, disk, directPath } of connected) {
    const offered = 2 ** await offer(host, path, "max-ring-page-order", 0);
    const offeredSegments = await offer(host, path, "feature-max-indirect-segments", DIRECT_SEGMENTS);
    const mostSegments = Math.min(offeredSegments, FRONTEND_SEGMENTS);
    if (offered < pages) lacks.set(key, `it needs a ring of ${pages} pages, and the backend offers ${offered}`);
    else if (directPath !== undefined && !backendPids.some((pid) => opensDirectly(pid, directPath))) {
      lacks.set(key, "the backend does not open the image with O_DIRECT");
    } else disks.set(key, { disk, mostSegments, backendPids });
  }
  return { disks, lacks };
}

/** A number that the backend published, or the default. */
async function offer(host: BackendHost, path: string, name: string, absent: number): Promise<number> {
  const node = `${await backendOf(host, path)}/${name}`;
  return Number(await host.xen.run("xenstore-read", [node]).catch(() => String(absent)));
}

function running(owned: AsyncDisposableStack, connected: Connected): RunningBackend {
  return { ...connected, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}
