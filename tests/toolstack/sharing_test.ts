/**
 * Which disks of other guests exclude the use of an image: by the rules of xl's block script, under any name of the
 * file or device, for backends of any kind; and that a file system that does not answer delays nothing else.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, XenstoreOperations } from "../../lib/hypervisor.ts";
import { type AttachRequest, removeDevice } from "../../lib/toolstack/attach.ts";
import { listDevices, listDevicesUntil } from "../../lib/toolstack/list.ts";
import { DisksInUse } from "../../lib/toolstack/disks_in_use.ts";
import type { PathLookups } from "../../lib/toolstack/medium.ts";
import { type ExcludingDisk, findExcludingDisk } from "../../lib/toolstack/sharing.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { DOM0, GUEST, Rig } from "../backend/rig.ts";
import { Folder } from "../storage/rig.ts";

const OTHER = 6 as DomId;
const UUIDS = ["1a", "2b", "3c"].map((end) => `00000000-0000-4000-8000-0000000000${end}`) as [string, string, string];

/** A guest's use of an image. */
interface Use {
  readonly path?: string;
  readonly writes?: boolean;
  readonly shared?: boolean;
  readonly backing?: string;
}

/** A host with two guests, an image, and a disk of the other guest. */
class Scene implements AsyncDisposable {
  readonly rig = new Rig();
  readonly folder = new Folder();
  readonly image = this.folder.file("disk.img", 4096);

  constructor() {
    this.rig.simulated.createGuest(OTHER, "db");
    this.machine(GUEST, UUIDS[0]);
    this.machine(OTHER, UUIDS[1]);
  }

  /** Gives a domain its UUID. */
  machine(domain: DomId, uuid: string): void {
    this.rig.toolstack.write(`/local/domain/${domain}/vm`, `/vm/${uuid}`);
  }

  /** The other guest has a disk, and a backend has opened its image. */
  others(request: Partial<AttachRequest> = {}): DeviceAddress {
    const device = this.rig.attach({ domain: OTHER, params: `aio:${this.image}`, ...request });
    this.rig.toolstack.write(`${backendPath(device)}/hotplug-status`, "connected");
    return device;
  }

