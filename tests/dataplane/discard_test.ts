/**
 * Discards on the queue, stepped by hand: which bytes reach the engine, which are refused, and their order among
 * barriers. tests/blkif/indirect_test.ts tests the arithmetic.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { OP_DISCARD, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import type { DiskLimits } from "../../lib/blkif/request.ts";
import { Rig, type TestRequest } from "./rig.ts";

const DISCARDS: Partial<DiskLimits> = { discard: { granularityBytes: 4096, alignmentBytes: 0, secure: false } };
const discard = (sector: number, sectors: number, flag = 0): TestRequest => ({
  operation: OP_DISCARD,
  sector,
  sectors,
  flag,
});

for (const abi of ["x86_64-abi", "x86_32-abi", "arm-abi"] as const) {
  Deno.test(`a discard is shrunk to whole granules; one of less than a granule does not reach the engine, ${abi}`, () => {
    using rig = new Rig({ abi, limits: DISCARDS });
    rig.send(discard(8, 16), discard(9, 16), discard(1, 14), discard(0, 0), discard(1024, 0), discard(0, 1024));
    rig.run();
    assertEquals(rig.channel.history.filter((line) => !line.endsWith("done")), [
      "discard 4096+8192",
      "discard 8192+4096",
      "discard 0+524288",
    ]);
    assertEquals(rig.responses().map(([, ...rest]) => rest), Array(6).fill([OP_DISCARD, 0]));
    assertEquals([rig.stats.discards, rig.stats.sectorsDiscarded, rig.stats.unsupported], [6, 16 + 8 + 1024, 0]);
  });

  Deno.test(`a discard beyond the end, or of 2^54 sectors, is answered ERROR and does not reach the engine, ${abi}`, () => {
    using rig = new Rig({ abi, limits: DISCARDS });
    const bad = [discard(1024, 1), discard(1020, 5), discard(0, 2 ** 54), discard(8, 2 ** 52), discard(2 ** 52, 8)];
    rig.send(...bad);
    rig.run();
    assertEquals(rig.responses().map(([, ...rest]) => rest), Array(5).fill([OP_DISCARD, -1]));
    assertEquals(rig.channel.history, []);
  });
}

Deno.test("a disk that takes no discards answers EOPNOTSUPP, and a read-only one ERROR", () => {
  using none = new Rig();
  none.send(discard(0, 8));
  none.run();
  assertEquals([none.responses(), none.stats.unsupported], [[[1, OP_DISCARD, -2]], 1]);
  using readOnly = new Rig({ limits: { ...DISCARDS, readOnly: true } });
  readOnly.send(discard(0, 8));
  readOnly.run();
  assertEquals(readOnly.responses(), [[1, OP_DISCARD, -1]]);
});

Deno.test("the secure flag is passed on where the disk honours it, and ignored elsewhere", () => {
  for (const secure of [false, true]) {
    using rig = new Rig({ limits: { discard: { ...DISCARDS.discard!, secure } } });
    rig.send(discard(0, 8, 1), discard(8, 8, 0), discard(16, 8, 0xfe));
    rig.run();
    const told = rig.channel.history.filter((line) => line.endsWith("secure"));
    assertEquals(told, secure ? ["discard 0+4096 secure"] : []);
    assertEquals(rig.responses().every(([, , status]) => status === 0), true);
  }
});

Deno.test("an engine's EOPNOTSUPP is answered EOPNOTSUPP, any other failure of a discard ERROR", () => {
  for (const [errno, status, name] of [[-95, -2, "EOPNOTSUPP"], [-5, -1, "EIO"], [-28, -1, "ENOSPC"]] as const) {
    using rig = new Rig({ limits: DISCARDS });
    rig.send(discard(0, 8));
    rig.stepUntilIdle();
    rig.channel.complete(errno);
    rig.stepUntilIdle();
    assertEquals(rig.responses(), [[1, OP_DISCARD, status]]);
    assertMatch(rig.complaints[0]!, new RegExp(`DISCARD at sector 0: I/O failed: ${name}`));
    assertEquals(rig.latch.tripped, false);
  }
});

Deno.test("discards keep their order with barriers and are refused after a failed flush", () => {
  using rig = new Rig({ limits: DISCARDS });
  rig.send(discard(0, 8), { operation: OP_WRITE_BARRIER, sector: 0, segments: [[0, 0, 7]] }, discard(8, 8));
  rig.run();
  assertEquals(rig.channel.history.filter((line) => !line.endsWith("done")), [
    "discard 0+4096",
    "flush",
    "write 0+4096",
    "flush",
    "discard 4096+4096",
  ]);
  rig.responses();
  rig.latch.trip();
  rig.send(discard(0, 8));
  rig.run();
  assertEquals(rig.responses(), [[4, OP_DISCARD, -1]]);
});

Deno.test("after a failed flush on one queue, all queues of the device refuse writes, even after a reconnect", () => {
  using first = new Rig();
  using second = new Rig({ latch: first.latch });
  const write: TestRequest = { operation: OP_WRITE, segments: [[0, 0, 0]] };
  first.send({ operation: OP_WRITE_BARRIER });
  first.stepUntilIdle();
  first.channel.complete(-5);
  first.stepUntilIdle();
  second.send(write);
  second.run();
  using later = new Rig({ latch: first.latch });
  later.send(write, { operation: 3 });
  later.run();
  assertEquals([second.responses(), later.responses()], [[[1, OP_WRITE, -1]], [[1, OP_WRITE, -1], [2, 3, -1]]]);
});
