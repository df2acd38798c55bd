/**
 * The backend ignores nodes in the guest's own directory that say who the guest is (XSA-175). Other hostile values are
 * in tests/backend/faults_test.ts (each node) and tests/fuzz (random ones).
 */

import { assert, assertEquals } from "@std/assert";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { Rig, RING_NODES } from "../backend/rig.ts";

/** Nodes that the toolstack wrote into the guest's directory, with false values from the guest. */
const LIES: Readonly<Record<string, string>> = {
  "backend": "/local/domain/0/backend/vbd3/6/51712",
  "backend-id": "6",
  "frontend": "/local/domain/6/device/vbd/51712",
  "frontend-id": "6",
  "virtual-device": "768",
  "device-type": "cdrom",
  "params": "raw:/etc/passwd",
  "mode": "w",
  "online": "0",
  "sectors": "999999",
  "domid": "6",
};

Deno.test("what a guest writes about itself, its backend or its disk is ignored", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "null:64M", readOnly: true });
  rig.serve();
  await rig.backendReaches(device, 2);
  const nodes = rig.toolstack.list(backendPath(device))!.map((name) => [name, rig.backend(device, name)]);
  rig.guestWrites(device, { ...LIES, ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  const [queue] = rig.plane.open;
  assertEquals([queue!.spec.guest, queue!.spec.disk.properties.readOnly], [device.frontendDomain, true]);
  assertEquals([rig.backend(device, "sectors"), rig.backend(device, "info")], ["131072", "4"]);
  for (const [name, value] of nodes) {
    if (name !== "state") assertEquals(rig.backend(device, name!), value, `node ${name}`);
  }
  await rig.idle(device);
  assertEquals([rig.plane.open.length, rig.disks.length], [1, 1]);
  assert(rig.writes.every(({ path }) => path.startsWith(backendPath(device)) || path.includes("/error")));
  assertEquals(rig.toolstack.read(`${frontendPath(device)}/backend-id`), "6", "the guest's own node is left as it is");
});
