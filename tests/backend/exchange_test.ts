/**
 * The steps of an exchange of a disk's image: their order, and what each one that fails, hangs or is overtaken leaves: the
 * old image with all rings, or a device that opens them anew.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import type { BackendKind } from "../../lib/backend/kind.ts";
import type { Exchanged } from "../../lib/backend/exchange.ts";
import { errorText, XenblkError } from "../../lib/errors.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import type { Disk, DiskRequest } from "../../lib/storage/disk.ts";
import { type ImageLocks, ProcessImageLocks } from "../../lib/storage/image/lock.ts";
import { writeNote } from "../../lib/storage/image/overlay_note.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { DeviceAddress } from "../../lib/xenbus/paths.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { Rig, RING_NODES, until } from "./rig.ts";

const NULL = "null:64M";
const MEMORY = "memory:1M";
const TWO_RINGS = {
  "multi-queue-num-queues": "2",
  ...Object.fromEntries([0, 1].flatMap((queue) => [
    [`queue-${queue}/ring-ref`, `${8 + queue}`],
    [`queue-${queue}/event-channel`, `${15 + queue}`],
  ])),
  protocol: "x86_64-abi",
};

/** A connected disk of 1 MiB of zeroes, by so many rings. */
async function connected(rig: Rig, rings: 1 | 2 = 2): Promise<{ kind: BackendKind; device: DeviceAddress }> {
  const device = rig.attach({ params: "null:1M" });
  const kind = rig.serve({ maxQueues: 2 });
  rig.guestWrites(device, { ...(rings === 2 ? TWO_RINGS : RING_NODES), state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  return { kind, device };
}

function swap(kind: BackendKind, device: DeviceAddress, params = MEMORY, timeoutMs = 30_000): Promise<Exchanged> {
  return kind.find(device)!.exchange({ params, timeoutMs });
}

/** What the rings that are open are on, and whether they take requests. */
function ringsOf(rig: Rig): string[] {
  return rig.plane.open.map(({ spec, started }) => `${spec.disk.description.split(" ")[0]}${started ? "" : " held"}`)
    .toSorted();
}

Deno.test("the new image is open before a ring is let go, its rings wait until it is named, and the old one is closed", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  const [first] = rig.plane.open;
  first!.mayRelease = (): Promise<boolean> => {
    assertEquals([rig.openDisks, rig.disks.at(-1)!.request.format], [2, "memory"]);
    return Promise.resolve(true);
  };
  rig.writes.length = 0;
  const from = rig.plane.queues.length;
  const { openQueue } = rig.plane;
  rig.plane.openQueue = async (spec, signal) => {
    assertEquals([rig.backend(device, "params"), spec.held, spec.journal?.resume ?? true], ["null:1M", true, true]);
    return await openQueue.call(rig.plane, spec, signal);
  };
  const { pausedMs, ...rest } = await swap(kind, device);
  assertEquals(rest, {
    before: "null:1M (1.0 MiB, engine null)",
    now: "memory:1M (1.0 MiB, engine memory)",
    sectorsBefore: 2048,
    sectors: 2048,
  });
  assertEquals(typeof pausedMs, "number");
  assertEquals([ringsOf(rig), rig.plane.queues.length - from], [["memory:1M", "memory:1M"], 2]);
  assertEquals(rig.writes.map(({ path, value }) => [path, value]), [[`${backendPath(device)}/params`, MEMORY]]);
  await until("the old image is closed", () => rig.openDisks === 1);
  await rig.idle(device);
  assertEquals([kind.status()[0]!.error, rig.plane.open.length], [undefined, 2]);
});

Deno.test("an image that does not open in time is given up before any ring is let go, and closed when it comes", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  const open = Promise.withResolvers<void>();
  rig.beforeOpen = () => open.promise;
  const error = await assertRejects(() => swap(kind, device, MEMORY, 20), XenblkError);
  assertEquals([error.kind, ringsOf(rig)], ["timeout", ["null:1M", "null:1M"]]);
  assertMatch(error.line, /Cannot open the image: that took longer than 0.02 s/);
  open.resolve();
  await until("it is closed", () => rig.disks.length === 2 && rig.openDisks === 1);
  assertEquals(rig.plane.queues.length, 2);
});

