/**
 * The gate's share of the simulation: 400 seeds, in which every kind of fault strikes and nothing goes wrong. For more
 * seeds, or one in full: `deno task sim`.
 */

import { assertEquals } from "@std/assert";
import { FAULT_KINDS, type FaultKind } from "./faults.ts";
import { simulate } from "./simulation.ts";

const SEEDS = 400;
/** Too rare to be required of 400 seeds. */
const RARE: FaultKind = "flush error untold";

Deno.test(`${SEEDS} seeds run without a violation, and every kind of fault strikes`, async () => {
  const struck = new Set<FaultKind>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { failure, faults } = await simulate(seed);
    assertEquals(failure, undefined, `seed ${seed}; see it with: deno task sim ${seed}`);
    for (const kind of FAULT_KINDS) if (faults[kind] > 0) struck.add(kind);
  }
  assertEquals(FAULT_KINDS.filter((kind) => !struck.has(kind) && kind !== RARE), []);
});
