/**
 * assertNoEndlessGrowth tells a leak from a warm-up: it fails if something grows in every round, and only then.
 */

import { assertEquals, assertRejects } from "@std/assert";
import type { Holdings } from "../serve/backend.ts";
import { assertNoEndlessGrowth } from "../serve/growth.ts";

const OPTIONS = { warmUp: 2, allowed: { descriptors: 0, mappings: 0, residentKiB: 0 }, settleMs: 20 };

/** How many rounds run if the process holds `descriptors(round)` descriptors after each round. */
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

Deno.test("growth that ends, early or late, is not a leak", async () => {
  assertEquals(await roundsOver((round) => Math.min(round, 2)), 3);
  assertEquals(await roundsOver((round) => Math.min(round, 4)), 5);
});
