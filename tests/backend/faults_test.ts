/**
 * What a device does when something is wrong: nodes that are missing or nonsense, images that cannot be opened, rings
 * that the data plane refuses or stops, and guests that flood it with changes.
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath, type DeviceAddress, frontendPath } from "../../lib/xenbus/paths.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { faultyStore, type Judge } from "./faulty_store.ts";
import { DOM0, Rig, RING_NODES, turn, until } from "./rig.ts";

/** The `error` node below `error/` of the backend's own domain. */
function errorNode(rig: Rig, device: DeviceAddress): string | undefined {
  const path = backendPath(device).replace("/local/domain/0/", "");
  return rig.toolstack.read(`/local/domain/0/error/${path}/error`);
}

for (const name of ["params", "mode", "type", "dev", "device-type"]) {
  Deno.test(`a device without ${name} is refused with that node's name, and offered once it is written`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const value = rig.backend(device, name)!;
    rig.toolstack.remove(`${backendPath(device)}/${name}`);
    const kind = rig.serve();
    await until("there is an error", () => rig.backend(device, "error") !== undefined);
    const error = rig.backend(device, "error")!;
    assertStringIncludes(error, `node ${name} is missing`);
    assertEquals(errorNode(rig, device), error);
    assertEquals(rig.backend(device, "hotplug-status"), "error");
    assertEquals(rig.backend(device, "hotplug-error"), error);
    assertEquals([rig.backend(device, "state"), rig.openDisks], ["2", 0]);
    assertEquals(kind.status()[0]!.error, error);

    rig.toolstack.write(`${backendPath(device)}/${name}`, value);
    await until("the image is open", () => rig.backend(device, "hotplug-status") === "connected");
    assertEquals([rig.backend(device, "error"), errorNode(rig, device)], [undefined, undefined]);
    assertEquals([rig.backend(device, "hotplug-error"), rig.backend(device, "hotplug-status")], [
      undefined,
      "connected",
    ]);
    assertEquals(rig.toolstack.list("/local/domain/0/error"), []);
  });
}

for (
  const [what, params, part] of [
    ["a missing image", "/nonexistent/image.img", "/nonexistent/image.img"],
    ["a directory as image", "/tmp", "director"],
    ["a format that is not supported", "qcow2:/a.qcow2", "qcow2"],
  ] as const
) {
  Deno.test(`${what} is reported once, in InitWait, and the device can be removed`, async () => {
    await using rig = new Rig();
    const device = rig.attach({ params });
    const kind = rig.serve();
    await until("there is an error", () => rig.backend(device, "error") !== undefined);
    assertStringIncludes(rig.backend(device, "error")!, part);
    await rig.idle(device);
    assertEquals(rig.lines.filter((line) => line.startsWith("error")).length, 1);
    assertEquals([rig.backend(device, "state"), rig.openDisks], ["2", 0]);
    requestRemoval(rig.toolstack, backendPath(device));
    await rig.backendReaches(device, 6);
    removeDevice(rig.toolstack, device);
    await until("the device is gone", () => kind.status().length === 0);
    assertEquals(rig.toolstack.list("/local/domain/0/error"), []);
  });
}

Deno.test("an image given for the device replaces params", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.toolstack.remove(`${backendPath(device)}/params`);
  rig.serve({ image: "null:3M" }, { only: device });
  assertEquals((await rig.frontend(device).connect()).disk.sectors, 6144);
});

Deno.test("mode r and a read-only setting both open the image read-only and say so; a CD-ROM is called one", async () => {
  await using rig = new Rig();
  const writable = rig.attach({ vdev: "xvda" });
  const byMode = rig.attach({ vdev: "xvdb", readOnly: true, cdrom: true });
  rig.serve();
  assertEquals((await rig.frontend(writable).connect()).disk.info, 0);
  assertEquals((await rig.frontend(byMode).connect()).disk.info, 1 + 2 + 4);
  assertEquals(rig.disks.map((disk) => disk.request.readOnly).sort(), [false, true]);

  await using other = new Rig();
  const bySetting = other.attach();
  other.serve({ readOnly: true });
  assertEquals((await other.frontend(bySetting).connect()).disk.info, 4);
  assertEquals(other.disks[0]!.request.readOnly, true);
});

for (
  const [what, nodes, part] of [
    ["an unknown protocol", { "protocol": "mips-abi" }, "protocol"],
    ["a ring-ref that is no number", { "ring-ref": "8 " }, "ring-ref"],
    ["a ring-ref beyond u32", { "ring-ref": "4294967296" }, "ring-ref"],
    ["an event channel of 0", { "event-channel": "0" }, "event-channel"],
    ["more ring pages than offered", { "ring-page-order": "5" }, "ring-page-order"],
    ["more queues than offered", { "multi-queue-num-queues": "65" }, "multi-queue-num-queues"],
    ["a flood of text instead of a number", { "ring-ref": "\x1b[2J" + "9".repeat(1900) }, "ring-ref"],
  ] as const
) {
  Deno.test(`${what} is refused with an error that names the node, and a reconnect puts it right`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    rig.serve();
    rig.guestWrites(device, { ...RING_NODES, ...nodes, state: "3" });
    await until("there is an error", () => rig.backend(device, "error") !== undefined);
    const error = rig.backend(device, "error")!;
    assertStringIncludes(error, `${frontendPath(device)}/${part}`);
    assert(!error.includes("\x1b") && error.length < 300, error);
    assertEquals(errorNode(rig, device), error);
    await rig.backendReaches(device, 5);
    assertEquals(rig.plane.queues.length, 0);

    rig.guestWrites(device, { state: "6" });
    await rig.backendReaches(device, 6);
    assertEquals(rig.openDisks, 0);
    for (const name of Object.keys(nodes)) rig.toolstack.remove(`${frontendPath(device)}/${name}`);
    rig.guestWrites(device, { state: "1" });
    await rig.backendReaches(device, 2);
    await rig.frontend(device).connect();
    assertEquals([rig.backend(device, "error"), errorNode(rig, device)], [undefined, undefined]);
    assertEquals(rig.plane.open.length, 1);
  });
}