  /** Who excludes the guest's use, in words. */
  async excluding(
    { path = this.image, writes = true, shared = false, backing }: Use = {},
    lookups?: PathLookups,
  ): Promise<string | undefined> {
    const below = backing === undefined ? [] : [{ path: backing, writable: false }];
    const query = { files: [{ path, writable: writes }, ...below], shared };
    const user = { backendDomain: DOM0, frontendDomain: GUEST };
    return (await findExcludingDisk(this.rig.toolstack, user, query, lookups && { lookups }))?.text;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.rig[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

Deno.test("a disk of another guest is found by its name, a link, a hard link, and whatever its kind", async () => {
  await using scene = new Scene();
  const link = `${scene.folder.path}/link.img`;
  Deno.symlinkSync(scene.image, link);
  const hard = `${scene.folder.path}/hard.img`;
  Deno.linkSync(scene.image, hard);
  for (const [params, kind] of [[scene.image, "vbd"], [`aio:${link}`, "vbd3"], [`raw:${hard}`, "qdisk"]] as const) {
    const device = scene.others({ params, kind });
    assertEquals(await scene.excluding(), `xvda of db (domain 6) uses it (${kind}, mode w)`, params);
    scene.rig.toolstack.remove(backendPath(device));
    scene.rig.toolstack.remove(`/libxl/6/device`);
    scene.rig.toolstack.remove(`/local/domain/6/device/vbd/${device.vdev}`);
  }
  scene.others({ params: scene.folder.file("other.img", 512) });
  scene.others({ params: "null:64M" });
  assertEquals(await scene.excluding(), undefined);
});

Deno.test("a disk whose image is only read while its guest writes excludes writers of the image, not readers", async () => {
  await using scene = new Scene();
  const device = scene.others({ params: scene.image });
  scene.rig.toolstack.write(`${backendPath(device)}/image-mode`, "r");
  assertEquals(await scene.excluding({ writes: false }), undefined);
  assertEquals(await scene.excluding(), "xvda of db (domain 6) uses it (vbd3, mode r)");
});

Deno.test("a block device is found under any of its names, and as blkback's physical-device", async () => {
  await using scene = new Scene();
  // Two nodes of one block device: the stand-in says what stat would say of them.
  const info = (rdev: number): Deno.FileInfo => ({ dev: 5, ino: rdev, isBlockDevice: true, rdev } as Deno.FileInfo);
  const devices: Record<string, number> = { "/dev/vg/lv": 0xFE01, "/dev/dm-1": 0xFE01, "/dev/dm-2": 0xFE02 };
  const lookups = {
    stat: (path: string): Promise<Deno.FileInfo> =>
      path in devices ? Promise.resolve(info(devices[path]!)) : Promise.reject(new Deno.errors.NotFound(path)),
    timeoutMs: 1000,
  };
  const device = scene.others({ params: "vg/lv", kind: "vbd" });
  assert(await scene.excluding({ path: "/dev/dm-1" }, lookups));
  assertEquals(await scene.excluding({ path: "/dev/dm-2" }, lookups), undefined);
  scene.rig.toolstack.write(`${backendPath(device)}/physical-device`, "fe:2");
  assert(await scene.excluding({ path: "/dev/dm-2" }, lookups));
});

/** Runs losetup; undefined if this machine has no loop devices for us. */
function losetup(...args: string[]): string | undefined {
  try {
    const { success, stdout } = new Deno.Command("losetup", { args, stderr: "null" }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined;
  }
}

/** A node for the first partition of a device; undefined if this kernel does not look for partitions. */
function partitionNode(device: string, folder: string): string | undefined {
  const name = device.replace("/dev/", "");
  try {
    const [major, minor] = Deno.readTextFileSync(`/sys/block/${name}/${name}p1/dev`).trim().split(":");
    const node = `${folder}/partition`;
    return new Deno.Command("mknod", { args: [node, "b", major!, minor!] }).outputSync().success ? node : undefined;
  } catch {
    return undefined;
  }
}

Deno.test("a file, the loop device on it and a partition of that are one medium", async (context) => {
  await using scene = new Scene();
  // One partition, of sectors 8 to 63.
  const disk = new Uint8Array(64 * 512);
  disk.set([0x00, 0, 0, 0, 0x83, 0, 0, 0, 8, 0, 0, 0, 56, 0, 0, 0], 446);
  disk.set([0x55, 0xAA], 510);
  const image = scene.folder.file("loop.img", disk);
  const loop = losetup("--find", "--show", "--partscan", image);
  await context.step({
    name: "on a real loop device",
    ignore: loop === undefined,
    fn: async () => {
      using _loop = { [Symbol.dispose]: () => void losetup("--detach", loop!) };
      const partition = partitionNode(loop!, scene.folder.path);
      const paths = [image, loop!, ...(partition === undefined ? [] : [partition])];
      for (const theirs of paths) {
        const device = scene.others({ params: theirs, kind: "vbd", vdev: "xvdc" });
        for (const ours of paths) assert(await scene.excluding({ path: ours }), `${theirs} and ${ours}`);
        assertEquals(await scene.excluding(), undefined, "another image");
        removeDevice(scene.rig.toolstack, device);
      }
    },
  });
});

Deno.test("readers share, a writer excludes all, and w! is excluded by nobody", async () => {
  await using scene = new Scene();
  const device = scene.others();
  const mode = (mode: string): void => scene.rig.toolstack.write(`${backendPath(device)}/mode`, mode);
  const cases = [
    ["r", { writes: false }, false],
    ["r", { writes: true }, true],
    ["w", { writes: false }, true],
    ["w!", { writes: false }, false],
    ["w!", { writes: true }, true],
    ["w", { writes: true, shared: true }, false],
  ] as const;
  for (const [theirs, query, isExcluded] of cases) {
    mode(theirs);
    assertEquals(await scene.excluding(query) !== undefined, isExcluded, `${theirs} and ${JSON.stringify(query)}`);
  }
});

Deno.test("a backing file is excluded by a guest that writes to it, and by no reader", async () => {
  await using scene = new Scene();
  const path = scene.folder.file("overlay.qcow2", 512);
  const device = scene.others({ kind: "qdisk" });
  assertEquals(await scene.excluding({ path, backing: scene.image }), "xvda of db (domain 6) uses it (qdisk, mode w)");
  scene.rig.toolstack.write(`${backendPath(device)}/mode`, "r");
  assertEquals(await scene.excluding({ path, backing: scene.image }), undefined);
});

Deno.test("the image in params is found behind every format, and a store is no path", async () => {
  await using scene = new Scene();
  const device = scene.others();
  const params = (text: string): void => scene.rig.toolstack.write(`${backendPath(device)}/params`, text);
  const fields = `format=luks,passphrase-file=/etc/keys/db,target=${scene.image}`;
  for (const text of [`qcow2:${scene.image}`, `vhd:${scene.image}`, fields, `target=${scene.image}`]) {
    params(text);
    assert(await scene.excluding(), text);
  }
  const path = `/dev/rbd:pool/image`;
  for (
    const text of ["rbd:pool/image", "nbd://host/x", "qcow2:nbd:///dev/rbd:pool/image", 'json:{"driver":"null-co"}']
  ) {
    params(text);
    assertEquals(await scene.excluding({ path }), undefined, text);
  }
});

Deno.test("nodes of a disk that was refused, waits or is not served exclude nothing; what a backend has opened does", async () => {
  await using scene = new Scene();
  const node = (name: string): string => `${backendPath(device)}/${name}`;
  const device = scene.others();
  scene.rig.toolstack.remove(node("hotplug-status"));
  assertEquals(await scene.excluding(), undefined, "not served");
  scene.rig.toolstack.write(node("state"), "2");
  scene.rig.toolstack.write(node("error"), "It waits for image x");
  assertEquals(await scene.excluding(), undefined, "waits");
  scene.rig.toolstack.write(node("hotplug-status"), "error");
  assertEquals(await scene.excluding(), undefined, "refused");
  scene.rig.toolstack.write(node("state"), "4");
  assert(await scene.excluding(), "Connected");
  scene.rig.toolstack.write(node("state"), "2");
  scene.rig.toolstack.write(node("physical-device"), "7:0");
  assert(await scene.excluding(), "set up by blkback's script");
});

Deno.test("lives of one virtual machine, its device model's domain, and domains that are gone exclude nothing", async () => {
  await using scene = new Scene();
  scene.others();
  assert(await scene.excluding());
  scene.machine(OTHER, UUIDS[0]);
  assertEquals(await scene.excluding(), undefined);
  scene.machine(GUEST, `${UUIDS[0]}-1`);
  assertEquals(await scene.excluding(), undefined);
  scene.machine(OTHER, UUIDS[2]);
  assert(await scene.excluding());
  scene.rig.toolstack.write(`/local/domain/${OTHER}/target`, String(GUEST));
  assertEquals(await scene.excluding(), undefined);
  scene.rig.toolstack.remove(`/local/domain/${OTHER}/target`);
  scene.rig.toolstack.remove(`/local/domain/${OTHER}/vm`);
  assertEquals(await scene.excluding(), undefined);
});

Deno.test("the guest's own disk does not exclude itself, and a backend in another domain has other files", async () => {
  await using scene = new Scene();
  const own = scene.rig.attach({ params: scene.image });
  const query = { files: [{ path: scene.image, writable: true }], shared: false };
  assertEquals(await findExcludingDisk(scene.rig.toolstack, own, query), undefined);
  scene.rig.simulated.createGuest(7 as DomId);
  scene.others({ backendDomain: 7 as DomId });
  assertEquals(await scene.excluding(), undefined);
});

Deno.test("a path whose file system does not answer is compared by its name, and hides no other disk", async () => {
  await using scene = new Scene();
  const hung = Promise.withResolvers<Deno.FileInfo>();
  const lookups = {
    stat: (path: string): Promise<Deno.FileInfo> => path.startsWith("/mnt/dead/") ? hung.promise : Deno.stat(path),
    timeoutMs: 5,
  };
  for (const name of ["a", "b", "c", "d"]) scene.others({ params: `/mnt/dead/${name}` });
  assertEquals(await scene.excluding({}, lookups), undefined);
  assert(await scene.excluding({ path: "/mnt/dead/c" }, lookups));
  scene.others({ params: scene.image, vdev: "xvdz" });
  assertEquals(await scene.excluding({}, lookups), "xvdz of db (domain 6) uses it (vbd3, mode w)");
  hung.reject(new Error("the server is back, the file is gone"));
});

/** A disk of each of so many other guests, all with an image of their own. */
function manyOthers(scene: Scene, count: number): void {
  for (let index = 0; index < count; index++) {
    const domain = (100 + index) as DomId;
    scene.rig.simulated.createGuest(domain);
    scene.machine(domain, `00000000-0000-4000-8000-${String(index).padStart(12, "0")}`);
    scene.others({ domain, params: `aio:/images/${index}.img` });
  }
}

/** A store of which each read takes time. It counts them. */
function slowStore(scene: Scene, readMs: number): { readonly store: XenstoreOperations; readonly reads: () => number } {
  const { toolstack } = scene.rig;
  let reads = 0;
  const read = (path: string): string | undefined => {
    reads++;
    for (const endMs = performance.now() + readMs; performance.now() < endMs;);
    return toolstack.read(path);
  };
  const list = (path: string): string[] | undefined => toolstack.list(path);
  return { store: { read, list } as XenstoreOperations, reads: () => reads };
}

Deno.test("a list of the disks of a slow xenstored is ended by a signal in time", async () => {
  await using scene = new Scene();
  manyOthers(scene, 50);
  const { store, reads } = slowStore(scene, 1);
  const all = await listDevicesUntil(new AbortController().signal, store);
  assertEquals(all, listDevices(scene.rig.toolstack));
  const complete = reads();
  const signal = AbortSignal.timeout(1);
  await assertRejects(() => listDevicesUntil(signal, store), DOMException, "aborted due to timeout");
  assert(reads() - complete < complete / 2, `${reads() - complete} reads of ${complete} before the end`);
});

const NOWHERE: PathLookups = { stat: (path) => Promise.reject(new Deno.errors.NotFound(path)), timeoutMs: 1_000 };

Deno.test("a search among many disks of a slow xenstored leaves the thread to others every few milliseconds", async () => {
  await using scene = new Scene();
  manyOthers(scene, 50);
  const { store, reads } = slowStore(scene, 2);
  let longestMs = 0;
  let last = performance.now();
  const turns = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - last);
    last = performance.now();
  }, 0);
  const user = { backendDomain: DOM0, frontendDomain: GUEST };
  const query = { files: [{ path: scene.image, writable: true }], shared: false };
  const startMs = performance.now();
  assertEquals(await findExcludingDisk(store, user, query, { lookups: NOWHERE }), undefined);
  clearInterval(turns);
  const tookMs = performance.now() - startMs;
  assert(reads() > 200, `${reads()} reads`);
  assert(longestMs < tookMs / 4, `${longestMs} ms of ${tookMs} without a turn of the event loop`);
});

Deno.test("searches at the same time share their reads of the store, and each sees what was opened before it", async () => {
  await using scene = new Scene();
  manyOthers(scene, 20);
  const { store, reads } = slowStore(scene, 1);
  const disks = new DisksInUse();
  const find = (path = scene.image): Promise<ExcludingDisk | undefined> => {
    const query = { files: [{ path, writable: true }], shared: false };
    return findExcludingDisk(store, { backendDomain: DOM0, frontendDomain: GUEST }, query, { lookups: NOWHERE, disks });
  };
  await find();
  const alone = reads();
  await Promise.all(Array.from({ length: 30 }, () => find()));
  assert(reads() < 4 * alone, `${reads()} reads for 31 searches, ${alone} for one`);
  const early = find();
  scene.others({ domain: 119 as DomId, params: scene.image, vdev: "xvdz" });
  const late = find();
  await early;
  assertEquals((await late)?.text, "xvdz of guest-119 (domain 119) uses it (vbd3, mode w)");
});

Deno.test("what paths of other disks lead to is looked at once by many searches, and again if nodes change or time passes", async () => {
  await using scene = new Scene();
  manyOthers(scene, 20);
  let skippedMs = 0;
  const now = (): number => SYSTEM_CLOCK.now() + skippedMs;
  const disks = new DisksInUse({ now, sleep: () => SYSTEM_CLOCK.sleep(0) });
  const looked: string[] = [];
  const wrong = "/images/7.img";
  const there = await Deno.stat(scene.folder.path);
  const stat = (path: string): Promise<Deno.FileInfo> => {
    looked.push(path);
    return path === wrong || path === scene.image ? NOWHERE.stat(path) : Promise.resolve(there);
  };
  const own = scene.folder.file("own.img", 4096);
  const search = async (): Promise<string[]> => {
    const query = { files: [{ path: scene.image, writable: true }, { path: own, writable: false }], shared: false };
    const user = { backendDomain: DOM0, frontendDomain: GUEST };
    const inode = { ...there, ino: 1 };
    const lookups = { stat: (path: string) => path === own ? Promise.resolve(inode) : stat(path), timeoutMs: 1_000 };
    looked.length = 0;
    assertEquals(await findExcludingDisk(scene.rig.toolstack, user, query, { lookups, disks }), undefined);
    return looked.filter((path) => path !== scene.image).toSorted();
  };
  assertEquals((await search()).length, 20);
  assertEquals(await search(), [wrong], "only what could not be looked at");
  scene.rig.toolstack.write(
    `${backendPath(scene.others({ domain: 103 as DomId, vdev: "xvdb", params: "aio:/a" }))}/params`,
    "aio:/b",
  );
  assertEquals(await search(), ["/b", wrong]);
  skippedMs += 31_000;
  assertEquals((await search()).length, 21);
});

Deno.test("the pause before the next reading ends with its owner, whom a timer would keep alive", async () => {
  await using scene = new Scene();
  manyOthers(scene, 4);
  const { store } = slowStore(scene, 1);
  const sleep = (ms: number, signal?: AbortSignal): Promise<void> =>
    signal === undefined
      ? SYSTEM_CLOCK.sleep(ms)
      : new Promise((resolve) => signal.aborted ? resolve() : signal.addEventListener("abort", () => resolve()));
  const disks = new DisksInUse({ ...SYSTEM_CLOCK, sleep });
  await disks.read(store, DOM0);
  const next = disks.read(store, DOM0);
  disks[Symbol.dispose]();
  assertEquals((await next).length, 4);
});

Deno.test("a search that takes too long is refused with the reason", async () => {
  await using scene = new Scene();
  manyOthers(scene, 20);
  const disks = new DisksInUse({ ...SYSTEM_CLOCK, now: () => SYSTEM_CLOCK.now() * 1_000 });
  const { store } = slowStore(scene, 1);
  const error = await assertRejects(() => disks.read(store, DOM0), XenblkError);
  assertEquals(
    error.line,
    "Cannot find out whether another guest uses the image: reading its disks took over 10 s; " +
      "check why xenstored is slow, then try again; a backend tries again by itself",
  );
});
