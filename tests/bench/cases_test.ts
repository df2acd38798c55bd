/**
 * The loads of the bench, and how a guest requests their blocks.
 */

import { assert, assertEquals } from "@std/assert";
import { CASES, diskCase, isOnCurve, PLOT_CASES, requestShape, ringPagesFor } from "../../bench/cases.ts";

Deno.test("a case's name has all of its parts", () => {
  assertEquals(diskCase("random", "write", 4, 32).name, "randwrite-4k-32");
  assertEquals(diskCase("sequential", "read", 128, 8).name, "seqread-128k-8");
  const names = [...CASES, ...PLOT_CASES].map(({ name }) => name);
  assertEquals(new Set(names).size, names.length);
  assert(PLOT_CASES.every(isOnCurve));
});

Deno.test("a ring has as many pages as the depth needs, a power of two", () => {
  assertEquals([1, 8, 32, 33, 64, 65, 128, 512].map((depth) => ringPagesFor({ depth })), [1, 1, 1, 2, 2, 4, 4, 16]);
});

Deno.test("a block is split into direct requests only where no request holds it", () => {
  const large = diskCase("sequential", "read", 128, 8);
  assertEquals(requestShape(large, 256), { blockBytes: 131072, depth: 8 });
  assertEquals(requestShape(large, 32), { blockBytes: 131072, depth: 8 });
  assertEquals(requestShape(large, 11), { blockBytes: 45056, depth: 24 });
  assertEquals(requestShape(diskCase("sequential", "read", 44, 8), 0), { blockBytes: 45056, depth: 8 });
});
