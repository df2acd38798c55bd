/**
 * When a device locks its image: from connecting to disconnecting, and not while the disk is only offered; what a
 * second user of the same image gets; and that a device that goes on where another process left it waits for the lock.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type ImageLocks, ProcessImageLocks } from "../../lib/storage/image/lock.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import type { Xenstore } from "../../lib/hypervisor.ts";
import { faultyStore, type Judge } from "./faulty_store.ts";
import { DOM0, FAST_CLOCK, Rig, RING_NODES, until } from "./rig.ts";

const silent = (): void => {};

/** A file of 1 MiB, and a symbolic link to it. */
class TwoNames implements Disposable {
  readonly directory = Deno.makeTempDirSync();
  readonly path = `${this.directory}/disk.img`;
  readonly link = `${this.directory}/link.img`;

  constructor() {
    Deno.writeFileSync(this.path, new Uint8Array(1 << 20));
    Deno.symlinkSync(this.path, this.link);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.directory, { recursive: true });
  }
}

Deno.test("of two devices with one image both are offered, one connects, and the other waits for its end, saying who it is", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const first = rig.attach({ vdev: "xvda", params: `raw:${names.path}` });
  const second = rig.attach({ vdev: "xvdb", params: `raw:${names.link}` });
  rig.serve({}, { imageLocks: new ProcessImageLocks(undefined, silent), clock: FAST_CLOCK });
  await rig.backendReaches(first, 2);
  await rig.backendReaches(second, 2);
  const frontend = rig.frontend(first);
  await frontend.connect();
  rig.guestWrites(second, { ...RING_NODES, state: "3" });
  const waits = `It waits for image ${names.link}: xenblk serves it to vbd3/5/${first.vdev}`;
  await until("it says that it waits", () => rig.backend(second, "error")?.startsWith(waits) === true);
  await rig.idle(second, { as: /: wait$/ });
  assertEquals([rig.plane.open.length, rig.backend(second, "state")], [1, "2"]);

  await frontend.disconnect();
  await rig.backendReaches(second, 4);
  assertEquals([rig.plane.open.length, rig.backend(second, "error")], [1, undefined]);
  assertEquals(rig.lines.filter((line) => line.includes("waits for image")).length, 1, "said once");
});

Deno.test("readers share an image, and so do writers whose mode is w!", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const params = `raw:${names.path}`;
  rig.serve({}, { imageLocks: new ProcessImageLocks(undefined, silent), clock: FAST_CLOCK });
  const readers = ["xvda", "xvdb"].map((vdev) => rig.attach({ vdev, params, readOnly: true }));
  const frontends = readers.map((device) => rig.frontend(device));
  for (const frontend of frontends) await frontend.connect();
  for (const frontend of frontends) await frontend.disconnect();
  const writers = ["xvdc", "xvdd"].map((vdev) => rig.attach({ vdev, params }));
  for (const device of writers) {
    rig.toolstack.write(`${backendPath(device)}/mode`, "w!");
    await rig.frontend(device).connect();
  }
  assertEquals(rig.plane.open.length, 2);
});

Deno.test("a device that another process left Connected waits for the image as long as it takes", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  const before = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await before.close({ leave: "connected", timeoutMs: 0 }, 30_000);

  let held = true;
  let tries = 0;
  const dying: ImageLocks = {
    tryLock: () => {
      tries++;
      return Promise.resolve(held ? "process 12 (deno) uses it" : { [Symbol.asyncDispose]: () => Promise.resolve() });
    },
  };
  rig.lines.length = 0;
  rig.serve({}, { imageLocks: dying, clock: FAST_CLOCK });
  await until("it was tried for long", () => tries > 100);
  assertEquals([rig.backend(device, "state"), rig.plane.open.length], ["4", 0]);
  assertStringIncludes(rig.backend(device, "error") ?? "", "process 12 (deno) uses it");
  assertEquals(rig.lines.filter((line) => line.includes("process 12")).length, 1, "said once");
  held = false;
  await until("it is served", () => rig.plane.open.length === 1);
  await until("the error is gone", () => rig.backend(device, "error") === undefined);
  assertEquals(rig.backend(device, "state"), "4");
});

Deno.test("a failure that is over gives way in the status to what the device waits for", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.guestWrites(device, { ...RING_NODES, state: "4" });
  let failures = 0;
  const judge: Judge = ({ path }) => path.endsWith("/online") && failures++ === 0 ? "EIO" : undefined;
  const busy: ImageLocks = { tryLock: () => Promise.resolve("process 12 (deno) uses it") };
  const openXenstore = (): Xenstore => faultyStore(rig.simulated.connect(DOM0), judge);
  const kind = rig.serve({}, { imageLocks: busy, clock: FAST_CLOCK, openXenstore });
  await rig.says("it will be retried");
  await until("it waits for the image", () => kind.status()[0]!.error?.includes("uses it") === true);
});

