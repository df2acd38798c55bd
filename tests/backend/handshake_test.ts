/**
 * The handshake as xenstore sees it: what is written and in which order, connecting, closing, reconnecting and removal,
 * each from either side.
 */

import { assert, assertEquals, assertMatch, assertNotEquals } from "@std/assert";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { GUEST, Rig, RING_NODES, turn, until } from "./rig.ts";

Deno.test("features are published before InitWait, the disk before Connected, and each in one transaction", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  await rig.backendReaches(device, 2);
  const names = rig.writes.map(({ path }) => path.slice(backendPath(device).length + 1));
  for (
    const name of [
      "feature-barrier",
      "feature-flush-cache",
      "feature-discard",
      "feature-persistent",
      "max-ring-page-order",
      "max-ring-pages",
    ]
  ) assert(names.includes(name) && names.indexOf(name) < names.indexOf("state"), `${name} before state`);
  assert(!names.includes("sectors"));
  await until("the image is open", () => rig.backend(device, "hotplug-status") === "connected");
  assertEquals(rig.backend(device, "feature-discard"), "1", "it depends on the image");

  rig.writes.length = 0;
  const connection = await rig.frontend(device).connect();
  const written = rig.writes.map(({ path, value }) => [path.slice(backendPath(device).length + 1), value]);
  assertMatch(written.shift()!.join(), /^attachment-nonce,[0-9a-f]{32}$/, "before the rings are opened");
  assertEquals(written, [
    ["sectors", "131072"],
    ["info", "0"],
    ["sector-size", "512"],
    ["physical-sector-size", "4096"],
    ["state", "4"],
  ]);
  assertEquals(connection.disk.sectors, 131072);
});

Deno.test("the data plane is asked for exactly the ring that the frontend published", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve({ grants: "map", maxRequests: 7 });
  const connection = await rig.frontend(device, { abi: "x86_32-abi" }).connect();
  const [queue] = rig.plane.queues;
  assertEquals(rig.plane.queues.length, 1);
  const { spec } = queue!;
  assertEquals(spec.label, `vbd3/5/${device.vdev} queue 0`);
  assertEquals(spec.guest, GUEST);
  assertEquals(spec.ringRefs, connection.ringPages.refs);
  assertEquals(spec.eventChannel, connection.port);
  assertEquals([spec.abi, spec.grants, spec.maxRequests], ["x86_32-abi", "map", 7]);
  await until("the device knows that it is connected", () => kind.status()[0]!.backendState === "Connected");
  const [status] = kind.status();
  assertEquals(status!.name, "xvda");
  assertEquals([status!.backendState, status!.connected, status!.error], ["Connected", true, undefined]);
  assert(status!.image?.startsWith("null:64M"), status!.image);
  assertEquals(status!.queues[0]!.reads, 0);
});

Deno.test("a frontend that is Initialised before the backend starts is offered the disk and then connected", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  rig.serve();
  await rig.backendReaches(device, 4);
  assertEquals(rig.statesWritten(device), ["2", "4"]);
});

Deno.test("without a protocol node the frontend is taken for what the settings say", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.guestWrites(device, { "ring-ref": "8", "event-channel": "15", state: "3" });
  rig.serve({ defaultProtocol: "arm-abi" });
  await rig.backendReaches(device, 4);
  assertEquals(rig.plane.queues[0]!.spec.abi, "arm-abi");
});

Deno.test("a frontend that closes is answered, and ring and image are closed before Closed", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  const frontend = rig.frontend(device);
  await frontend.connect();
  await frontend.disconnect();
  assertEquals(rig.backend(device, "state"), "6");
  assertEquals(rig.statesWritten(device), ["2", "4", "5", "6"]);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("at the frontend's Closing requests are still served", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "5" });
  await rig.backendReaches(device, 5);
  await rig.idle(device);
  assertEquals(rig.plane.open.length, 1);
});

