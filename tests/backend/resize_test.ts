/**
 * A disk that grows under its guest: the request, the order in which the rings and the guest learn the new size, and
 * what is refused.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import { XenblkError } from "../../lib/errors.ts";
import { resizeDevice } from "../../lib/toolstack/resize.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { DOM0, Rig, RING_NODES, until } from "./rig.ts";

const PATIENT = { timeoutMs: 30_000, clock: SYSTEM_CLOCK } as const;
const AT_ONCE = { timeoutMs: 20, clock: SYSTEM_CLOCK } as const;
const MIB = 2 ** 20;

/** A file that goes with the test. */
class Image implements Disposable {
  readonly path = Deno.makeTempFileSync({ prefix: "xenblk-resize-" });

  constructor(sizeBytes: number) {
    Deno.truncateSync(this.path, sizeBytes);
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path);
  }
}

Deno.test("the size of an image that has grown goes to the rings, then to the guest, with the state written again", async () => {
  await using rig = new Rig();
  using image = new Image(MIB);
  const device = rig.attach({ params: image.path });
  const kind = rig.serve();
  await rig.frontend(device).connect();
  await rig.idle(device);
  const [queue] = rig.plane.open;
  Deno.truncateSync(image.path, 3 * MIB);
  rig.writes.length = 0;
  const { grow } = queue!;
  queue!.grow = (sectors): Promise<void> => {
    assertEquals(rig.backend(device, "sectors"), "2048", "the rings come first");
    queue!.sectors = sectors;
    return Promise.resolve();
  };
  assertEquals(await resizeDevice(rig.toolstack, device, PATIENT), { before: 2048, now: 6144 });
  assertEquals(queue!.sectors, 6144);
  assertEquals(rig.writes.map(({ path, value }) => [path.split("/").at(-1), value]), [
    ["sectors", "6144"],
    ["state", "4"],
    ["resize", "done"],
  ]);
  assertEquals([rig.backend(device, "resize"), rig.plane.queues.length, rig.openDisks], [undefined, 1, 1]);
  assertMatch(kind.status()[0]!.image!, /3\.0 MiB/);
  assert(rig.lines.some((line) => line.endsWith("grown from 1.0 MiB to 3.0 MiB")), rig.lines.join("\n"));

  rig.writes.length = 0;
  queue!.grow = grow;
  assertEquals(await resizeDevice(rig.toolstack, device, PATIENT), { before: 6144, now: 6144 });
  assertEquals(rig.writes.map(({ path }) => path.split("/").at(-1)), ["resize"], "nothing is written twice");
});

Deno.test("an image that became smaller, and a disk that has no file, stay as they are, with the reason", async () => {
  await using rig = new Rig();
  using image = new Image(2 * MIB);
  const shrunk = rig.attach({ params: image.path });
  const fixed = rig.attach({ params: "null:1M" });
  rig.serve();
  await rig.frontend(shrunk).connect();
  await rig.frontend(fixed).connect();
  Deno.truncateSync(image.path, MIB);
  rig.writes.length = 0;
  const smaller = await assertRejects(() => resizeDevice(rig.toolstack, shrunk, PATIENT), XenblkError);
  assertMatch(
    smaller.message,
    /^Cannot resize xvda of domain 5: Cannot shrink image .* under its guest: it has 1\.0 MiB/,
  );
  const other = await assertRejects(() => resizeDevice(rig.toolstack, fixed, PATIENT), XenblkError);
  assertMatch(other.message, /^Cannot resize xvdb of domain 5: .*only files and block devices change$/);
  assertEquals([rig.backend(shrunk, "sectors"), rig.backend(fixed, "sectors")], ["4096", "2048"]);
  assertEquals(rig.writes.every(({ path }) => path.endsWith("/resize")), true);
  assertEquals(rig.plane.open.map(({ sectors }) => sectors), [4096, 2048]);
});

Deno.test("a disk that is not connected is not resized, and for one that no backend serves the request times out", async () => {
  await using rig = new Rig();
  using image = new Image(MIB);
  const device = rig.attach({ params: image.path });
  const early = await assertRejects(() => resizeDevice(rig.toolstack, device, AT_ONCE), XenblkError);
  assertMatch(early.line, /it is not Connected but Initialising; resize it once the guest is connected to it$/);
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.toolstack.write(`${backendPath(device)}/sectors`, "2048");
  const late = await assertRejects(() => resizeDevice(rig.toolstack, device, AT_ONCE), XenblkError);
  assertEquals([late.exitStatus, rig.backend(device, "resize")], [4, undefined]);
});

