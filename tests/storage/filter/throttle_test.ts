/**
 * The filter `throttle`: how many requests and bytes pass, in which order, how rings share the budget, and that changed
 * limits hold for what already waits.
 */

import { assert, assertEquals } from "@std/assert";
import type { ChannelRig } from "../rig.ts";
import { FilterRig, pass, START_MS } from "./rig.ts";

/** Reads or writes with the next tags. */
function queue(ring: ChannelRig, tags: readonly number[], lengthBytes = 512): void {
  for (const tag of tags) ring.write(tag, 0, [lengthBytes]);
}

const done = (ring: ChannelRig): number[] => [...pass(ring).keys()];

Deno.test("requests beyond the budget wait for their time, in order, and name it", async () => {
  await using rig = await FilterRig.open(["throttle,iops=100,iops-burst=2"]);
  const { ring, ring: { channel } } = rig;
  queue(ring, [0, 1, 2, 3]);
  assertEquals([done(ring), channel.inFlight, channel.dueMs], [[0, 1], 2, START_MS + 10]);
  rig.advance(9.9);
  assertEquals(done(ring), []);
  rig.advance(0.2);
  assertEquals([done(ring), channel.inFlight, Math.round(channel.dueMs!)], [[2], 1, START_MS + 20]);
  rig.advance(10);
  assertEquals([done(ring), channel.inFlight, channel.dueMs], [[3], 0, Infinity]);
});

Deno.test("bytes are limited too, a request larger than the burst passes, and both limits hold at once", async () => {
  await using rig = await FilterRig.open(["throttle,bytes-per-second=10K,bytes-burst=1K"]);
  const { ring } = rig;
  queue(ring, [0], 4096);
  queue(ring, [1]);
  assertEquals(done(ring), [0], "the bucket was full");
  rig.advance(349);
  assertEquals(done(ring), [], "4096 less 1024, and 512, are missing");
  rig.advance(2);
  assertEquals(done(ring), [1]);
  rig.filter("throttle").set({ iops: 1, iopsBurst: 1 });
  rig.advance(5000);
  queue(ring, [2, 3]);
  assertEquals(done(ring), [2]);
  rig.advance(999);
  assertEquals(done(ring), [], "there are bytes enough, but no request");
  rig.advance(2);
  assertEquals(done(ring), [3]);
});

Deno.test("flushes pass, and discards count as requests without bytes", async () => {
  await using rig = await FilterRig.open(["throttle,iops=10,iops-burst=1,bytes-per-second=1"]);
  const { ring } = rig;
  ring.channel.discard(0, 0, 65536, false);
  ring.channel.flush(1);
  ring.channel.discard(2, 0, 65536, false);
  ring.channel.flush(3);
  assertEquals(new Set(done(ring)), new Set([0, 1, 3]));
  rig.advance(101);
  assertEquals(done(ring), [2]);
});

Deno.test("rings share one budget and take turns, though one asks for much more", async () => {
  await using rig = await FilterRig.open(["throttle,iops=100,iops-burst=1"], { rings: 2, depth: 32 });
  const [greedy, modest] = rig.rings as [ChannelRig, ChannelRig];
  queue(greedy, Array.from({ length: 32 }, (_, tag) => tag), 4096);
  queue(modest, [0, 1, 2, 3]);
  const counts = [0, 0];
  for (let ms = 0; ms <= 70; ms += 5) {
    rig.rings.forEach((ring, i) => counts[i]! += done(ring).length);
    rig.advance(5);
  }
  // At 0, 10, 30, 50 and 70 ms; at 20, 40 and 60 ms.
  assertEquals(counts, [5, 3]);
  rig.filter("throttle").set({ iops: 0 });
  assertEquals(rig.rings.map((ring) => done(ring).length), [27, 1]);
});

Deno.test("new limits hold for what waits already, and without limits nothing waits", async () => {
  await using rig = await FilterRig.open([{ name: "throttle", iops: 1 }]);
  const { ring } = rig;
  queue(ring, [0, 1, 2]);
  assertEquals(done(ring), [0]);
  assert(ring.channel.dueMs! <= START_MS + 100, "it looks at its limits long before the second is over");
  rig.filter("throttle").set({ iops: 20 });
  rig.advance(50);
  assertEquals(done(ring), [1]);
  rig.filter("throttle").set({ iops: 0 });
  assertEquals(done(ring), [2]);
  queue(ring, [0, 1, 2]);
  assertEquals(done(ring), [0, 1, 2]);
  assert(Object.values(rig.filter("throttle").options).every((limit) => limit === 0));
});

Deno.test("a change of the limits renews what a ring has reserved, and does not double it", async () => {
  await using rig = await FilterRig.open(["throttle,iops=10,iops-burst=10,bytes-per-second=1G"], { rings: 2 });
  const [one, other] = rig.rings as [ChannelRig, ChannelRig];
  queue(one, [0, 1, 2, 3, 4, 5, 6, 7]);
  queue(other, [0, 1]);
  assertEquals([done(one).length, done(other).length], [8, 2]);
  queue(one, [0]);
  assertEquals([done(one), one.channel.dueMs], [[], START_MS + 50], "it waits for 100 ms, and looks at its limits");
  rig.filter("throttle").set({ iops: 10 });
  assertEquals(done(one), []);
  queue(other, [0]);
  assertEquals(done(other), []);
  rig.advance(201);
  assertEquals([done(one), done(other)], [[0], [0]]);
});

Deno.test("what comes together starts together if there are tokens for all of it, else one after the other", async () => {
  await using rig = await FilterRig.open(["throttle,iops=100,iops-burst=6,bytes-per-second=100K,bytes-burst=1K"]);
  const { ring } = rig;
  queue(ring, [0, 1]);
  assertEquals(done(ring), [0, 1], "two requests, and all bytes");
  queue(ring, [2, 3]);
  assertEquals([done(ring), ring.channel.dueMs], [[], START_MS + 5], "there are requests, but no bytes");
  rig.advance(5.1);
  assertEquals(done(ring), [2]);
  rig.advance(5.1);
  assertEquals(done(ring), [3]);
  rig.filter("throttle").set({ bytesPerSecond: 0 });
  queue(ring, [4, 5, 6]);
  assertEquals(done(ring), [4, 5, 6], "of six there were three left: none was taken that was not used");
  queue(ring, [7]);
  assertEquals(done(ring), []);
  rig.advance(10);
  assertEquals(done(ring), [7]);
});

Deno.test("reads and writes wait apart where they are limited apart, and each for its own limits", async () => {
  await using rig = await FilterRig.open([
    "throttle,read-iops=10,write-iops=100,iops-burst=1,write-bytes-per-second=1M",
  ]);
  const { ring, ring: { channel } } = rig;
  queue(ring, [0, 1]);
  ring.read(2, 0, [512]);
  ring.read(3, 0, [512]);
  assertEquals([done(ring).toSorted(), Math.round(channel.dueMs!)], [[0, 2], START_MS + 10]);
  rig.advance(11);
  assertEquals([done(ring), channel.inFlight], [[1], 1]);
  rig.filter("throttle").set({ iops: 100 });
  rig.advance(10);
  assertEquals(done(ring), [3]);
  const { iops, readIops, writeIops } = rig.filter("throttle").options;
  assertEquals([iops, readIops, writeIops], [100, 0, 0]);
});
