/**
 * Limits and weight of a disk: from its settings to its rings, changed while they are served, and kept with the disk, so
 * that the next process finds them however the last one ended.
 */

import { assertEquals, assertThrows } from "@std/assert";
import type { BackendKind } from "../../lib/backend/kind.ts";
import { LIVE_NODE, liveText, parseLive } from "../../lib/backend/live_settings.ts";
import { DEFAULT_SETTINGS } from "../../lib/backend/settings.ts";
import { XenblkError } from "../../lib/errors.ts";
import { XenstoreError } from "../../lib/hypervisor.ts";
import type { FilterAttachment } from "../../lib/storage/filter/filter.ts";
import { LiveValues } from "../../lib/storage/filter/live.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import type { DeviceAddress } from "../../lib/xenbus/paths.ts";
import { Rig, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;
const NONE = {
  iops: 0,
  iopsBurst: 0,
  bytesPerSecond: 0,
  bytesBurst: 0,
  readIops: 0,
  writeIops: 0,
  readBytesPerSecond: 0,
  writeBytesPerSecond: 0,
};

/** What the last ring's reactor sees: requests and bytes per second. */
function limitsOfRing(rig: Rig): number[] {
  const values = new LiveValues(rig.plane.queues.at(-1)!.spec.throttle!.live);
  values.refresh();
  return [values.numbers[0]!, values.numbers[2]!];
}

/** The kind's only device: its limits and its weight. */
function reported(kind: BackendKind): unknown[] {
  const [{ limits, weight } = {}] = kind.reports();
  return [limits, weight];
}

/** A disk whose guest has connected. */
async function connected(rig: Rig, request: Parameters<Rig["attach"]>[0] = {}): Promise<DeviceAddress> {
  const device = rig.attach(request);
  await rig.frontend(device).connect();
  return device;
}

Deno.test("a disk begins with the limits of its settings, and a change reaches its open rings", async () => {
  await using rig = new Rig();
  const kind = rig.serve({ limits: { iops: 700 } });
  const device = await connected(rig);
  assertEquals([limitsOfRing(rig), rig.backend(device, LIVE_NODE)], [[700, 0], undefined], "nothing was chosen for it");
  kind.change(device, { limits: { bytesPerSecond: "1M" } });
  assertEquals([limitsOfRing(rig), reported(kind)], [
    [700, 2 ** 20],
    [{ ...NONE, iops: 700, bytesPerSecond: 2 ** 20 }, 100],
  ]);
  kind.change(device, { limits: { iops: 0, bytesPerSecond: 0 } });
  assertEquals([limitsOfRing(rig), reported(kind)], [[0, 0], [undefined, 100]]);
});

Deno.test("the next process serves the disk with the limits and the weight that were set", async () => {
  await using rig = new Rig();
  const first = rig.serve({ limits: { iops: 700 }, weight: 50 });
  const device = await connected(rig);
  first.change(device, { limits: { iops: 500 } });
  first.change(device, { weight: 900 });
  // Nothing is written at the end: a process that is killed leaves as much.
  const written = rig.writes.length;
  assertEquals(await first.close(STAY, 5000), true);
  assertEquals(rig.writes.slice(written), []);
  for (const settings of [{}, { limits: { iops: 3, bytesPerSecond: 4096 }, weight: 7 }]) {
    const next = rig.serve(settings);
    const rings = rig.plane.queues.length;
    await until("the next one serves it", () => rig.plane.queues.length > rings);
    assertEquals([limitsOfRing(rig), reported(next)], [[500, 0], [{ ...NONE, iops: 500 }, 900]]);
    assertEquals(await next.close(STAY, 5000), true);
  }
});

Deno.test("what was set ends with the disk: one attached later has the settings of all", async () => {
  await using rig = new Rig();
  const kind = rig.serve({ weight: 50 });
  const device = await connected(rig);
  kind.change(device, { limits: { iops: 500 }, weight: 900 });
  removeDevice(rig.toolstack, device);
  await until("it is gone", () => kind.reports().length === 0);
  assertEquals(await connected(rig), device);
  assertEquals([reported(kind), rig.backend(device, LIVE_NODE)], [[undefined, 50], undefined]);
});

Deno.test("what was chosen at attach counts more than the settings of all, limit by limit", async () => {
  await using rig = new Rig();
  const text = liveText({ limits: { iops: 9, bytesBurst: "4K" } })!;
  const kind = rig.serve({ limits: { iops: 700, bytesPerSecond: 512 }, weight: 50 });
  await connected(rig, { kept: { [LIVE_NODE]: text } });
  assertEquals(reported(kind), [{ ...NONE, iops: 9, bytesPerSecond: 512, bytesBurst: 4096 }, 50]);
});

Deno.test("limits of reads and of writes are kept, and end those of both that other places have", async () => {
  await using rig = new Rig();
  const first = rig.serve({ limits: { iops: 700, bytesPerSecond: 512 } });
  const device = await connected(rig);
  first.change(device, { limits: { readIops: 50, writeBytesPerSecond: "1K" } });
  const limits = { ...NONE, readIops: 50, writeBytesPerSecond: 1024 };
  assertEquals(reported(first)[0], limits);
  assertEquals(await first.close(STAY, 5000), true);
  const next = rig.serve({ limits: { iops: 3, readBytesPerSecond: 4096 } });
  const rings = rig.plane.queues.length;
  await until("the next one serves it", () => rig.plane.queues.length > rings);
  assertEquals(reported(next)[0], limits);
  const both = { limits: { iops: 5, writeIops: 5 } };
  assertEquals(
    assertThrows(() => next.change(device, both), XenblkError, "requests are limited together").kind,
    "usage",
  );
  assertEquals(reported(next)[0], limits);
});

Deno.test("the node of an earlier version, which knew no limits of reads and of writes, is read", async () => {
  await using rig = new Rig();
  const kind = rig.serve({ limits: { readIops: 700, readBytesPerSecond: 512 } });
  const text = JSON.stringify({ limits: { iops: 9, iopsBurst: 0, bytesPerSecond: 0, bytesBurst: 0 } });
  await connected(rig, { kept: { [LIVE_NODE]: text } });
  assertEquals(reported(kind)[0], { ...NONE, iops: 9, readBytesPerSecond: 512 });
});

Deno.test("what is set while xenstored is away is kept once it is back", async () => {
  await using rig = new Rig();
  const kind = rig.serve();
  const device = await connected(rig);
  rig.simulated.stop();
  kind.change(device, { limits: { iops: 500 } });
  assertEquals(limitsOfRing(rig), [500, 0], "it holds at once");
  rig.simulated.start();
  await until("it is kept", () => rig.backend(device, LIVE_NODE) !== undefined);
  assertEquals(parseLive(rig.backend(device, LIVE_NODE)), { limits: { ...NONE, iops: 500 } });
});

Deno.test("a write that fails is repeated", async () => {
  await using rig = new Rig();
  let failures = 2;
  const kind = rig.serve({}, {
    openXenstore: () => {
      const store = rig.simulated.connect(0 as never);
      const transaction = store.transaction.bind(store);
      store.transaction = (body) =>
        transaction((inside) =>
          body({
            ...inside,
            read: (path) => inside.read(path),
            remove: (path) => inside.remove(path),
            write: (path, value) => {
              if (path.endsWith(LIVE_NODE) && failures-- > 0) throw new XenstoreError("EIO", "write", path);
              inside.write(path, value);
            },
          })
        );
      return store;
    },
  });
  const device = await connected(rig);
  kind.change(device, { weight: 300 });
  await until("it is kept", () => rig.backend(device, LIVE_NODE) === '{"weight":300}');
  assertEquals(failures, -1);
});

Deno.test("a filter throttle of the disk's own has the limits, where it is in the stack", async () => {
  await using rig = new Rig();
  const settings = { filters: ["cow,size=1M", "throttle,iops=100", "throttle"] };
  const first = rig.serve({ ...settings, limits: { bytesPerSecond: 512 } });
  const device = await connected(rig);
  const inStack = async (): Promise<unknown> => {
    const outer = await rig.plane.queues.at(-1)!.spec.disk.attachment(0) as FilterAttachment;
    return (outer.inner as FilterAttachment).options;
  };
  assertEquals([limitsOfRing(rig), await inStack()], [[0, 0], { ...NONE, iops: 100, bytesPerSecond: 512 }]);
  assertEquals(first.heldBy(device)!.live.limitedBy, "the first of 2 filters throttle");
  first.change(device, { limits: { iops: 5 } });
  assertEquals([limitsOfRing(rig), reported(first)], [[0, 0], [{ ...NONE, iops: 5, bytesPerSecond: 512 }, 100]]);
  assertEquals(await first.close(STAY, 5000), true);
  rig.serve(settings);
  await until("the second one serves it", () => rig.plane.queues.length === 2);
  assertEquals(await inStack(), { ...NONE, iops: 5, bytesPerSecond: 512 });
});

Deno.test("limits that a filter has wait for the filters, others can be set whatever is wrong with the disk", async () => {
  await using rig = new Rig();
  const kind = rig.serve({}, {
    settingsFor: ({ vdev }) => ({
      ...DEFAULT_SETTINGS,
      filters: vdev === 51712 ? ["throttle,iops=x"] : ["cow,size=x"],
    }),
  });
  const [own, other] = ["xvda", "xvdb"].map((vdev) => rig.attach({ vdev }));
  await until("both have failed", () => kind.reports().filter(({ error }) => error !== undefined).length === 2);
  kind.change(other!, { limits: { iops: 5 } });
  const change = (): void => kind.change(own!, { limits: { iops: 5 } });
  const error = assertThrows(change, XenblkError, "Cannot set limits: the disk's filter throttle has them, and its");
  assertEquals([error.kind, kind.reports().map(({ limits }) => limits?.iops)], ["failed", [undefined, 5]]);
});

Deno.test("limits and weight stay when the disk gets another image under its guest", async () => {
  await using rig = new Rig();
  const kind = rig.serve();
  const device = await connected(rig, { params: "null:1M" });
  kind.change(device, { limits: { iops: 500 }, weight: 300 });
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  const [before] = rig.plane.open;
  await kind.find(device)!.exchange({ params: "memory:1M", timeoutMs: 30_000 });
  const [after] = rig.plane.open;
  assertEquals([after === before, after!.spec.weight === before!.spec.weight], [false, true]);
  kind.change(device, { limits: { bytesPerSecond: 4096 } });
  assertEquals([limitsOfRing(rig), reported(kind)[1]], [[500, 4096], 300]);
});

Deno.test("what is not allowed changes nothing", async () => {
  await using rig = new Rig();
  const kind = rig.serve();
  const device = await connected(rig);
  for (const changes of [{ limits: { iops: -1 }, weight: 7 }, { limits: { iops: 1 }, weight: 0 }]) {
    assertEquals(assertThrows(() => kind.change(device, changes), XenblkError).kind, "usage");
  }
  assertEquals([reported(kind), rig.backend(device, LIVE_NODE)], [[undefined, 100], undefined]);
});

Deno.test("what makes no sense in the node was not chosen", () => {
  const nothing = [
    undefined,
    "",
    "{",
    "7",
    "null",
    "[]",
    '{"weight":0}',
    '{"weight":"9"}',
    '{"limits":7}',
    '{"limits":{"x":1}}',
  ];
  for (const text of nothing) assertEquals(parseLive(text), {}, text);
  assertEquals(parseLive('{"weight":9,"limits":{"iops":-5}}'), { weight: 9 });
  assertEquals(parseLive('{"limits":{"iops":"5","bytesBurst":7}}'), { limits: { bytesBurst: 7 } });
  assertEquals([liveText({}), liveText({ weight: 5 })], [undefined, '{"weight":5}']);
});
