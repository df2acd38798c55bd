/**
 * Nodes that change while a device waits for something: a disk that is removed or attached again, and a frontend that
 * starts over, while rings close, an image opens or rings open.
 */

import { assertEquals } from "@std/assert";
import type { QueueHandle } from "../../lib/dataplane/types.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { Rig, RING_NODES, until } from "./rig.ts";

Deno.test("a disk that is attached again while its old ring is taken over is offered to its new frontend", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.guestWrites(device, { ...RING_NODES, state: "4" });
  rig.beforeOpen = () => {
    rig.beforeOpen = () => Promise.resolve();
    removeDevice(rig.toolstack, device);
    rig.attach();
    return Promise.resolve();
  };
  rig.serve();
  await rig.backendReaches(device, 2); // the old ring's failure is not the new frontend's
});

Deno.test("a disk that is attached again while its old image opens is not offered with that image", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.beforeOpen = () => {
    rig.beforeOpen = () => Promise.resolve();
    removeDevice(rig.toolstack, device);
    rig.attach({ params: "/nonexistent/image" });
    return Promise.resolve();
  };
  rig.serve();
  await until("its own image is tried", () => rig.backend(device, "hotplug-status") !== undefined);
  assertEquals([rig.backend(device, "hotplug-status"), rig.backend(device, "state")], ["error", "2"]);
  assertEquals(rig.lines.filter((line) => line.includes("offering")), []);
});

Deno.test("a frontend that publishes another ring while its first one opens is not connected with the first one", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const open = rig.plane.openQueue.bind(rig.plane);
  rig.plane.openQueue = async (spec): Promise<QueueHandle> => {
    rig.plane.openQueue = open;
    rig.guestWrites(device, { state: "1" });
    rig.guestWrites(device, { ...RING_NODES, "ring-ref": "9", state: "3" });
    return await open(spec);
  };
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  await rig.idle(device);
  assertEquals(rig.plane.open.map(({ spec }) => spec.ringRefs.join()), ["9"]);
});

Deno.test("a disk that is removed while its old rings close is no error", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  const [queue] = rig.plane.queues;
  const close = queue!.close.bind(queue);
  queue!.close = async (): Promise<void> => {
    removeDevice(rig.toolstack, device);
    await close();
  };
  rig.guestWrites(device, { state: "1" }); // it starts over without closing
  await until("the device is gone", () => kind.status().length === 0);
  assertEquals(rig.lines.filter((line) => line.startsWith("error")), []);
});

Deno.test("a frontend that is removed while its ring opens is no error", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const open = rig.plane.openQueue.bind(rig.plane);
  rig.plane.openQueue = async (spec): Promise<QueueHandle> => {
    rig.toolstack.remove(frontendPath(device));
    return await open(spec);
  };
  rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 6);
  assertEquals([rig.plane.open.length, rig.lines.filter((line) => line.startsWith("error"))], [0, []]);
});
