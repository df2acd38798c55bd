/**
 * The filters that tests of guests use: `error`, `hang` and `delay` befall the operations that their options choose, no
 * others, and follow their options while the disk is served.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { EIO, ENOSPC } from "../../../lib/errno.ts";
import { XenblkError } from "../../../lib/errors.ts";
import type { ChannelRig } from "../rig.ts";
import { FilterRig, pass, START_MS } from "./rig.ts";

const SECTOR = 512;

/** Writes of one sector each, at once; the results in the order of the sectors. */
function writeEach(ring: ChannelRig, sectors: readonly number[]): number[] {
  sectors.forEach((sector, tag) => ring.write(tag, sector * SECTOR, [SECTOR]));
  const results = pass(ring);
  return sectors.map((_, tag) => results.get(tag)!);
}

Deno.test("an error befalls operations of its kind that touch its range, and keeps them from the disk", async () => {
  await using rig = await FilterRig.open(["error,first=8,sectors=4,operations=write,errno=ENOSPC"]);
  const { ring } = rig;
  ring.buffer(0).fill(7);
  assertEquals(writeEach(ring, [7, 8, 11, 12]), [0, -ENOSPC, -ENOSPC, 0]);
  ring.write(0, 6 * SECTOR, [SECTOR, 2 * SECTOR]);
  assertEquals(pass(ring).get(0), -ENOSPC, "its last sector is in the range");
  ring.channel.flush(1);
  ring.channel.discard(2, 8 * SECTOR, SECTOR, false);
  ring.read(0, 8 * SECTOR, [SECTOR]);
  assertEquals(pass(ring), new Map([[1, 0], [2, 0], [0, 0]]));
  assertEquals(ring.buffer(0)[0], 0);
});

Deno.test("nothing fails before it is submitted", async () => {
  await using rig = await FilterRig.open(["error"]);
  const { channel } = rig.ring;
  rig.ring.write(0, 0, [SECTOR]);
  assertEquals([channel.reap(), channel.inFlight], [0, 1]);
  channel.submit();
  assertEquals([channel.reap(), channel.tags[0], channel.results[0], channel.inFlight], [1, 0, -EIO, 0]);
});

Deno.test("a seed decides which operations fail, and how many fail is near the rate", async () => {
  const chosen = async (seed: number): Promise<string> => {
    await using rig = await FilterRig.open([{ name: "error", rate: 0.25, seed }]);
    return Array.from({ length: 400 }, () => writeEach(rig.ring, [0])[0] === 0 ? "." : "x").join("");
  };
  const [one, again, other] = [await chosen(1), await chosen(1), await chosen(2)];
  assertEquals(one, again);
  assert(one !== other);
  for (const { length } of [one, other].map((all) => all.replaceAll(".", ""))) assert(length > 70 && length < 130);
});

Deno.test("a count is that of all rings, and each change begins it anew", async () => {
  await using rig = await FilterRig.open(["error,count=3,operations=write+flush"], { rings: 2 });
  const [one, other] = rig.rings as [ChannelRig, ChannelRig];
  assertEquals([...writeEach(one, [0, 1]), ...writeEach(other, [2, 3, 4])], [-EIO, -EIO, -EIO, 0, 0]);
  rig.filter("error").set({ count: 1, errno: "ENOSPC" });
  assertEquals([...writeEach(other, [0, 1]), ...writeEach(one, [0])], [-ENOSPC, 0, 0]);
  rig.filter("error").set({ rate: 0, count: 0 });
  assertEquals(writeEach(one, [0, 1]), [0, 0]);
});

