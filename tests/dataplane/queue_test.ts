/**
 * The queue, stepped by hand against a simulated guest: data in both directions, the order of flushes and barriers, and
 * how it answers a hostile ring, a bad grant or a failing disk.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { OP_FLUSH_DISKCACHE, OP_INDIRECT, OP_READ, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { RING_HEADER_BYTES } from "../../lib/blkif/abi.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import { allOkay, READ_PAGE, Rig, type TestRequest } from "./rig.ts";

const MODES: readonly GrantMode[] = ["copy", "persistent", "map", "map-each"];
const write = (sector: number, page = 0): TestRequest => ({ operation: OP_WRITE, sector, segments: [[page, 0, 0]] });
const BARRIER: TestRequest = { operation: OP_WRITE_BARRIER, sector: 9, segments: [[1, 0, 0]] };
const EMPTY_BARRIER: TestRequest = { operation: OP_WRITE_BARRIER };
const FLUSH: TestRequest = { operation: OP_FLUSH_DISKCACHE };

for (const grants of MODES) {
  for (const abi of ["x86_64-abi", "x86_32-abi", "arm-abi"] as const) {
    Deno.test(`data of odd segments goes to the disk and back, ${grants}, ${abi}`, () => {
      using rig = new Rig({ grants, abi });
      rig.page(3).fill(1);
      rig.page(4).fill(2);
      rig.send({ operation: OP_WRITE, sector: 10, segments: [[3, 2, 4], [4, 7, 7], [3, 0, 0]] });
      rig.run();
      assertEquals([...rig.channel.data.subarray(10 * 512, 15 * 512)].filter((byte) => byte === 2).length, 512);
      rig.send({ operation: OP_READ, sector: 12, segments: [[8, 6, 7], [9, 0, 0]] });
      rig.run();
      assertEquals(rig.page(8).subarray(6 * 512, 7 * 512).every((byte) => byte === 1), true);
      assertEquals(rig.page(8).subarray(7 * 512).every((byte) => byte === 2), true);
      assertEquals(rig.page(8).subarray(0, 6 * 512).every((byte) => byte === 0), true);
      assertEquals(rig.page(9).subarray(0, 512).every((byte) => byte === 1), true);
      assertEquals(rig.responses(), [[1, OP_WRITE, 0], [2, OP_READ, 0]]);
      const kept = rig.stats.persistentGrants;
      assertEquals(kept, grants === "persistent" ? 4 : 0);
      assertEquals(rig.usage.mappedPages, 1 + kept, "only the ring stays mapped, and what is kept");
      const { reads, writes, sectorsRead, sectorsWritten, errors } = rig.stats;
      assertEquals({ reads, writes, sectorsRead, sectorsWritten, errors }, {
        reads: 1,
        writes: 1,
        sectorsRead: 3,
        sectorsWritten: 5,
        errors: 0,
      });
    });
  }

  Deno.test(`a bad grant in any position fails its request and leaves nothing mapped, ${grants}`, () => {
    for (let bad = 0; bad < 11; bad++) {
      using rig = new Rig({ grants });
      const segments = Array.from({ length: 11 }, (_, i) => [i === bad ? 9999 : i, 0, 7] as const);
      rig.send({ operation: OP_READ, segments }, { operation: OP_WRITE, segments }, READ_PAGE);
      rig.run();
      const statuses = rig.responses().sort(([a], [b]) => a - b).map(([, , status]) => status);
      assertEquals(statuses, [-1, -1, 0]);
      assertEquals(rig.usage.mappedPages, 1 + rig.stats.persistentGrants);
      assertEquals(rig.channel.history.some((line) => line.startsWith("write")), false);
      assertMatch(rig.complaints[0]!, /grant/);
    }
  });
}

Deno.test("revoking a grant while its read is in flight fails only that read", () => {
  using rig = new Rig({ grants: "copy" });
  rig.send(READ_PAGE, FLUSH);
  rig.stepUntilIdle();
  rig.pages[Symbol.dispose]();
  rig.run();
  assertEquals(rig.responses().sort(([a], [b]) => a - b), [[1, OP_READ, -1], [2, OP_FLUSH_DISKCACHE, 0]]);
  assertMatch(
    rig.complaints[0]!,
    /READ: copying to the guest's page failed: grant reference \d+: undefined error \(GNTST_general_error\)/,
  );
});

Deno.test("requests wait while all slots are in use, and are taken as others finish", () => {
  using rig = new Rig({ maxRequests: 2 });
  rig.send(write(0), write(1), write(2), write(3));
  rig.stepUntilIdle();
  assertEquals(rig.channel.started.length, 2);
  assertEquals(rig.stats.inFlight, 2);
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals(rig.channel.started.map(({ text }) => text), ["write 512+512", "write 1024+512"]);
  rig.run();
  assertEquals(rig.responses().length, 4);
});

Deno.test("a barrier waits for all earlier requests, flushes, writes, flushes, and holds back later ones", () => {
  using rig = new Rig();
  rig.send(write(0), write(1), BARRIER, write(2));
  rig.stepUntilIdle();
  assertEquals(rig.channel.history, ["write 0+512", "write 512+512"]);
  rig.run();
  assertEquals(rig.channel.history.slice(2), [
    "write 0+512 done",
    "write 512+512 done",
    "flush",
    "flush done",
    "write 4608+512",
    "write 4608+512 done",
    "flush",
    "flush done",
    "write 1024+512",
    "write 1024+512 done",
  ]);
  assertEquals(rig.responses().map(([id]) => id), [1, 2, 3, 4]);
});

Deno.test("a barrier starts at once if all requests before it were refused", () => {
  using rig = new Rig();
  rig.send({ operation: OP_READ }, EMPTY_BARRIER);
  rig.stepUntilIdle();
  assertEquals(rig.channel.history, ["flush"]);
  rig.run();
  assertEquals(rig.responses(), [[1, OP_READ, -1], [2, OP_WRITE_BARRIER, 0]]);
});

Deno.test("empty barriers and flushes are one flush; a flush with data is a flush, then a write", () => {
  using rig = new Rig();
  rig.send(EMPTY_BARRIER);
  rig.run();
  rig.send(FLUSH);
  rig.run();
  rig.send({ operation: OP_FLUSH_DISKCACHE, sector: 4, segments: [[0, 0, 0]] });
  rig.run();
  assertEquals(rig.channel.history.filter((line) => !line.endsWith("done")), [
    "flush",
    "flush",
    "flush",
    "write 2048+512",
  ]);
  assert(allOkay(rig.responses()));
  assertEquals([rig.stats.barriers, rig.stats.flushes], [1, 2]);
});

Deno.test("other requests start while a flush is in flight", () => {
  using rig = new Rig();
  rig.send(FLUSH, write(1), READ_PAGE);
  rig.stepUntilIdle();
  assertEquals(rig.channel.history, ["flush", "write 512+512", "read 0+4096"]);
});

Deno.test("unsupported operations are answered EOPNOTSUPP, indirect ones with their inner operation", () => {
  using rig = new Rig();
  rig.send({ operation: 4 }, { operation: 5 }, { operation: OP_INDIRECT, segmentCount: OP_WRITE }, { operation: 200 });
  rig.run();
  assertEquals(rig.responses(), [[1, 4, -2], [2, 5, -2], [3, OP_WRITE, -2], [4, 200, -2]]);
  assertEquals(rig.stats.unsupported, 4);
});

Deno.test("a read-only disk refuses writes, allows empty flushes and is not changed", () => {
  using rig = new Rig({ limits: { readOnly: true } });
  rig.page(0).fill(7);
  rig.page(1).fill(7);
  rig.send(write(0), BARRIER, FLUSH, READ_PAGE);
  rig.run();
  assertEquals(rig.responses().sort(([a], [b]) => a - b).map(([, , status]) => status), [-1, -1, 0, 0]);
  assertEquals(rig.channel.data.every((byte) => byte === 0), true);
});

Deno.test("a failed read is answered ERROR with the sector in the log, and the next one works", () => {
  using rig = new Rig();
  rig.page(0).fill(0x55);
  rig.send({ ...READ_PAGE, sector: 77 });
  rig.stepUntilIdle();
  rig.channel.complete(-5);
  rig.stepUntilIdle();
  assertEquals(rig.responses(), [[1, OP_READ, -1]]);
  assertEquals(rig.page(0)[0], 0x55, "a failed read gives the guest nothing");
  assertMatch(rig.complaints[0]!, /READ at sector 77: I\/O failed: EIO, the medium failed/);
  rig.send(READ_PAGE);
  rig.run();
  assertEquals(rig.responses(), [[2, OP_READ, 0]]);
  assertEquals(rig.stats.errors, 1);
});

Deno.test("after a failed flush all writes and flushes fail, and reads succeed", () => {
  using rig = new Rig();
  rig.send(FLUSH);
  rig.stepUntilIdle();
  rig.channel.complete(-5);
  rig.stepUntilIdle();
  rig.send(write(0), FLUSH, BARRIER, READ_PAGE);
  rig.run();
  assertEquals(rig.responses().sort(([a], [b]) => a - b).map(([, , status]) => status), [-1, -1, -1, -1, 0]);
  assertEquals(rig.channel.history.filter((line) => line.startsWith("write")), []);
  assertEquals(rig.latch.tripped, true);
});

Deno.test("a flush that succeeds after another one failed is answered ERROR, and starts no data", () => {
  using rig = new Rig();
  rig.send(FLUSH, { ...write(0), operation: OP_FLUSH_DISKCACHE }, FLUSH);
  rig.stepUntilIdle();
  rig.channel.complete(-5); // the kernel reports the loss to one of them only
  rig.channel.complete();
  rig.channel.complete();
  rig.run();
  assertEquals(rig.responses().map(([, , status]) => status), [-1, -1, -1]);
  assertEquals(rig.channel.history.filter((line) => line.startsWith("write")), []);
});

Deno.test("if the flush before a barrier's data fails, the data is not written", () => {
  using rig = new Rig();
  rig.send(BARRIER);
  rig.stepUntilIdle();
  rig.channel.complete(-28);
  rig.run();
  assertEquals(rig.responses(), [[1, OP_WRITE_BARRIER, -1]]);
  assertEquals(rig.channel.history, ["flush", "flush done"]);
});

Deno.test("at most one notification per batch, and none that the frontend did not ask for", () => {
  using rig = new Rig();
  rig.send(write(0), write(1), write(2));
  rig.stepUntilIdle();
  for (let i = 0; i < 3; i++) rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals(rig.notified, 1);
  rig.send(write(3));
  rig.run(); // the frontend has not looked since: its rsp_event is behind
  assertEquals(rig.notified, 1);
  assertEquals([rig.stats.notificationsSent, rig.stats.notificationsSaved], [1, 1]);
});

Deno.test("an idle queue asks for a notification; requests that come before it is idle need none", () => {
  using rig = new Rig();
  rig.stepUntilIdle();
  assertEquals(rig.send(write(0)), true);
  rig.queue.step();
  assertEquals(rig.send(write(1)), false);
  assertEquals(rig.queue.rest(), true);
});

Deno.test("an impossible producer index stops the ring: nothing more is taken or answered", () => {
  using rig = new Rig();
  rig.send(write(0));
  rig.stepUntilIdle();
  const before = rig.ringPage.view.slice();
  new Int32Array(rig.ringPage.view.buffer, rig.ringPage.view.byteOffset, 1)[0] = 1 + 33;
  before.set(rig.ringPage.view.subarray(0, 4));
  rig.run();
  assertMatch(rig.queue.broken!, /impossible/);
  assertEquals(rig.ringPage.view, before, "no byte of the ring changed");
  assertEquals([rig.notified, rig.stats.notificationsSent, rig.stats.notificationsSaved], [0, 0, 0]);
  assertEquals(rig.queue.state, "drained");
});

Deno.test("a draining queue takes nothing more, finishes what is in flight, flushes, and is drained", () => {
  using rig = new Rig();
  rig.send(write(0), write(1));
  rig.stepUntilIdle();
  rig.queue.drain();
  rig.send(write(2));
  rig.stepUntilIdle();
  assertEquals(rig.queue.state, "draining");
  rig.channel.complete();
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals(rig.responses().map(([id]) => id), [1, 2]);
  assertEquals(rig.channel.started.map(({ text }) => text), ["flush"]);
  assertEquals(rig.queue.state, "draining");
  rig.channel.complete();
  rig.stepUntilIdle();
  assertEquals(rig.queue.state, "drained");
  assertEquals(rig.channel.history.includes("write 1024+512"), false);
});

Deno.test("if the flush that ends a drain fails, the device's later writes are refused", () => {
  using rig = new Rig();
  rig.send(write(0));
  rig.run();
  rig.queue.drain();
  rig.stepUntilIdle();
  rig.channel.complete(-5);
  rig.stepUntilIdle();
  assertEquals([rig.queue.state, rig.latch.tripped], ["drained", true]);
  assertMatch(rig.complaints[0]!, /the last flush failed: EIO/);
});

Deno.test("draining a read-only disk needs no flush", () => {
  using rig = new Rig({ limits: { readOnly: true } });
  rig.queue.drain();
  rig.stepUntilIdle();
  assertEquals([rig.queue.state, rig.channel.history.length], ["drained", 0]);
});

Deno.test("what the guest writes into a slot of the ring after it was taken has no effect", () => {
  using rig = new Rig();
  rig.send(write(5));
  rig.stepUntilIdle();
  rig.ringPage.view.fill(0xff, RING_HEADER_BYTES);
  rig.run();
  assertEquals(rig.channel.history[0], "write 2560+512");
  assertEquals(rig.responses(), [[1, OP_WRITE, 0]]);
});

Deno.test("thousands of requests across the wrap of the indices are answered once each", () => {
  using rig = new Rig({ startIndex: 2 ** 32 - 100 });
  let id = 1;
  for (let round = 0; round < 100; round++) {
    const batch = Array.from({ length: 1 + (round * 7) % 32 }, () => write((id * 13) % 1000, id++ % 300));
    rig.send(...batch);
    rig.run();
    assertEquals(rig.responses().length, batch.length);
  }
  assertEquals(rig.stats.writes, id - 1);
  assertEquals(rig.stats.errors, 0);
});
