/**
 * Storage that stops answering a connected disk: the device says so in its error node, its status and the log, and takes
 * it back when the storage answers. Other disks say nothing.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
import { Stall } from "../../lib/backend/stall.ts";
import { STAT } from "../../lib/dataplane/stats.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { Rig, RING_NODES, until } from "./rig.ts";

Deno.test("requests that storage does not answer are reported while that lasts", async () => {
  await using rig = new Rig();
  const clock = new SimulatedClock();
  const device = rig.attach({ params: "null:8M" });
  const kind = rig.serve({}, { clock });
  await rig.backendReaches(device, 2);
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  const counters = new Float64Array(rig.plane.queues[0]!.spec.stats);
  counters[STAT.writes] = 7;
  counters[STAT.inFlight] = 2;
  kind.checkProgress();
  clock.advance(9_000);
  kind.checkProgress();
  assertEquals(kind.status()[0]!.error, undefined, "nine seconds are not yet too long");
  clock.advance(1_000);
  kind.checkProgress();
  await until("the node says so", () => rig.backend(device, "error") !== undefined);
  const error = "Cannot complete 2 requests of the guest on null:8M (8.0 MiB, engine null): no answer within 10 s; " +
    "check the storage behind it; this goes on by itself once it answers";
  assertEquals(rig.backend(device, "error"), error);
  assertStringIncludes(kind.status()[0]!.error!, error);
  clock.advance(60_000);
  kind.checkProgress();
  assertEquals(rig.lines.filter((line) => line.includes("no answer")).length, 1, "said once");
  counters[STAT.inFlight] = 1;
  kind.checkProgress();
  await until("it is taken back", () => rig.backend(device, "error") === undefined);
  assertEquals(kind.status()[0]!.error, undefined);
});

Deno.test("requests that are answered, however many are in flight, are no stall", () => {
  const stall = new Stall();
  for (let time = 0; time < 100; time++) assertEquals(stall.check(32, time, "a", time * 9_000), false);
  assertEquals(stall.check(0, 100, "a", 1e9), false, "nothing in flight");
  assertEquals(stall.check(1, 101, "a", 2e9), false, "one that came after a long rest");
  assertEquals(stall.text, undefined);
});
