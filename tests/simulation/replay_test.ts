/**
 * A seed determines a run: it replays to the same hash over everything that happened, also from its recorded decisions,
 * and a failing run is shrunk to the decisions that make it fail.
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";
import type { Breakage } from "./backend_process.ts";
import { Decisions } from "./decisions.ts";
import { kindOfFailure, shrink } from "./shrink.ts";
import { simulate } from "./simulation.ts";

Deno.test("a seed and its record replay to the same hash; other seeds give other runs", async () => {
  const hashes = new Set<number>();
  for (let seed = 1000; seed < 1020; seed++) {
    const first = await simulate(seed);
    const again = await simulate(seed, { trace: true });
    assertEquals([again.hash, again.script], [first.hash, first.script], `seed ${seed}`);
    const played = await simulate(0, { script: first.script });
    assertEquals([played.hash, played.failure], [first.hash, first.failure], `the record of seed ${seed}`);
    hashes.add(first.hash);
  }
  assertEquals(hashes.size, 20);
});

Deno.test("missing choices of a script are the least eventful ones, and it has no further steps", () => {
  const decisions = new Decisions(new Random(1), { setup: [3, 99], steps: [[], [5]], ending: [1] });
  assertEquals([decisions.below(10), decisions.below(10), decisions.below(10)], [3, 9, 0]);
  assertEquals([decisions.beginStep(), decisions.chance(999), decisions.beginStep(), decisions.below(9)], [
    true,
    false,
    true,
    5,
  ]);
  assertEquals(decisions.beginStep(), false);
  decisions.beginEnding();
  assertEquals(decisions.below(2), 1);
  assertEquals(decisions.record, { setup: [3, 9, 0], steps: [[0], [5]], ending: [1] });
});

Deno.test("a failing run is shrunk to a third of its steps or less and still fails in the same way", async () => {
  const breakage: Breakage = {
    spec: (spec) => ({ ...spec, disk: { ...spec.disk, properties: { ...spec.disk.properties, sectors: 1000 } } }),
  };
  let seed = 0;
  let outcome = await simulate(++seed, { breakage });
  while (outcome.failure === undefined || outcome.steps < 100) outcome = await simulate(++seed, { breakage });
  const play = async (script: typeof outcome.script): Promise<string | undefined> =>
    (await simulate(seed, { script, breakage })).failure;
  const { script, attempts } = await shrink(outcome.script, play, 400);
  const failure = await play(script);
  assert(failure !== undefined);
  assertEquals(kindOfFailure(failure), kindOfFailure(outcome.failure));
  assert(script.steps.length * 3 < outcome.steps, `${outcome.steps} steps, ${script.steps.length} left`);
  assert(attempts <= 400);
  assertNotEquals(script, outcome.script);
});