Deno.test("a frontend that closed can connect again and again, each time with a new ring", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  const frontend = rig.frontend(device);
  await frontend.connect();
  for (let round = 1; round <= 5; round++) {
    await frontend.disconnect();
    await frontend.reconnect();
    assertEquals(rig.plane.queues.length, round + 1);
    assertEquals([rig.plane.open.length, rig.openDisks], [1, 1]);
  }
  const stats = rig.plane.queues.map((queue) => queue.spec.stats);
  assert(stats.every((each) => each === stats[0]), "counters go on over reconnects");
});

Deno.test("a frontend that starts over without closing is offered the disk again", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  await rig.frontend(device).connect();
  rig.guestWrites(device, { state: "1" });
  await rig.backendReaches(device, 2);
  assertEquals(rig.plane.open.length, 0);
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  assertEquals(rig.plane.open.length, 1);
});

Deno.test("removal: the guest is asked, the backend ends Closed, and the device ends with its directory", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve({}, { only: device });
  const frontend = rig.frontend(device);
  await frontend.connect();
  assert(requestRemoval(rig.toolstack, backendPath(device)));
  await kind.retired;
  assertEquals(rig.backend(device, "state"), "6");
  assertEquals(rig.toolstack.read(`${frontendPath(device)}/state`), "6");
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
  removeDevice(rig.toolstack, device);
  await until("the device is gone", () => kind.status().length === 0);
});

Deno.test("removal of a device that no frontend ever used needs no guest", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  await rig.backendReaches(device, 2);
  requestRemoval(rig.toolstack, backendPath(device));
  await rig.backendReaches(device, 6);
  assertEquals(rig.openDisks, 0);
});

Deno.test("a removal that is asked for while the image is being opened is not overwritten", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.beforeOpen = () => {
    requestRemoval(rig.toolstack, backendPath(device));
    return turn();
  };
  rig.serve();
  await rig.backendReaches(device, 6);
  assertEquals(rig.statesWritten(device), ["2", "6"]);
  assertEquals(rig.openDisks, 0);
});

Deno.test("a device that is deleted while the image is being opened is not written again", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.beforeOpen = () => {
    rig.writes.length = 0;
    removeDevice(rig.toolstack, device);
    return turn();
  };
  const kind = rig.serve();
  await until("the image was opened and closed", () => rig.disks.length === 1 && rig.openDisks === 0);
  await until("the device is gone", () => kind.status().length === 0);
  assertEquals(rig.toolstack.list("/local/domain/0/backend"), []);
  assertEquals(rig.writes.filter(({ value }) => value !== undefined), []);
});

Deno.test("a vanished frontend directory closes the device", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  await rig.frontend(device).connect();
  rig.toolstack.remove(frontendPath(device));
  await rig.backendReaches(device, 6);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
  assertEquals(rig.toolstack.list(frontendPath(device)), undefined);
});

Deno.test("a guest that dies releases ring and image even if its nodes stay", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  await rig.frontend(device).connect();
  const frontend = rig.toolstack.read(`${frontendPath(device)}/state`);
  assertEquals(frontend, "4");
  rig.simulated.releaseDomain(GUEST);
  await rig.backendReaches(device, 6);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("a vanished backend directory ends the device and leaves nothing in xenstore", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  await rig.frontend(device).connect();
  rig.toolstack.remove(backendPath(device));
  await until("the device is gone", () => kind.status().length === 0);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
  assertEquals(rig.toolstack.list(backendPath(device)), undefined);
});

Deno.test("a device that is removed and attached again under the same name is served again", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  await rig.frontend(device).connect();
  const [before] = rig.plane.queues;
  removeDevice(rig.toolstack, device);
  rig.attach({ params: "null:1M" });
  await rig.backendReaches(device, 2);
  assert(before!.closed);
  const connection = await rig.frontend(device).connect();
  assertEquals(connection.disk.sectors, 2048);
  assertNotEquals(kind.status()[0]!.image, undefined);
});
