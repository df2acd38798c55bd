/**
 * When a device locks its image: from connecting to disconnecting, and not while the disk is only offered; what a
 * second user of the same image gets; and that a device that goes on where another process left it waits for the lock.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { type ImageLocks, ProcessImageLocks } from "../../lib/storage/image/lock.ts";
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

Deno.test("of two devices with one image both are offered, one connects, and the other one's error names the user", async () => {
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
  await rig.backendReaches(second, 5);
  const error = rig.backend(second, "error") ?? "";
  assertStringIncludes(error, `Cannot write to image ${names.link}: this process serves it to vbd3/5/${first.vdev}`);
  assertEquals(rig.plane.open.length, 1);

  await frontend.disconnect();
  rig.guestWrites(second, { state: "6" });
  await rig.backendReaches(second, 6);
  rig.guestWrites(second, { state: "1" });
  await rig.backendReaches(second, 2);
  await rig.frontend(second).connect();
  assertEquals([rig.plane.open.length, rig.backend(second, "error")], [1, undefined]);
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
  await rig.backendReaches(device, 5);
  rig.toolstack.remove(backendPath(device));
  await until("the device is gone", () => kind.status().length === 0);
  assert(rig.openDisks === 0);
});