Deno.test("if one ring does not finish in time, the other one is opened again on the old image", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  rig.plane.open[1]!.mayRelease = () => Promise.resolve(false);
  const kept = rig.plane.open[1];
  const error = await assertRejects(() => swap(kind, device), XenblkError);
  assertMatch(error.line, /has not finished what is in flight in time; .* the guest goes on with it/);
  assertEquals([ringsOf(rig), rig.plane.open.includes(kept!)], [["null:1M", "null:1M"], true]);
  await until("the new image is closed", () => rig.openDisks === 1);
  assertEquals((await swap(kind, device).catch((again) => again)).name, "XenblkError");
  kept!.mayRelease = () => Promise.resolve(true);
  assertEquals((await swap(kind, device)).sectors, 2048);
  assertEquals(ringsOf(rig), ["memory:1M", "memory:1M"]);
});

Deno.test("rings that cannot be opened on the new image go back to the old one; if not there either, the device tries again", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  const { openQueue } = rig.plane;
  rig.plane.openQueue = async (spec, signal) => {
    if (spec.held && spec.label.endsWith("1")) throw new Error("no room");
    return await openQueue.call(rig.plane, spec, signal);
  };
  await assertRejects(() => swap(kind, device), Error, "no room");
  assertEquals([ringsOf(rig), rig.backend(device, "params")], [["null:1M", "null:1M"], "null:1M"]);
  let refusals = 3;
  rig.plane.openQueue = async (spec, signal) => {
    if (refusals-- > 0) throw new Error("no room at all");
    return await openQueue.call(rig.plane, spec, signal);
  };
  await assertRejects(() => swap(kind, device), Error, "no room at all");
  await until("both rings are open", () => ringsOf(rig).length === 2);
  await rig.idle(device);
  assertEquals([ringsOf(rig), kind.status()[0]!.connected], [["null:1M", "null:1M"], true]);
});

Deno.test("a toolstack that names an image meanwhile is not overwritten", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  rig.plane.open[0]!.mayRelease = (): Promise<boolean> => {
    rig.toolstack.write(`${backendPath(device)}/params`, NULL);
    return Promise.resolve(true);
  };
  const error = await assertRejects(() => swap(kind, device), XenblkError);
  assertMatch(errorText(error), /nodes have changed meanwhile/);
  assertEquals([ringsOf(rig), rig.backend(device, "params")], [["null:1M", "null:1M"], NULL]);
  assertMatch(errorText(await assertRejects(() => swap(kind, device))), /params names another image than the one/);
});

Deno.test("an image that somebody else uses is refused before any ring is let go", async () => {
  await using rig = new Rig();
  const path = Deno.makeTempFileSync({ prefix: "xenblk-exchange-" });
  try {
    Deno.truncateSync(path, 2 ** 20);
    const imageLocks: ImageLocks = { tryLock: () => Promise.resolve("process 12 (qemu) has it") };
    const device = rig.attach({ params: "null:1M" });
    const kind = rig.serve({}, { imageLocks });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    await rig.backendReaches(device, 4);
    rig.guestWrites(device, { state: "4" });
    await rig.idle(device);
    const error = await assertRejects(() => swap(kind, device, path), XenblkError);
    assertMatch(error.line, /process 12 \(qemu\) has it; end that use first/);
    assertEquals([rig.plane.queues.length, rig.openDisks], [1, 1]);
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("where the answer to the commit is lost, the old image serves on, and is named again", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  const path = `${backendPath(device)}/params`;
  const { DeviceNodes } = await import("../../lib/backend/device_nodes.ts");
  const { nameImage } = DeviceNodes.prototype;
  DeviceNodes.prototype.nameImage = function (...args): boolean {
    DeviceNodes.prototype.nameImage = nameImage;
    nameImage.apply(this, args);
    throw new XenstoreError("Cannot write: the connection to xenstored was lost", "EDISCONNECTED", path);
  };
  const error = await assertRejects(() => swap(kind, device), XenblkError);
  assertEquals([error.kind, ringsOf(rig)], ["hypervisor", ["null:1M", "null:1M"]]);
  await until("the old image is named again", () => rig.toolstack.read(path) === "null:1M");
  await rig.idle(device);
  assertEquals(kind.status()[0]!.error, undefined);
});

Deno.test("a disk that its guest does not use, and one that is being swapped, keep their images", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig, 1);
  const open = Promise.withResolvers<void>();
  rig.beforeOpen = () => open.promise;
  const one = swap(kind, device);
  assertMatch(errorText(await assertRejects(() => swap(kind, device))), /another swap of it has not ended/);
  open.resolve();
  await one;
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  assertMatch(errorText(await assertRejects(() => swap(kind, device))), /the guest is not connected to the disk/);
});

