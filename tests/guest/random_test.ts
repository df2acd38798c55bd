/**
 * Seeded random numbers: a seed replays its stream, different seeds give different streams, and draws are in bounds and
 * evenly distributed.
 */

import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";

Deno.test("a seed replays its stream, and neighbouring seeds share no number", () => {
  const draws = (seed: number): number[] => {
    const random = new Random(seed);
    return Array.from({ length: 50 }, () => random.next());
  };
  assertEquals(draws(42), draws(42));
  for (let seed = 0; seed < 50; seed++) {
    assertNotEquals(draws(seed), draws(seed + 1));
    assertEquals(new Set([...draws(seed), ...draws(seed + 1)]).size, 100);
  }
});

Deno.test("draws are in bounds and evenly distributed", () => {
  const random = new Random(1);
  for (const end of [1, 2, 7, 1000, 2 ** 32, 2 ** 33 + 1, 2 ** 52]) {
    let sum = 0;
    for (let i = 0; i < 20_000; i++) {
      const value = random.below(end);
      assert(Number.isInteger(value) && value >= 0 && value < end);
      sum += value;
    }
    assert(Math.abs(sum / 20_000 - (end - 1) / 2) <= end * 0.02, `mean below ${end}`);
  }
  const counts = new Array<number>(6).fill(0);
  for (let i = 0; i < 60_000; i++) counts[random.between(10, 15) - 10]! += 1;
  assert(counts.every((count) => count > 9500 && count < 10_500));
  let hits = 0;
  for (let i = 0; i < 20_000; i++) if (random.chance(0.25)) hits++;
  assert(Math.abs(hits - 5000) < 300);
  assertEquals([random.chance(0), random.chance(1)], [false, true]);
  const fraction = random.fraction();
  assert(fraction >= 0 && fraction < 1);
  assert(["a", "b"].includes(random.pick(["a", "b"])));
});
