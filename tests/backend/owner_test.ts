/**
 * Two processes that serve the same kind: each device is one's own, the other leaves ring, journal and nodes alone, and
 * takes over when the first one ends.
 */

import { assertEquals } from "@std/assert";
import { BackendKind } from "../../lib/backend/kind.ts";
import { Rig, RING_NODES, settle, until } from "./rig.ts";

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