Deno.test("a device whose image is busy can still be removed", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  const busy: ImageLocks = { tryLock: () => Promise.resolve("process 12 (deno) uses it") };
  const kind = rig.serve({}, { imageLocks: busy, clock: FAST_CLOCK });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.says("waits for image");
  removeDevice(rig.toolstack, device);
  await until("the device is gone", () => kind.status().length === 0);
  assert(rig.openDisks === 0);
});

Deno.test("a toolstack's removal of a device that waits for its image needs no guest and no lock", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  const busy: ImageLocks = { tryLock: () => Promise.resolve("process 12 (qemu) uses it") };
  rig.serve({}, { imageLocks: busy, clock: FAST_CLOCK });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.says("waits for image");
  requestRemoval(rig.toolstack, backendPath(device));
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  assertEquals(rig.openDisks, 0);
});

Deno.test("an image that is locked when the disk is offered is said so, and the toolstack is told when it is free", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  let held = true;
  const locks: ImageLocks = {
    tryLock: () =>
      Promise.resolve(held ? "process 12 (qemu) uses it" : { [Symbol.asyncDispose]: () => Promise.resolve() }),
  };
  rig.serve({}, { imageLocks: locks, clock: FAST_CLOCK });
  await rig.says("waits for image");
  await rig.idle(device, { as: /: wait$/ });
  assertEquals(
    rig.backend(device, "error"),
    `It waits for image ${names.path}: process 12 (qemu) uses it; it connects when that use ends`,
  );
  assertEquals([rig.backend(device, "hotplug-status"), rig.backend(device, "hotplug-error")], [undefined, undefined]);
  held = false;
  await until("the toolstack is told", () => rig.backend(device, "hotplug-status") === "connected");
  assertEquals([rig.backend(device, "error"), rig.lines.filter((line) => line.includes("waits for")).length], [
    undefined,
    1,
  ]);
});

Deno.test("an image that another guest of this host uses is an error at once, for the toolstack too", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  const busy: ImageLocks = { tryLock: () => Promise.resolve("process 12 (qemu) uses it") };
  const searched: unknown[] = [];
  rig.serve({}, {
    imageLocks: busy,
    clock: FAST_CLOCK,
    findExcludingDisk: (_store, user, query) => {
      searched.push([user.vdev, query]);
      const text = "xvda of db (domain 6) uses it (vbd3, mode w)";
      return Promise.resolve({ text, file: query.files[0]! });
    },
  });
  await until("the toolstack is told", () => rig.backend(device, "hotplug-status") === "error");
  assertEquals(searched[0], [device.vdev, { files: [{ path: names.path, writable: true }], shared: false }]);
  const error = `Cannot write to image ${names.path}: xvda of db (domain 6) uses it (vbd3, mode w)`;
  assertStringIncludes(rig.backend(device, "hotplug-error")!, error);
  assertEquals([rig.backend(device, "state"), rig.plane.queues.length], ["2", 0]);
  const lines = rig.lines.length;
  await until("it was tried again", () => searched.length >= 3);
  assertEquals([rig.disks.length, rig.lines.length], [1, lines], "quietly");
});

Deno.test("a disk that another guest used is offered when that guest has ended", async () => {
  using names = new TwoNames();
  await using rig = new Rig();
  const device = rig.attach({ params: `raw:${names.path}` });
  let held = true;
  const text = "xvda of db (domain 6) uses it (vbd, mode w)";
  rig.toolstack.write(`${backendPath(device)}/mode`, "r");
  // A backend that takes no locks has it: the nodes alone say so.
  const other = { text, file: { path: names.path, writable: false } };
  rig.serve({}, { clock: FAST_CLOCK, findExcludingDisk: () => Promise.resolve(held ? other : undefined) });
  await until("the toolstack is told", () => rig.backend(device, "hotplug-status") === "error");
  assertStringIncludes(
    rig.backend(device, "hotplug-error")!,
    "detach it there first, or attach it read-only there too",
  );
  held = false;
  await until("it is offered", () => rig.backend(device, "hotplug-status") === "connected");
  assertEquals([rig.backend(device, "error"), rig.backend(device, "hotplug-error")], [undefined, undefined]);
});
