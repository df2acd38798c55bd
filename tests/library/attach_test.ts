/**
 * The library's `attach` on a simulated host: a guest uses the disk, its statistics count what it did, it grows, and it
 * goes again; what fails leaves nothing behind.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { attach, type AttachedDisk, XenblkError } from "../../mod.ts";
import { DeviceClaim } from "../../lib/backend/claim.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { eventLoopTurn } from "../../lib/modules.ts";
import type { OpenedImage } from "../../lib/storage/image/medium.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { parseVdev } from "../../lib/xenbus/vdev.ts";
import { GUEST, type Guest, SimulatedHost } from "./host.ts";

const MIB = 2 ** 20;

/** Attaches an image and connects the guest to it. */
async function attached(
  host: SimulatedHost,
  image: string,
  options: Partial<Parameters<typeof attach>[0]> = {},
): Promise<{ readonly disk: AttachedDisk; readonly guest: Guest }> {
  const guest = host.guest(options.vdev ?? "xvda");
  const [disk] = await Promise.all([attach({ ...host.options(image), ...options }), guest.connect()]);
  return { disk, guest };
}

Deno.test("a guest uses an attached disk, its statistics count that, and disposing it leaves nothing behind", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  {
    const { disk, guest } = await attached(host, "memory:16M");
    await using _disk = disk;
    assertEquals([disk.vdev, disk.guest.name, disk.params], ["xvda", "web", "memory:16M"]);
    assertEquals([disk.address.kind, disk.status().connected, disk.status().totals.reads], ["vbd3", true, 0]);
    const load = await guest.load({ flushEvery: 20, barrierEvery: 30, discardEvery: 25 });
    // A pass counts what is in flight after it has answered, so the guest may be done before.
    while ((await disk.stats()).inFlight > 0) await eventLoopTurn(1);
    const { operations, sinceMs } = await disk.stats();
    const [read, write, flush] = [operations.read, operations.write, operations.flush].map((each) => {
      const { latencyUs: { p50, p99, max } = { p50: 0, p99: 0, max: 0 }, ...counted } = each;
      assert(p50 > 0 && p50 <= p99 && p99 <= max, JSON.stringify(each));
      return counted;
    });
    assertEquals(read, { requests: load.reads, bytes: load.bytesRead, errors: 0 });
    assertEquals(write, { requests: load.writes + load.barriers, bytes: load.bytesWritten, errors: 0 });
    assertEquals(flush, { requests: load.flushes, bytes: 0, errors: 0 });
    const { discard } = operations;
    assertEquals([discard.requests, discard.errors], [load.discards, 0]);
    assert(load.reads > 0 && load.barriers > 0 && load.flushes > 0 && load.discards > 0 && discard.bytes > 0);
    assert(sinceMs > 0);
  }
  assertEquals(host.holdings(), before);
});

Deno.test("one process attaches several disks, but no image twice", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const path = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(path) };
  Deno.truncateSync(path, MIB);
  const one = await attached(host, path);
  const other = await attached(host, "memory:1M", { vdev: "xvdb" });
  const again = (): Promise<unknown> => attach({ ...host.options(path), vdev: "xvdc" });
  await assertRejects(again, XenblkError, "xenblk serves it to vbd3/5/51712");
  await one.disk.detach();
  assertEquals((await other.guest.load({})).errors, 0);
  await other.disk[Symbol.asyncDispose]();
  assertEquals(host.holdings(), before);
});

Deno.test("the statistics count failed requests by their operation", async () => {
  using host = new SimulatedHost();
  const { disk, guest } = await attached(host, "memory:1M");
  await using _disk = disk;
  const beyond = { area: { firstSector: 2048, sectors: 1024 }, requests: 50, readShare: 0.5 };
  const { errorsByKind } = await guest.load(beyond, 4096);
  const { read, write, flush } = (await disk.stats()).operations;
  assertEquals([read.errors, write.errors, flush.errors], [errorsByKind["read -1"], errorsByKind["write -1"], 0]);
  assertEquals([read.requests, write.requests], [read.errors, write.errors]);
  assertEquals([read.bytes, write.bytes, read.requests + write.requests], [0, 0, 50]);
});