Deno.test("a ring that the data plane refuses is an error, and the backend goes to Closing", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  rig.plane.refuse = "Cannot map the ring: grant 8 is not valid";
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 5);
  assertEquals(rig.backend(device, "error"), rig.plane.refuse);
  assertEquals(rig.backend(device, "hotplug-status"), "connected", "it is not the image");
});

Deno.test("a ring that the data plane stops is closed, one line is logged, and the guest may connect again", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  const frontend = rig.frontend(device);
  await frontend.connect();
  await rig.idle(device);
  rig.lines.length = 0;
  rig.plane.queues[0]!.stop("req_prod is 900 ahead of 32 slots");
  await frontend.closed;
  assert(rig.plane.queues[0]!.closed);
  assertStringIncludes(rig.backend(device, "error") ?? "", "req_prod is 900 ahead");
  assertEquals(rig.lines.filter((line) => line.includes("req_prod")).length, 1);
  await rig.backendReaches(device, 6);
  await frontend.reconnect();
  assertEquals([rig.plane.open.length, rig.backend(device, "error")], [1, undefined]);
});

Deno.test("a ring that stopped does not keep its device from being removed", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve({}, { only: device });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  rig.plane.queues[0]!.stop("broken");
  await rig.backendReaches(device, 5);
  requestRemoval(rig.toolstack, backendPath(device));
  await kind.retired;
  assertEquals([rig.plane.queues.length, rig.plane.open.length, rig.openDisks], [1, 0, 0]);
});

Deno.test("states that mean nothing are ignored with one line each, and what is served goes on", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.lines.length = 0;
  for (const state of ["7", "99", "", "4 ", "0x4"]) {
    for (let again = 0; again < 2; again++) {
      rig.guestWrites(device, { state });
      await rig.idle(device);
    }
  }
  assertEquals(rig.lines.filter((line) => line.includes("makes no sense now")).length, 2); // Reconfiguring, and invalid
  assertEquals([rig.plane.open.length, rig.backend(device, "state")], [1, "4"]);
});

Deno.test("a thousand flaps of the frontend's state cost a bounded number of looks, openings and log lines", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const clock = new SimulatedClock();
  rig.serve({}, { clock });
  await rig.backendReaches(device, 2);
  const states = ["1", "3", "4", "5", "6", "7"];
  rig.writes.length = 0;
  for (let flap = 0; flap < 1000; flap++) {
    rig.guestWrites(device, { ...RING_NODES, "ring-ref": String(flap), state: states[flap % states.length]! });
    clock.advance(1);
    await turn();
  }
  const allowed = 30 + clock.now() / 50;
  assert(rig.disks.length <= allowed, `${rig.disks.length} openings`);
  assert(rig.writes.length <= 30 * allowed, `${rig.writes.length} writes`);
  assert(rig.lines.length <= 40, `${rig.lines.length} lines`);
  const goOn = setInterval(() => clock.advance(50), 1);
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  await until("everything is closed", () => rig.plane.open.length === 0 && rig.openDisks === 0);
  rig.guestWrites(device, { state: "1" });
  await rig.backendReaches(device, 2);
  await rig.frontend(device).connect();
  clearInterval(goOn);
});

Deno.test("a guest that writes its state again after every twenty reads of the backend does not keep it from connecting", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  let reads = 0;
  // Such a write lets a transaction fail that has read the state; one that takes twenty reads more never succeeds.
  const judge: Judge = ({ what }) => {
    if (what === "commit") reads = 0;
    if (what === "read" && ++reads % 20 === 0) rig.guestWrites(device, { state: "3" });
    return undefined;
  };
  rig.serve({ maxQueues: 4 }, { openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  await rig.backendReaches(device, 4);
  assertEquals(rig.lines.filter((line) => line.startsWith("error")), []);
});

Deno.test("features that an earlier backend offered and this one does not are removed", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const stale = ["feature-max-indirect-segments", "multi-queue-max-queues", "discard-secure"];
  for (const name of stale) rig.toolstack.write(`${backendPath(device)}/${name}`, "1");
  rig.toolstack.write(`${backendPath(device)}/feature-persistent`, "1");
  rig.serve({ maxIndirectSegments: 0, maxQueues: 1, discard: false });
  await rig.backendReaches(device, 2);
  assertEquals(stale.map((name) => rig.backend(device, name)), [undefined, undefined, undefined]);
  assertEquals(rig.backend(device, "feature-persistent"), "0");
});
