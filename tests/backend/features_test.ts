/**
 * The transport features as xenstore and the data plane see them: what is offered under which settings, disk and nodes,
 * what a frontend then gets, and that a frontend keeps what an earlier process promised it.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import type { DeviceSettings } from "../../lib/backend/settings.ts";
import { Latch, LATCH_BYTES } from "../../lib/dataplane/latch.ts";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { Rig, RING_NODES, until } from "./rig.ts";

const FEATURES = [
  "max-ring-page-order",
  "max-ring-pages",
  "multi-queue-max-queues",
  "feature-max-indirect-segments",
  "feature-discard",
  "discard-granularity",
  "discard-alignment",
  "discard-secure",
];

/** What a device with these settings publishes. */
async function published(
  settings: Partial<DeviceSettings>,
  params: string,
  nodes: Record<string, string> = {},
  readOnly = false,
): Promise<Record<string, string>> {
  await using rig = new Rig();
  const device = rig.attach({ params, readOnly });
  for (const [name, value] of Object.entries(nodes)) rig.toolstack.write(`${backendPath(device)}/${name}`, value);
  rig.serve(settings);
  await rig.backendReaches(device, 2);
  return Object.fromEntries(
    FEATURES.flatMap((name) => {
      const value = rig.backend(device, name);
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

Deno.test("everything is offered by default, each can be limited, and none is promised that is switched off", async () => {
  const all = await published({ maxQueues: 3 }, "memory:1M");
  assertEquals([all["max-ring-page-order"], all["max-ring-pages"]], ["4", "16"]);
  assertEquals([all["multi-queue-max-queues"], all["feature-max-indirect-segments"]], ["3", "256"]);
  assertEquals([all["feature-discard"], all["discard-alignment"], all["discard-secure"]], ["1", "0", "0"]);
  assert(Number(all["discard-granularity"]) >= 512);
  const off = { maxRingPageOrder: 0, maxQueues: 1, maxIndirectSegments: 0, discard: false };
  assertEquals(await published(off, "memory:1M"), {
    "max-ring-page-order": "0",
    "max-ring-pages": "1",
    "feature-discard": "0",
  });
});

Deno.test("discards are offered where the disk takes them and neither its nodes nor the settings forbid it", async () => {
  const offered = async (...args: Parameters<typeof published>): Promise<string> =>
    (await published(...args))["feature-discard"]!;
  assertEquals(await offered({}, "memory:1M"), "1");
  assertEquals(await offered({}, "memory:1M", { "discard-enable": "0" }), "0");
  assertEquals(await offered({ discard: true }, "memory:1M", { "discard-enable": "0" }), "1");
  assertEquals(await offered({ discard: false }, "memory:1M", { "discard-enable": "1" }), "0");
  assertEquals(await offered({}, "memory:1M", {}, true), "0", "read-only");
});

Deno.test("each queue of the frontend becomes a ring of the data plane, with its pages and its event channel", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "memory:1M" });
  const kind = rig.serve({ maxQueues: 4, maxIndirectSegments: 64 });
  const frontend = rig.frontend(device, { queues: 3, ringPages: 4, segments: 256 });
  const { rings, segments } = await frontend.connect();
  assertEquals([rings.length, segments], [3, 64]);
  const specs = rig.plane.open.map(({ spec }) => spec);
  assertEquals(
    specs.map(({ ringRefs, eventChannel }) => [ringRefs, eventChannel]),
    rings.map(({ pages, port }) => [pages.refs, port]),
  );
  assertEquals(specs.map(({ label }) => label.slice(-7)), ["queue 0", "queue 1", "queue 2"]);
  assertEquals(
    specs.map(({ maxIndirectSegments, discard }) => [maxIndirectSegments, discard]),
    Array(3).fill([64, true]),
  );
  assertEquals(new Set(specs.map(({ stats }) => stats)).size, 3);
  assertEquals(new Set(specs.map(({ latch }) => latch)).size, 1, "one latch for the device");
  new Float64Array(specs[0]!.stats)[0] = 5;
  new Float64Array(specs[2]!.stats)[0] = 7;
  await until("the device knows that it is connected", () => kind.status()[0]!.connected);
  assertEquals([kind.status()[0]!.totals.reads, kind.status()[0]!.latched], [12, false]);
  const { totals: _totals, queues: _queues, latency: _latency, busyNs: _busyNs, atMs: _atMs, ...rest } = kind
    .status()[0]!;
  assertEquals(kind.reports(), [rest], "a report leaves out what is costly to read");
  new Latch(rig.platform.memory.view(specs[1]!.latch!, LATCH_BYTES)).trip();
  assertEquals(kind.status()[0]!.latched, true);
  await frontend.disconnect();
  assertEquals(rig.plane.open.length, 0, "closing drains all of them");
  assertEquals(rig.toolstack.read(`${frontendPath(device)}/queue-1/ring-ref2`) === undefined, false);
  const one = await frontend.reconnect();
  assertEquals([one.rings.length, rig.plane.open.length], [3, 3]);
});

Deno.test("a queue's node that is wrong is named, and the frontend can put it right", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve({ maxQueues: 2 });
  const queues = {
    "multi-queue-num-queues": "2",
    "queue-0/ring-ref": "8",
    "queue-0/event-channel": "5",
    "queue-1/ring-ref": "x",
    "queue-1/event-channel": "6",
  };
  rig.guestWrites(device, { "protocol": "x86_64-abi", ...queues, "state": "3" });
  await until("there is an error", () => rig.backend(device, "error") !== undefined);
  assertStringIncludes(rig.backend(device, "error")!, "queue-1/ring-ref");
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  rig.guestWrites(device, { "state": "1", "queue-1/ring-ref": "9" });
  await rig.backendReaches(device, 2);
  rig.guestWrites(device, { state: "3" });
  await rig.backendReaches(device, 4);
  assertEquals(rig.plane.open.map(({ spec }) => spec.ringRefs), [[8], [9]] as never);
});

Deno.test("a frontend keeps what an earlier process promised it, whatever the next one would offer", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "memory:1M" });
  const first = rig.serve({ maxQueues: 2 });
  await rig.frontend(device, { queues: 2, ringPages: 2, segments: 256 }).connect();
  await first.close({ leave: "connected", timeoutMs: 0 }, 5000);
  rig.serve({ maxQueues: 1, maxRingPageOrder: 0, maxIndirectSegments: 0 });
  await until("the next process serves the rings", () => rig.plane.open.length === 2);
  const [spec] = rig.plane.open.map(({ spec }) => spec);
  assertEquals([spec!.ringRefs.length, spec!.maxIndirectSegments], [2, 256]);
  assertEquals(rig.backend(device, "feature-max-indirect-segments"), "256");
});

Deno.test("if one of several rings cannot be opened, none stays open", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve({ maxQueues: 2 });
  const real = rig.plane.openQueue.bind(rig.plane);
  rig.plane.openQueue = (spec) => spec.label.endsWith("1") ? Promise.reject(new Error("no such grant")) : real(spec);
  rig.guestWrites(device, {
    ...RING_NODES,
    "multi-queue-num-queues": "2",
    "queue-0/ring-ref": "8",
    "queue-0/event-channel": "5",
    "queue-1/ring-ref": "9",
    "queue-1/event-channel": "6",
    "state": "3",
  });
  await rig.backendReaches(device, 5);
  assertEquals([rig.plane.queues.length, rig.plane.open.length], [1, 0]);
  assertStringIncludes(rig.backend(device, "error")!, "no such grant");
});