Deno.test("a process that ends while an image opens ends at once, and leaves the old image named", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  const open = Promise.withResolvers<void>();
  const opening = Promise.withResolvers<void>();
  rig.beforeOpen = () => {
    opening.resolve();
    return open.promise;
  };
  const swapping = assertRejects(() => swap(kind, device), XenblkError, "its process ends");
  await opening.promise;
  const closing = kind.close({ leave: "connected", timeoutMs: 0 }, 30_000);
  await swapping;
  open.resolve();
  await closing;
  assertEquals(rig.backend(device, "params"), "null:1M");
});

Deno.test("the nodes of a block device's script name the new image, or go", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  for (const [name, value] of [["physical-device", "7:0"], ["physical-device-path", "/dev/loop0"]] as const) {
    rig.toolstack.write(`${backendPath(device)}/${name}`, value);
  }
  await swap(kind, device);
  assertEquals([rig.backend(device, "physical-device"), rig.backend(device, "physical-device-path")], [
    undefined,
    undefined,
  ]);
});

Deno.test("one file by two names: the lock is let go and taken again, and the file stays open if the exchange fails", async () => {
  await using rig = new Rig();
  const path = Deno.makeTempFileSync({ prefix: "xenblk-exchange-" });
  try {
    Deno.truncateSync(path, 2 ** 20);
    Deno.linkSync(path, `${path}.link`);
    const imageLocks = new ProcessImageLocks(undefined, () => {});
    const device = rig.attach({ params: path });
    const kind = rig.serve({}, { imageLocks });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    await rig.backendReaches(device, 4);
    rig.guestWrites(device, { state: "4" });
    await rig.idle(device);
    const { beforeOpen } = rig;
    rig.beforeOpen = () => {
      assertEquals(ringsOf(rig), [], "the ring waits");
      return Promise.reject(new Error("its disk is gone"));
    };
    await assertRejects(() => swap(kind, device, `${path}.link`), Error, "its disk is gone");
    assertEquals([ringsOf(rig), rig.disks.length], [[`raw:${path}`], 1]);
    const use = { writes: true, shared: false, by: "another" };
    const { image } = rig.plane.open[0]!.spec.disk;
    assertEquals(await imageLocks.tryLock(image!, use), "xenblk serves it to vbd3/5/51712");
    rig.beforeOpen = beforeOpen;
    assertMatch((await swap(kind, device, `${path}.link`)).now, /\.link /);
    assertEquals(ringsOf(rig), [`raw:${path}.link`]);
    assertEquals(await imageLocks.tryLock(image!, use), "xenblk serves it to vbd3/5/51712");
  } finally {
    for (const name of [path, `${path}.link`]) Deno.removeSync(name);
  }
});