Deno.test("a domain is named by its domid too, and a read-only disk is not written", async () => {
  using host = new SimulatedHost();
  const { disk, guest } = await attached(host, "memory:1M", { domain: GUEST, vdev: "xvdc", readOnly: true });
  await using _disk = disk;
  assertEquals([disk.vdev, disk.address.vdev], ["xvdc", 51744]);
  const { reads, writes, errors } = await guest.load({ readShare: 0 });
  assertEquals([reads, writes, errors], [200, 0, 0], "the guest knows that it must not write");
});

Deno.test("resize tells the guest that the image has grown", async () => {
  using host = new SimulatedHost();
  const path = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(path) };
  Deno.truncateSync(path, MIB);
  const { disk, guest } = await attached(host, path);
  await using _disk = disk;
  assertEquals(await disk.resize(), { before: 2048, now: 2048 });
  Deno.truncateSync(path, 3 * MIB);
  assertEquals(await disk.resize(), { before: 2048, now: 6144 });
  assertEquals(guest.sectors, 6144);
  Deno.truncateSync(path, MIB);
  await assertRejects(() => disk.resize(), XenblkError, "Cannot shrink image");
});

Deno.test("detach waits for the guest, removes the nodes and ends the disk; disposing it then does nothing", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const { disk, guest } = await attached(host, "memory:1M");
  await guest.load({});
  const { operations } = await disk.stats();
  await disk.detach();
  await guest.closed;
  assertEquals(await disk.ended, { reason: "closed" });
  assertEquals(host.holdings(), before);
  assertEquals((await disk.stats()).operations, operations, "the counters can still be read");
  await disk.detach();
  await disk[Symbol.asyncDispose]();
  await assertRejects(() => disk.resize(), XenblkError, "Cannot resize xvda");
});

Deno.test("a guest that does not close its disk keeps it unless detaching is forced", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const deaf = host.guest("xvda", { deaf: true });
  const [disk] = await Promise.all([attach(host.options("memory:1M")), deaf.connect()]);
  const error = await assertRejects(
    () => disk.detach({ timeoutMs: 50 }),
    XenblkError,
    "of web (domain 5): the guest still uses the disk",
  );
  assertEquals([error.kind, disk.status().connected], ["timeout", true]);
  await disk.detach({ timeoutMs: 50, force: true });
  assertEquals(host.holdings().nodes, before.nodes);
});

Deno.test("close can leave the disk Connected, with its nodes, for another process", async () => {
  using host = new SimulatedHost();
  const { disk } = await attached(host, "memory:1M");
  await disk.close({ leave: "connected", timeoutMs: 0 });
  assertEquals(await disk.ended, { reason: "closed" });
  using store = host.platform.openXenstore();
  const states = [backendPath(disk.address), frontendPath(disk.address)].map((path) => store.read(`${path}/state`));
  assertEquals(states, ["4", "4"]);
});

Deno.test("a disk reports that the toolstack removed it, and that its guest has ended", async () => {
  for (const reason of ["removed", "guest-gone"] as const) {
    using host = new SimulatedHost();
    const { disk } = await attached(host, "memory:1M");
    await using _disk = disk;
    using store = host.platform.openXenstore();
    if (reason === "removed") requestRemoval(store, backendPath(disk.address));
    else host.endGuest();
    assertEquals(await disk.ended, { reason });
  }
});

Deno.test("what cannot be attached is refused with its reason, and leaves nothing behind", async () => {
  const busy = { tryLock: () => Promise.resolve("process 12 (qemu) uses it") };
  const file = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(file) };
  Deno.truncateSync(file, MIB);
  using host = new SimulatedHost(busy);
  const before = host.holdings();
  const cases: [Partial<Parameters<typeof attach>[0]>, string, string][] = [
    [{ domain: "db" }, "not-found", "Cannot find domain db"],
    [{ image: "/nonexistent/a.img" }, "failed", "Cannot open image /nonexistent/a.img: there is no such file"],
    [{ image: file }, "failed", "process 12 (qemu) uses it"],
    [{ image: "qcow2:/a.qcow2" }, "failed", "this process starts no storage daemon"],
    [{ vdev: "disk1" }, "usage", "disk1"],
    [{ kind: "../vbd" }, "usage", 'Cannot use backend kind "../vbd"'],
    [{ engine: "uring", image: "memory:1M" }, "usage", "engine uring does not serve this format"],
    [{ timeoutMs: 50 }, "timeout", "the guest did not connect in time (backend InitWait"],
    [{ signal: AbortSignal.abort(new Error("enough")) }, "failed", "Cannot attach memory:1M: enough"],
  ];
  for (const [options, kind, message] of cases) {
    const start = (): Promise<unknown> => attach({ ...host.options("memory:1M"), ...options });
    assertEquals((await assertRejects(start, XenblkError, message)).kind, kind, message);
    assertEquals(host.holdings(), before, message);
  }
});

