/**
 * Two processes that serve the same kind: each device is one's own, the other leaves ring, journal and nodes alone, and
 * takes over when the first one ends.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { DeviceClaim, DeviceClaimedError } from "../../lib/backend/claim.ts";
import { BackendKind } from "../../lib/backend/kind.ts";
import { attachDevice } from "../../lib/toolstack/attach.ts";
import { DOM0, GUEST, Rig, RING_NODES, settle, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;

/** Serves as a process of its own would. */
function serve(rig: Rig, keepJournals = true): BackendKind {
  return rig.serve({}, { keepJournals });
}

for (const keepJournals of [true, false]) {
  const how = keepJournals ? "with journals" : "without journals";
  Deno.test(`a device that another process serves is left alone until that one ends, and then taken over, ${how}`, async () => {
    await takeOver(keepJournals);
  });
}

async function takeOver(keepJournals: boolean): Promise<void> {
  await using rig = new Rig();
  const device = rig.attach();
  const first = serve(rig, keepJournals);
  const frontend = rig.frontend(device);
  await frontend.connect();
  await settle();
  const before = rig.writes.length;
  const second = serve(rig, keepJournals);
  await until("the second one says so", () => rig.lines.some((line) => /another process serves it/.test(line)));
  await settle();
  assertEquals([rig.plane.queues.length, rig.openDisks, rig.writes.length], [1, 1, before]);
  assertEquals(rig.backend(device, "error"), undefined);
  assertEquals(await first.close(STAY, 30_000), true);
  await until("the second one serves it", () => rig.plane.open.length === 1 && rig.plane.queues.length === 2);
  assertEquals(rig.backend(device, "state"), "4");
  await frontend.disconnect();
  assertEquals([rig.plane.open.length, second.status()[0]?.backendState], [0, "Closed"]);
}

Deno.test("of two processes that find a new device one serves it, and the other leaves it open for a guest that clings to it", async () => {
  await using rig = new Rig();
  const kinds = [serve(rig), serve(rig)];
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, state: "3" }); // and it does not mind what becomes of the backend
  await rig.backendReaches(device, 4);
  await settle();
  assertEquals([rig.plane.queues.length, rig.openDisks], [1, 1]);
  assertEquals(rig.lines.filter((line) => line.startsWith("error")), []);
  const idle = kinds.find((kind) => !kind.status()[0]!.connected)!;
  assertEquals(await idle.close({ leave: "detached", timeoutMs: 20 }, 30_000), true);
  assertEquals([rig.plane.open.length, rig.statesWritten(device).includes("6")], [1, false]);
});

Deno.test("a device that is claimed before its nodes are there is served by the one that claimed it", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  const other = serve(rig);
  const claim = new DeviceClaim(journals);
  const request = { domain: GUEST, backendDomain: DOM0, kind: "vbd3", readOnly: false, cdrom: false };
  const device = attachDevice(rig.toolstack, { ...request, params: "null:1M" }, (device) => claim.take(device));
  await until("the other one has seen it", () => rig.lines.some((line) => /another process serves it/.test(line)));
  assertEquals(rig.openDisks, 0);
  const own = rig.serve({ grants: "map" }, { only: device, journals: claim.journals });
  const frontend = rig.frontend(device);
  await frontend.connect();
  assertEquals([rig.plane.open.map(({ spec }) => spec.grants), other.status()[0]!.connected], [["map"], false]);
  assertEquals(await own.close(STAY, 30_000), true);
  await settle();
  assertEquals(rig.plane.open.length, 0, "it is claimed still");
  claim[Symbol.dispose]();
  await until("the other one goes on with it", () => rig.plane.open.length === 1);
});

Deno.test("a device that another process has is not attached: nothing is written, and it says who serves it", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  using first = new DeviceClaim(journals);
  first.take({ backendDomain: DOM0, kind: "vbd3", frontendDomain: GUEST, vdev: 51712 });
  using second = new DeviceClaim(journals);
  const request = { domain: GUEST, backendDomain: DOM0, kind: "vbd3", readOnly: false, cdrom: false };
  const error = assertThrows(
    () => attachDevice(rig.toolstack, { ...request, params: "null:1M" }, (device) => second.take(device)),
    DeviceClaimedError,
    "Cannot attach xvda to domain 5: another process has it",
  );
  assertEquals(error.remedy, "end the `xenblk` that serves vbd3/5/51712, or choose another device");
  assertEquals(rig.toolstack.list("/local/domain/0/backend"), undefined);
  first.take({ backendDomain: DOM0, kind: "vbd3", frontendDomain: GUEST, vdev: 51728 });
  attachDevice(rig.toolstack, { ...request, params: "null:1M" }, (device) => second.take(device));
});