Deno.test("two images of one daemon: the old one is closed first, and opened again if the exchange fails", async () => {
  await using rig = new Rig();
  const open: string[] = [];
  const openDaemonDisk = async ({ target }: DiskRequest): Promise<Disk> => {
    if (target === "/broken") throw new XenblkError("Cannot open image qcow2:/broken: no such node");
    assertEquals(open, [], "one at a time");
    open.push(target);
    const disk = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
    return {
      properties: disk.properties,
      description: `qcow2:${target} (daemon)`,
      attachment: (lane) => disk.attachment(lane),
      [Symbol.asyncDispose]: () => Promise.resolve(void open.splice(open.indexOf(target), 1)),
    };
  };
  const device = rig.attach({ params: "qcow2:/a" });
  const kind = rig.serve({ maxQueues: 2 }, { openDisk: openDaemonDisk });
  rig.guestWrites(device, { ...TWO_RINGS, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  await assertRejects(() => swap(kind, device, "qcow2:/broken"), XenblkError, "no such node");
  await until("both rings are open", () => ringsOf(rig).length === 2);
  await rig.idle(device);
  assertEquals([ringsOf(rig), open, rig.backend(device, "params")], [["qcow2:/a", "qcow2:/a"], ["/a"], "qcow2:/a"]);
  assertMatch((await swap(kind, device, "qcow2:/b")).now, /^qcow2:\/b/);
  assertEquals([ringsOf(rig), open, rig.backend(device, "params")], [["qcow2:/b", "qcow2:/b"], ["/b"], "qcow2:/b"]);
});

for (const engine of ["auto", "qemu"] as const) {
  Deno.test(`one daemon has one image of a device at a time, whatever names it: engine ${engine}`, async () => {
    const folder = Deno.makeTempDirSync({ prefix: "xenblk-exchange-" });
    try {
      await using rig = new Rig();
      // A raw base that leads to its overlay; with the engine of the daemon it needs no overlay.
      const base = `${folder}/base.img`;
      Deno.writeFileSync(base, new Uint8Array(1 << 20));
      if (engine === "auto") await noteOverlay(folder);
      const open: string[] = [];
      const openDaemonDisk = async ({ target }: DiskRequest): Promise<Disk> => {
        assertEquals(open, [], "one at a time");
        open.push(target);
        const disk = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
        return {
          properties: disk.properties,
          description: `${target} (daemon)`,
          attachment: (lane) => disk.attachment(lane),
          [Symbol.asyncDispose]: () => Promise.resolve(void open.splice(open.indexOf(target), 1)),
        };
      };
      const device = rig.attach({ params: engine === "auto" ? "qcow2:/a" : "/a" });
      const kind = rig.serve({ engine }, { openDisk: openDaemonDisk });
      rig.guestWrites(device, { ...RING_NODES, state: "3" });
      await rig.backendReaches(device, 4);
      rig.guestWrites(device, { state: "4" });
      await rig.idle(device);
      await swap(kind, device, base);
      assertEquals([open, rig.backend(device, "params")], [[base], base]);
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  });
}

/** A snapshot of `base.img`: an overlay beside it, of which a note tells. */
async function noteOverlay(folder: string): Promise<void> {
  const overlay = new Uint8Array(512);
  const view = new DataView(overlay.buffer);
  const [magic, backingAt, nameAt] = [0x514649fb, 8, 104];
  view.setUint32(0, magic);
  view.setBigUint64(backingAt, BigInt(nameAt));
  view.setUint32(backingAt + 8, "base.img".length);
  overlay.set(new TextEncoder().encode("base.img"), nameAt);
  Deno.writeFileSync(`${folder}/base.one.qcow2`, overlay);
  const created = new Date().toISOString();
  const files = { base: "base.img", baseFormat: "raw", overlay: "base.one.qcow2" };
  await writeNote(folder, { version: 1, snapshot: "one", created, ...files });
}

Deno.test("what the guest was told must hold: sectors, flushes, rings and the right to write", async () => {
  await using rig = new Rig();
  const { kind, device } = await connected(rig);
  for (
    const [change, reason] of [
      [{ logicalSectorBytes: 4096 }, /its sectors have 4096 bytes, and the guest was told 512/],
      [{ readOnly: true }, /it is read-only, and the guest writes to the disk/],
      [{ mostChannels: 1 }, /it takes 1 rings, and the guest has 2/],
      [{ sectors: 100 }, /it has 50.0 KiB, and the disk has 1.0 MiB/],
    ] as const
  ) {
    rig.changeProperties = change;
    assertMatch(errorText(await assertRejects(() => swap(kind, device))), reason);
  }
  rig.changeProperties = {};
  rig.toolstack.write(`${backendPath(device)}/feature-flush-cache`, "0");
  assertMatch(errorText(await assertRejects(() => swap(kind, device))), /the guest was told that it need not flush/);
  assertEquals([ringsOf(rig), rig.openDisks], [["null:1M", "null:1M"], 1]);
});
