/**
 * Filters of a device: its nodes say how the image is used, what was changed stays as long as the device, and writes that
 * a process kept in its memory are not silently lost with it.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ProcessImageLocks } from "../../lib/storage/image/lock.ts";
import type { FilterAttachment } from "../../lib/storage/filter/filter.ts";
import type { DeviceAddress } from "../../lib/xenbus/paths.ts";
import { Rig, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;

/** How the last ring reaches its disk. */
async function lastAttachment(rig: Rig): Promise<FilterAttachment> {
  return await rig.plane.queues.at(-1)!.spec.disk.attachment(0) as FilterAttachment;
}

async function connected(rig: Rig, device: DeviceAddress): Promise<ReturnType<Rig["frontend"]>> {
  const frontend = rig.frontend(device);
  await frontend.connect();
  return frontend;
}

Deno.test("the image behind cow is opened for reading, and the nodes say so beside the guest's mode", async () => {
  await using rig = new Rig();
  rig.serve({ filters: ["throttle", "cow,size=1M"] });
  const [writer, reader] = [rig.attach({ vdev: "xvda" }), rig.attach({ vdev: "xvdb", readOnly: true })];
  for (const device of [writer, reader]) await connected(rig, device);
  assertEquals(rig.disks.map(({ request }) => request.readOnly), [true, true]);
  const nodes = (device: DeviceAddress): unknown[] =>
    ["mode", "image-mode", "info", "feature-discard"].map((name) => rig.backend(device, name));
  assertEquals(nodes(writer), ["w", "r", "0", "1"]);
  assertEquals(nodes(reader), ["r", undefined, "4", "0"]);
});

Deno.test("guests share an image behind cow, and its lock", async () => {
  await using rig = new Rig();
  const path = await Deno.makeTempFile();
  using _image = { [Symbol.dispose]: () => Deno.removeSync(path) };
  await Deno.truncate(path, 1 << 20);
  rig.serve({ filters: ["cow,size=1M"] }, { imageLocks: new ProcessImageLocks(undefined, () => {}) });
  for (const vdev of ["xvda", "xvdb"]) await connected(rig, rig.attach({ vdev, params: `raw:${path}` }));
  assertEquals([rig.plane.open.length, rig.lines.filter((line) => line.includes("waits"))], [2, []]);
});

Deno.test("options that were changed, and what cow keeps, stay when the guest connects again", async () => {
  await using rig = new Rig();
  const kind = rig.serve({ filters: ["throttle", "cow,size=1M"] });
  const device = rig.attach();
  assertEquals(kind.filtersOf(device), [], "nothing is open yet");
  const frontend = await connected(rig, device);
  const [throttle] = kind.filtersOf(device);
  throttle!.set({ iops: 7 });
  const before = await lastAttachment(rig);
  await frontend.disconnect();
  await frontend.reconnect();
  const after = await lastAttachment(rig);
  assertEquals([rig.disks.length, after.options["iops"], after.live === before.live], [2, 7, true]);
  const [overlayBefore, overlayAfter] = [before, after].map(({ inner }) => inner as FilterAttachment);
  assert(overlayBefore!.state === overlayAfter!.state);
  assertEquals([overlayAfter!.lost, rig.backend(device, "error")], [false, undefined]);
});

for (const filters of [["cow,size=1M"], []]) {
  const next = filters.length === 0 ? "has no such filter" : "has the same filter";
  Deno.test(`a guest whose writes ended with a process gets no older ones from the next, which ${next}`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const first = rig.serve({ filters: ["cow,size=1M"] });
    await connected(rig, device);
    assertEquals(await first.close(STAY, 5000), true);
    const second = rig.serve({ filters });
    await until("the second one serves it", () => rig.plane.queues.length === 2);
    assertEquals(second.status()[0]!.latched, true);
    await until("it says why", () => rig.backend(device, "error") !== undefined);
    assertStringIncludes(rig.backend(device, "error")!, "Cannot use it: the process that kept its writes in memory");
    assertStringIncludes(rig.backend(device, "error")!, "attach it anew");
    if (filters.length > 0) assertEquals((await lastAttachment(rig)).lost, true);
  });
}

Deno.test("behind readonly there is nothing to lose", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const first = rig.serve({ filters: ["readonly"] });
  await connected(rig, device);
  assertEquals(rig.backend(device, "image-mode"), "r");
  assertEquals(await first.close(STAY, 5000), true);
  const second = rig.serve({ filters: ["readonly"] });
  await until("the second one serves it", () => rig.plane.queues.length === 2);
  assertEquals(second.status()[0]!.latched, false);
});

Deno.test("a filter that is wrong is reported as the device's error", async () => {
  await using rig = new Rig();
  rig.serve({ filters: ["cow,size=1"] });
  const device = rig.attach();
  await until("it says so", () => rig.backend(device, "error") !== undefined);
  assertStringIncludes(rig.backend(device, "error")!, "Cannot use filter cow: size takes a size such as 64K");
});

Deno.test("a device that is given up because of what a filter holds ends after all, when that is released", async () => {
  await using rig = new Rig();
  const kind = rig.serve({ filters: ["hang", "throttle,iops=1"] });
  const device = rig.attach();
  await connected(rig, device);
  const [hang, throttle] = kind.filtersOf(device);
  const released = (): boolean => hang!.options["rate"] === 0 && throttle!.options["iops"] === 0;
  rig.plane.queues[0]!.close = (): Promise<void> => until("filters hold nothing", released);
  assertEquals(released(), false);
  assertEquals([await kind.close(STAY, 50), kind.stuck], [true, []]);
});

Deno.test("without filters nothing of them stays open, however often the guest connects", async () => {
  await using rig = new Rig();
  const holds = new Set<AsyncDisposable>();
  rig.serve({}, { holds });
  const frontend = await connected(rig, rig.attach());
  await frontend.disconnect();
  await frontend.reconnect();
  assertEquals(holds.size, 0);
});
