/**
 * The backends that are measured, each in a process of its own on one host without a hypervisor: this project's
 * `serve`, with a real image or a null disk, and QEMU's qdisk.
 */

import { XenblkError } from "../lib/errors.ts";
import type { DomId } from "../lib/hypervisor.ts";
import { frontendPath } from "../lib/xenbus/paths.ts";
import { parseVdev } from "../lib/xenbus/vdev.ts";
import type { NativeXen } from "../tests/native/harness.ts";
import { attach, BackendProcess } from "../tests/native/serve/backend.ts";
import type { GuestProcess } from "../tests/native/serve/guest.ts";
import type { LoadedDisk } from "./guest.ts";
import { opensDirectly } from "./machine.ts";

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

/** An image to serve. */
export interface ImagePlan {
  /** As the backend's `params` node names it. */
  readonly params: string;
  /** The file that the backend must open with O_DIRECT; undefined: without O_DIRECT. */
  readonly directPath: string | undefined;
}

/** A backend process, and its connected disks by the number of ring pages. */
export interface RunningBackend extends AsyncDisposable {
  readonly pid: number;
  readonly disks: ReadonlyMap<number, LoadedDisk>;
  /** Why the backend has no disk with a ring of this many pages. */
  readonly lacks: ReadonlyMap<number, string>;
}

/** The host, the guest on it, and the ring sizes that the cases need. */
export interface BackendHost {
  readonly xen: NativeXen;
  readonly guest: GuestProcess;
  readonly ringPages: readonly number[];
}

/** Why QEMU cannot be measured; undefined if it can. */
export function missingQemu(): string | undefined {
  return qemuPath() === undefined ? "QEMU for Xen is missing (Debian package qemu-system-xen)" : undefined;
}

/** A QEMU that was built for Xen, or undefined. */
export function qemuPath(): string | undefined {
  return QEMU_PATHS.find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}

/** Starts `serve` for one kind, with one disk for each size of ring. */
export async function startServe(
  host: BackendHost,
  kind: string,
  image: ImagePlan,
  args: readonly string[],
): Promise<RunningBackend> {
  await using undo = new AsyncDisposableStack();
  const backend = undo.use(new BackendProcess(host.xen, ["serve", "--kind", kind, ...args]));
  const devices = [];
  for (const pages of host.ringPages) {
    const path = await attachDisk(host, kind, image);
    // Several disks with rings of different sizes share the image, so the toolstack must write mode w!.
    await host.xen.run("xenstore-write", [`${await backendOf(host, path)}/mode`, "w!"]);
    devices.push({ pages, path });
  }
  const explain = (error: unknown): Error =>
    new XenblkError(`Cannot measure serve: ${error instanceof Error ? error.message : error}; ${backend.messages}`);
  const connected = await connectAll(host, devices, backend.pid).catch((error) => Promise.reject(explain(error)));
  return running(undo.move(), connected, backend.pid, image);
}

/**
 * Starts QEMU as the guest's device model, with one qdisk for each size of ring. The disks come from xenstore, as with
 * xl; with O_DIRECT they come from the command line, because the node `direct-io-safe` also asks for Linux AIO, which
 * Debian's build lacks.
 */
export async function startQemu(host: BackendHost, image: ImagePlan): Promise<RunningBackend> {
  await using undo = new AsyncDisposableStack();
  const { domid } = host.guest;
  const { directPath } = image;
  const disks = host.ringPages.map((pages, i) => ({ pages, name: `xvd${String.fromCharCode(113 + i)}` })); // xvdq on
  const args = directPath === undefined ? [] : disks.flatMap(({ name }) => directDisk(name, domid, directPath));
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
  for (const { pages, name } of disks) {
    const path = `/local/domain/${domid}/device/vbd/${parseVdev(name)}`;
    if (directPath === undefined) await attachDisk(host, "qdisk", image, name);
    else await appears(host, `${path}/backend`);
    devices.push({ pages, path });
  }
  return running(undo.move(), await connectAll(host, devices, child.pid), child.pid, image);
}

/** QEMU's arguments for a disk with O_DIRECT. It gets its own thread, as disks from xenstore do. */
function directDisk(name: string, domid: number, path: string): string[] {
  const driver = Deno.statSync(path).isBlockDevice ? "host_device" : "file";
  const file = `file.driver=${driver},file.filename=${path},file.cache.direct=on,file.locking=off`;
  return ["-blockdev", `driver=raw,node-name=${name}-image,cache.direct=on,${file}`]
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

/** A disk in xenstore, and the size of the guest's ring for it. */
interface PlannedDisk {
  readonly pages: number;
  /** The frontend's directory. */
  readonly path: string;
}

async function attachDisk(
  { xen, guest }: BackendHost,
  kind: string,
  { params }: ImagePlan,
  vdev?: string,
): Promise<string> {
  const domain = guest.domid as DomId;
  return frontendPath(await attach(xen, { domain, kind, params, ...(vdev === undefined ? {} : { vdev }) }));
}

async function backendOf({ xen }: BackendHost, path: string): Promise<string> {
  return (await xen.run("xenstore-read", [`${path}/backend`])).trim();
}

/** The connected disks, and the reasons why others cannot be used, both by the number of ring pages. */
interface Connected {
  readonly disks: Map<number, LoadedDisk>;
  readonly lacks: Map<number, string>;
}

async function connectAll(host: BackendHost, planned: readonly PlannedDisk[], backendPid: number): Promise<Connected> {
  const connected: Connected = { disks: new Map(), lacks: new Map() };
  for (const { pages, path } of planned) {
    const disk = await host.guest.disk(path, "x86_64-abi", {}, { ringPages: pages, segments: FRONTEND_SEGMENTS });
    await disk.connect();
    const offered = 2 ** await offer(host, path, "max-ring-page-order", 0);
    const offeredSegments = await offer(host, path, "feature-max-indirect-segments", DIRECT_SEGMENTS);
    const mostSegments = Math.min(offeredSegments, FRONTEND_SEGMENTS);
    if (offered >= pages) connected.disks.set(pages, { disk, mostSegments, backendPid });
    else connected.lacks.set(pages, `it needs a ring of ${pages} pages, and the backend offers ${offered}`);
  }
  return connected;
}

/** A number that the backend published, or the default. */
async function offer(host: BackendHost, path: string, name: string, absent: number): Promise<number> {
  const node = `${await backendOf(host, path)}/${name}`;
  return Number(await host.xen.run("xenstore-read", [node]).catch(() => String(absent)));
}

function running(
  owned: AsyncDisposableStack,
  { disks, lacks }: Connected,
  pid: number,
  { directPath }: ImagePlan,
): RunningBackend {
  const dispose = (): Promise<void> => owned.disposeAsync();
  if (directPath === undefined || opensDirectly(pid, directPath)) {
    return { pid, disks, lacks, [Symbol.asyncDispose]: dispose };
  }
  const why = "the backend does not open the image with O_DIRECT";
  const none = new Map([...disks.keys(), ...lacks.keys()].map((pages) => [pages, why]));
  return { pid, disks: new Map(), lacks: none, [Symbol.asyncDispose]: dispose };
}