Deno.test("a size that could not be written for the guest is written at the next request", async () => {
  await using rig = new Rig();
  using image = new Image(MIB);
  const device = rig.attach({ params: image.path });
  rig.serve();
  await rig.frontend(device).connect();
  await rig.idle(device);
  Deno.truncateSync(image.path, 2 * MIB);
  // Xenstore ends when the rings have grown and the guest has not heard of it.
  const queue = rig.plane.open[0]!;
  const { grow } = queue;
  queue.grow = (sectors): Promise<void> => {
    rig.simulated.stop();
    queue.grow = grow;
    return queue.grow(sectors);
  };
  await assertRejects(() => resizeDevice(rig.toolstack, device, PATIENT), XenblkError);
  rig.simulated.start();
  await until("it is connected again", () => rig.lines.some((line) => line.includes("connected again")));
  assertEquals((await resizeDevice(rig.toolstack, device, PATIENT)).now, 4096);
  assertEquals(rig.backend(device, "sectors"), "4096");
});

Deno.test("a disk that is removed during a resize is reported as removed", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.toolstack.write(`${backendPath(device)}/sectors`, "2048");
  const resized = resizeDevice(rig.toolstack, device, PATIENT);
  const gone = assertRejects(() => resized, XenblkError, "its nodes were removed meanwhile");
  rig.toolstack.remove(backendPath(device));
  assertEquals((await gone).exitStatus, 3);
});

Deno.test("a connection to xenstored that is lost during a resize is reported as lost", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.toolstack.write(`${backendPath(device)}/sectors`, "2048");
  const resized = resizeDevice(rig.toolstack, device, PATIENT);
  const lost = assertRejects(() => resized, XenblkError, "the connection to xenstored is lost");
  rig.simulated.stop();
  await lost;
});

Deno.test("a guest that writes a request of its own into its directory asks for nothing", async () => {
  await using rig = new Rig();
  using image = new Image(MIB);
  const device = rig.attach({ params: image.path });
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  Deno.truncateSync(image.path, 2 * MIB);
  rig.guestWrites(device, { resize: "request", state: "4" });
  await rig.idle(device);
  assertEquals([rig.backend(device, "sectors"), rig.backend(device, "resize")], ["2048", undefined]);
});

Deno.test("what was asked while no process served is answered by the next one", async () => {
  await using rig = new Rig();
  using image = new Image(MIB);
  const device = rig.attach({ params: image.path });
  const first = rig.serve();
  await rig.frontend(device).connect();
  assert(await first.close({ leave: "connected", timeoutMs: 0 }, 30_000));
  Deno.truncateSync(image.path, 2 * MIB);
  const resized = resizeDevice(rig.simulated.connect(DOM0), device, PATIENT);
  rig.serve();
  assertEquals(await resized, { before: 2048, now: 4096 });
  await until("the ring is served with the new size", () => rig.plane.open[0]?.sectors === 4096);
});

Deno.test("a size in the request makes the image so large, if it is larger and the disk can be written to", async () => {
  await using rig = new Rig();
  using image = new Image(MIB);
  const device = rig.attach({ params: image.path });
  const readOnly = rig.attach({ params: image.path, readOnly: true });
  rig.serve();
  await rig.frontend(device).connect();
  await rig.frontend(readOnly).connect();
  await rig.idle(device);
  const to = (sizeBytes: number): Promise<unknown> => resizeDevice(rig.toolstack, device, { ...PATIENT, sizeBytes });
  assertEquals(await to(3 * MIB), { before: 2048, now: 6144 });
  assertEquals([Deno.statSync(image.path).size, rig.plane.open[0]!.sectors], [3 * MIB, 6144]);
  const smaller = await assertRejects(() => to(2 * MIB), XenblkError);
  assertMatch(smaller.message, /Cannot shrink .* from 3\.0 MiB to 2\.0 MiB under its guest; name a larger size/);
  const odd = await assertRejects(() => to(4 * MIB + 1), XenblkError);
  assertMatch(odd.message, /Cannot resize .* to 4194305 bytes; name a multiple of 512 bytes$/);
  const huge = await assertRejects(() => to(2 ** 53 - 512), XenblkError);
  assertMatch(huge.message, /Cannot make image .* 8\.0 PiB large: .*; name a smaller size, or free space/);
  // The file was made larger by hand, and the guest does not know yet: what it has is not cut off.
  Deno.truncateSync(image.path, 8 * MIB);
  const cut = await assertRejects(() => to(5 * MIB), XenblkError);
  assertMatch(cut.message, /Cannot shrink image .* from 8\.0 MiB to 5\.0 MiB/);
  const fixed = await assertRejects(
    () => resizeDevice(rig.toolstack, readOnly, { ...PATIENT, sizeBytes: 16 * MIB }),
    XenblkError,
  );
  assertMatch(fixed.message, /Cannot resize .*: it is read-only; attach it so that it can be written to$/);
  assertEquals(Deno.statSync(image.path).size, 8 * MIB);
});
