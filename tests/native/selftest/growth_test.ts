/**
 * What tells leaks from warm-up tells them: it must notice what grows in every round and nothing else.
 */

import { assertEquals, assertRejects } from "@std/assert";
import type { Holdings } from "../serve/backend.ts";
import { assertNoEndlessGrowth } from "../serve/growth.ts";

const OPTIONS = { warmUp: 2, allowed: { descriptors: 0, mappings: 0, residentKiB: 0 }, settleMs: 20 };

/** Rounds that were run over a process that holds so many descriptors after each of them. */
async function roundsOver(descriptors: (round: number) => number): Promise<number> {
  let rounds = 0;
  const holdings = (): Promise<Holdings> =>
    Promise.resolve({
      descriptors: descriptors(rounds),
      mappings: 0,
      residentKiB: 0,
      mappedPages: 0,
      ports: 0,
    });
  await assertNoEndlessGrowth({ holdings }, () => Promise.resolve(void rounds++), OPTIONS);
  return rounds;
}

Deno.test("growth in every round is a leak", async () => {
  await assertRejects(() => roundsOver((round) => round), Error, "1/0/0 KiB, 2/0/0 KiB");
});

Deno.test("growth that ends, early or late, is none", async () => {
  assertEquals(await roundsOver((round) => Math.min(round, 2)), 3);
  assertEquals(await roundsOver((round) => Math.min(round, 4)), 5);
});