Deno.test("with a signal that has aborted nothing is looked at, neither before the rejection nor after it", async () => {
  using host = new SimulatedHost();
  const opened: string[] = [];
  const refusal = { reason: "it is a simulation", remedy: "leave it at auto" };
  const open = (path: string): Promise<never> => Promise.reject(new Error(`opened ${opened.push(path)}`));
  Object.assign(host.platform, { files: { uringRefusal: () => refusal, uringModule: "", prepare: () => {}, open } });
  const file = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(file) };
  const start = (): Promise<unknown> =>
    attach({ ...host.options(file), signal: AbortSignal.abort(new Error("enough")) });
  await assertRejects(start, XenblkError, `Cannot attach ${file}: enough`);
  // Longer than the looks that come before the opening.
  for (let look = 0; look < 3; look++) await Deno.stat(file);
  assertEquals(opened, []);
});

Deno.test("aborting ends the wait for the guest, with the signal's reason as the cause", async () => {
  using host = new SimulatedHost();
  const before = host.holdings();
  const end = new AbortController();
  const offered = (line: string): void => {
    if (line.includes("offering")) end.abort("no longer wanted");
  };
  const logger = { debug: () => {}, info: offered, warning: () => {}, error: () => {} };
  const start = (): Promise<unknown> => attach({ ...host.options("memory:1M"), signal: end.signal, logger });
  const error = await assertRejects(start, XenblkError, "Cannot attach xvda: no longer wanted");
  assertEquals(error.cause, "no longer wanted");
  assertEquals(host.holdings(), before);
});

Deno.test("aborting ends the wait for a device that another process still has, too", async () => {
  using host = new SimulatedHost();
  using claim = new DeviceClaim(host.platform.journals);
  claim.take({ backendDomain: 0 as DomId, kind: "vbd3", frontendDomain: GUEST, vdev: parseVdev("xvda") });
  const before = host.holdings();
  const end = new AbortController();
  const { journals } = host.platform;
  const lock = (name: string): Disposable | undefined => {
    setTimeout(() => end.abort("no longer wanted"), 0);
    return journals.lock(name);
  };
  Object.assign(host.platform, { journals: { ...journals, lock } });
  const attaching = attach({ ...host.options("memory:1M"), vdev: "xvda", signal: end.signal });
  const error = await assertRejects(() => attaching, XenblkError, "Cannot attach xvda: no longer wanted");
  assertEquals([error.cause, host.holdings()], ["no longer wanted", before]);
});

Deno.test("aborting ends an attach whose image does not open, or is not locked; what comes late is released", async () => {
  const file = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(file) };
  Deno.truncateSync(file, MIB);
  for (const hangs of ["open", "lock"] as const) {
    const [begun, over, released] = Array.from({ length: 3 }, () => Promise.withResolvers<void>());
    const late = async (what: typeof hangs): Promise<AsyncDisposable> => {
      if (what === hangs) begun!.resolve();
      if (what === hangs) await over!.promise;
      return { [Symbol.asyncDispose]: () => Promise.resolve(what === hangs ? released!.resolve() : undefined) };
    };
    using host = new SimulatedHost({ tryLock: () => late("lock") });
    const looks = { identity: { device: 1, inode: 1 }, sizeBytes: MIB, start: new Uint8Array(8) };
    const refusal = { reason: "it is a simulation", remedy: "leave it at auto" };
    const open = async (): Promise<OpenedImage> => ({
      ...looks,
      size: () => Promise.resolve(MIB),
      ...await late("open"),
    });
    Object.assign(host.platform, { files: { uringRefusal: () => refusal, uringModule: "", prepare: () => {}, open } });
    const before = host.holdings();
    const end = new AbortController();
    const attaching = attach({ ...host.options(file), signal: end.signal });
    begun!.promise.then(() => end.abort("no longer wanted"));
    const error = await assertRejects(() => attaching, XenblkError, `Cannot attach ${file}: no longer wanted`);
    assertEquals([error.kind, error.cause, host.holdings()], ["failed", "no longer wanted", before], hangs);
    over!.resolve();
    await released!.promise;
    assertEquals(host.holdings(), before, hangs);
  }
});
