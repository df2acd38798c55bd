/**
 * What engines may do with the memory of each grant mode, all combinations.
 */

import { assertEquals } from "@std/assert";
import { memoryRule } from "../../lib/dataplane/memory_rule.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";

Deno.test("direct I/O on a guest's pages needs the toolstack's word; on our own it never does", () => {
  const direct = (mode: GrantMode): boolean[] => [false, true].map((safe) => memoryRule(mode, safe).direct);
  assertEquals(direct("copy"), [true, true]);
  for (const mode of ["persistent", "map", "map-each"] as const) assertEquals(direct(mode), [false, true]);
});

Deno.test("pages that are unmapped with the answer are only for I/O that is over when its call returns", () => {
  for (const safe of [false, true]) {
    const asynchronous = (["copy", "persistent", "map", "map-each"] as const).map((mode) =>
      memoryRule(mode, safe).asynchronous
    );
    assertEquals(asynchronous, [true, true, false, false]);
  }
});
