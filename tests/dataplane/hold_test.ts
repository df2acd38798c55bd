/**
 * A ring that is held, or let go for another disk: it takes no request meanwhile, what it has answered is flushed once
 * nothing is in flight, and one that goes on after all takes requests only when that flush is over.
 */

import { assertEquals } from "@std/assert";
import { OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { machineUsage } from "../../lib/sim/platform.ts";
import { allOkay, READ_PAGE, Rig, type TestRequest } from "./rig.ts";
import { Bench, Guest, openMemoryDisk } from "./worker_rig.ts";

const WRITE: TestRequest = { operation: OP_WRITE, segments: [[0, 0, 7]] };

function started(rig: Rig): string[] {
  return rig.channel.started.map(({ text }) => text.split(" ")[0]!);
}

Deno.test("a ring that is let go finishes what is in flight, flushes once, and takes nothing more", () => {
  using rig = new Rig();
  rig.send(WRITE);
  rig.stepUntilIdle();
  rig.queue.pause(true);
  rig.send(READ_PAGE);
  rig.stepUntilIdle();
  assertEquals([started(rig), rig.queue.isQuiet, rig.queue.isEnding], [["write"], false, true]);
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals([started(rig), rig.queue.isQuiet, rig.queue.inFlight], [["flush"], false, 0]);
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals([started(rig), rig.queue.isQuiet, rig.queue.isEnding], [[], true, false]);
  assertEquals([rig.queue.state, rig.latch.tripped, rig.responses().length], ["serving", false, 1]);
  rig.queue.resume();
  rig.run();
  assertEquals(allOkay(rig.responses()), true);
});

Deno.test("a ring that goes on while its flush is in flight takes requests when that is over", () => {
  using rig = new Rig();
  rig.queue.pause(true);
  rig.queue.step();
  assertEquals(started(rig), ["flush"]);
  rig.queue.resume();
  rig.send(WRITE);
  rig.stepUntilIdle();
  assertEquals([started(rig), rig.queue.hasRequest], [["flush"], false]);
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals(started(rig), ["write"]);
  rig.run();
  assertEquals(allOkay(rig.responses()), true);
});

Deno.test("one that is closed while its flush is in flight ends with that flush", () => {
  using rig = new Rig();
  rig.queue.pause(true);
  rig.queue.step();
  rig.queue.drain();
  rig.stepUntilIdle();
  assertEquals(started(rig), ["flush"]);
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals([rig.queue.state, rig.queue.isQuiet], ["drained", true]);
});

Deno.test("a flush that fails when a ring is let go trips the latch", () => {
  using rig = new Rig();
  rig.queue.pause(true);
  rig.queue.step();
  rig.channel.complete(-5);
  rig.stepUntilIdle();
  assertEquals([rig.latch.tripped, rig.queue.isQuiet, rig.queue.state], [true, true, "serving"]);
});

Deno.test("a ring of a read-only disk is let go without a flush", () => {
  using rig = new Rig({ limits: { readOnly: true } });
  rig.queue.pause(true);
  rig.stepUntilIdle();
  assertEquals([started(rig), rig.queue.isQuiet], [[], true]);
});

Deno.test("a ring in a Worker goes from disk to disk a hundred times, let go right after it was begun", async () => {
  await using bench = new Bench();
  await using one = await openMemoryDisk();
  await using two = await openMemoryDisk();
  using guest = new Guest(bench.machine, 3 as DomId);
  const before = machineUsage(bench.machine);
  let queue = await bench.plane.openQueue(guest.spec(one));
  for (let turn = 0; turn < 100; turn++) {
    assertEquals(await queue.release(60_000), true, `turn ${turn}`);
    queue = await bench.plane.openQueue({ ...guest.spec(turn % 2 === 0 ? two : one), held: true });
    queue.start();
  }
  assertEquals(await guest.request(OP_WRITE, 0), 0);
  assertEquals(await queue.release(60_000), true);
  queue = await bench.plane.openQueue({ ...guest.spec(two), held: true });
  let isAnswered = false;
  const answer = guest.request(OP_READ, 1).then((status) => {
    isAnswered = true;
    return status;
  });
  // The Worker has answered another queue's opening and closing by now, and took nothing of this one.
  using other = new Guest(bench.machine, 4 as DomId);
  await (await bench.plane.openQueue(other.spec(one))).close();
  assertEquals(isAnswered, false);
  queue.start();
  assertEquals(await answer, 0);
  await queue.close();
  assertEquals(machineUsage(bench.machine).mappedPages, before.mappedPages);
});
