/**
 * Two processes that serve the same kind: each device belongs to one of them. The other one leaves its rings, journals and
 * nodes alone, also at its own end, and takes over when the owner ends.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { DeviceClaim, DeviceClaimedError } from "../../lib/backend/claim.ts";
import { deviceLabel, keptNames } from "../../lib/backend/journals.ts";
import { BackendKind } from "../../lib/backend/kind.ts";
import { LATCH_BYTES } from "../../lib/dataplane/latch.ts";
import { attachDevice } from "../../lib/toolstack/attach.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { DOM0, FAST_CLOCK, GUEST, Rig, RING_NODES, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;
/** Far longer than anything here takes. */
const NEVER_MS = 3_600_000;

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
  await rig.idle(device);
  const before = rig.writes.length;
  const second = serve(rig, keepJournals);
  await rig.says("another process serves it");
  await rig.idle(device, { as: /: wait$/ });
  assertEquals([rig.plane.queues.length, rig.openDisks, rig.writes.length], [1, 1, before]);
  assertEquals(rig.backend(device, "error"), undefined);
  assertEquals(await first.close(STAY, 30_000), true);
  await until("the second one serves it", () => rig.plane.open.length === 1 && rig.plane.queues.length === 2);
  assertEquals(rig.backend(device, "state"), "4");
  await frontend.disconnect();
  await until("it has seen that", () => second.status()[0]?.backendState === "Closed");
  assertEquals(rig.plane.open.length, 0);
}

Deno.test("of two processes that find a new device one serves it, and the other leaves it open for a guest that clings to it", async () => {
  await using rig = new Rig();
  const kinds = [serve(rig), serve(rig)];
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, state: "3" }); // and it does not mind what becomes of the backend
  await rig.backendReaches(device, 4);
  await Promise.all([rig.idle(device, { as: /: none$/ }), rig.idle(device, { as: /: wait$/ })]);
  assertEquals([rig.plane.queues.length, rig.openDisks], [1, 1]);
  assertEquals(rig.lines.filter((line) => line.startsWith("error")), []);
  const idle = kinds.find((kind) => !kind.status()[0]!.connected)!;
  assertEquals(await idle.close({ leave: "detached", timeoutMs: 20 }, 30_000), true);
  assertEquals([rig.plane.open.length, rig.statesWritten(device).includes("6")], [1, false]);
});

for (const moment of ["once it stands by", "before it has looked", "after the toolstack's nonsense"] as const) {
  Deno.test(`a process that does not own a device does not detach it at its end: ended ${moment}`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    serve(rig);
    await rig.frontend(device).connect();
    await rig.idle(device);
    rig.writes.length = 0;
    const second = serve(rig);
    if (moment !== "before it has looked") await rig.says("another process serves it");
    if (moment === "after the toolstack's nonsense") rig.toolstack.write(`${backendPath(device)}/state`, "7");
    assertEquals(await second.close({ leave: "detached", timeoutMs: NEVER_MS }, NEVER_MS), true, "it does not wait");
    assertEquals(rig.writes, []);
    assertEquals([rig.backend(device, "online"), rig.plane.open.length], ["1", 1]);
  });
}

Deno.test("a device of another process that is removed is forgotten, and what that process keeps of it stays", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  const device = rig.attach();
  const names = keptNames(deviceLabel(device));
  using _lock = journals.lock(names.lock); // another process's
  using _latch = journals.open(names.latch, LATCH_BYTES);
  const kind = serve(rig);
  await rig.says("another process serves it");
  rig.toolstack.write("/local/domain/0/error/backend/vbd3/5/51712/error", "the owner's");
  rig.toolstack.remove(backendPath(device));
  await until("it is forgotten", () => kind.status().length === 0);
  assertEquals([rig.writes, journals.names().includes(names.latch)], [[], true]);
});

Deno.test("a device that is claimed before its nodes are there is served by the one that claimed it", async () => {
  await using rig = new Rig();
  const { journals } = rig.platform;
  const other = rig.serve({}, { keepJournals: true, clock: FAST_CLOCK });
  const claim = new DeviceClaim(journals);
  const request = { domain: GUEST, backendDomain: DOM0, kind: "vbd3", readOnly: false, cdrom: false };
  const device = attachDevice(rig.toolstack, { ...request, params: "null:1M" }, (device) => claim.take(device));
  await rig.says("another process serves it");
  assertEquals(rig.openDisks, 0);
  const own = rig.serve({ grants: "map" }, { only: device, journals: claim.journals });
  const frontend = rig.frontend(device);
  await frontend.connect();
  assertEquals([rig.plane.open.map(({ spec }) => spec.grants), other.status()[0]!.connected], [["map"], false]);
  assertEquals(await own.close(STAY, 30_000), true);
  await rig.idle(device, { since: rig.debugLines.length, as: /: claim$/ }); // which does not succeed
  assertEquals(rig.plane.open.length, 0, "it is claimed still");
  assertEquals(rig.lines.filter((line) => line.includes("another process serves it")).length, 1, "said once");
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