Deno.test("a change with a wrong value is refused, and changes nothing", async () => {
  await using rig = await FilterRig.open(["error,rate=0"]);
  const error = rig.filter("error");
  const before = error.options;
  const cases: [Record<string, string | number>, string][] = [
    [{ rate: 1, errno: "EFOO" }, "errno takes the name of an error"],
    [{ rate: 2 }, "rate takes a number from 0 to 1, not 2"],
    [{ rate: NaN }, "rate takes a number from 0 to 1"],
    [{ operations: "read+trim" }, "operations takes names joined by +"],
    [{ operations: "" }, "operations takes names joined by +"],
    [{ first: -1 }, "first takes a whole number"],
    [{ count: 1.5 }, "count takes a whole number"],
    [{ seed: 3 }, "seed cannot be changed while the disk is served"],
    [{ chance: 1 }, "it has no option chance; it has rate, count"],
  ];
  for (const [change, message] of cases) {
    const { kind } = assertThrows(() => error.set(change), XenblkError, `Cannot use filter error: ${message}`);
    assertEquals([kind, error.options], ["usage", before]);
  }
  assertEquals(writeEach(rig.ring, [0]), [0]);
});

Deno.test("what hangs is in flight until it is released, then it goes to the disk; the rest goes on", async () => {
  await using rig = await FilterRig.open(["hang,operations=write,first=8,sectors=1"]);
  const { ring, ring: { channel } } = rig;
  ring.buffer(1).fill(9);
  assertEquals(writeEach(ring, [0, 8]), [0, undefined]);
  rig.advance(1e9);
  assertEquals([pass(ring).size, channel.inFlight], [0, 1]);
  ring.read(2, 8 * SECTOR, [SECTOR]);
  assertEquals([pass(ring), ring.buffer(2)[0]], [new Map([[2, 0]]), 0]);
  assert(channel.dueMs! <= rig.nowMs + 100, "it looks whether it is released");
  rig.filter("hang").set({ rate: 0 });
  assertEquals([pass(ring), channel.inFlight, channel.dueMs], [new Map([[1, 0]]), 0, Infinity]);
  ring.read(2, 8 * SECTOR, [SECTOR]);
  assertEquals([pass(ring).get(2), ring.buffer(2)[0]], [0, 9]);
});

Deno.test("operations are delayed by their kind and keep the order of their kind", async () => {
  await using rig = await FilterRig.open(["delay,write=10,flush=30,discard=2.5"]);
  const { ring, ring: { channel } } = rig;
  const done = (): number[] => [...pass(ring).keys()];
  ring.write(0, 0, [SECTOR]);
  ring.read(1, 0, [SECTOR]);
  channel.flush(2);
  channel.discard(3, 0, SECTOR, false);
  assertEquals([done(), channel.inFlight, channel.dueMs], [[1], 3, START_MS + 2.5]);
  rig.advance(5);
  ring.write(4, 0, [SECTOR]);
  assertEquals([done(), channel.dueMs], [[3], START_MS + 10]);
  rig.advance(5);
  assertEquals([done(), channel.dueMs], [[0], START_MS + 15]);
  rig.advance(5);
  assertEquals([done(), channel.dueMs], [[4], START_MS + 30]);
  rig.advance(15);
  assertEquals([done(), channel.inFlight, channel.dueMs], [[2], 0, Infinity]);
});

Deno.test("a filter is due when it or a filter behind it is", async () => {
  await using rig = await FilterRig.open(["throttle", "delay,write=30", "error,rate=0", "delay,read=10"]);
  const { ring, ring: { channel } } = rig;
  ring.read(0, 0, [SECTOR]);
  ring.write(1, 0, [SECTOR]);
  assertEquals([pass(ring).size, channel.dueMs, channel.inFlight], [0, START_MS + 10, 2]);
  rig.advance(10);
  assertEquals([[...pass(ring).keys()], channel.dueMs, channel.inFlight], [[0], START_MS + 30, 1]);
  rig.advance(20);
  assertEquals([[...pass(ring).keys()], channel.dueMs, channel.inFlight], [[1], Infinity, 0]);
});

Deno.test("a changed delay holds for what waits already", async () => {
  await using rig = await FilterRig.open([{ name: "delay", read: 3_600_000 }]);
  const { ring, ring: { channel } } = rig;
  ring.read(0, 0, [SECTOR]);
  assertEquals([pass(ring).size, channel.dueMs! <= START_MS + 100], [0, true]);
  rig.filter("delay").set({ read: 20 });
  rig.advance(19);
  assertEquals([pass(ring).size, channel.dueMs], [0, START_MS + 20]);
  rig.advance(1);
  assertEquals(pass(ring), new Map([[0, 0]]));
});
