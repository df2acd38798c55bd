/**
 * How guests share one reactor, in virtual time: what a small guest keeps beside large, deep and hostile neighbours, how
 * even a crowd is, and what weights do.
 */

import { assert, assertEquals, assertGreater, assertLess } from "@std/assert";
import fc from "fast-check";
import { type Demand, type Load, World } from "./fair_world.ts";

const WARM_UP_US = 20_000;
const MEASURED_US = 100_000;
/** A guest that reads one page at a time. */
const SMALL: Demand = { operation: "read", depth: 1, thinkUs: 20 };
const BUSY: Demand = { operation: "read", depth: 32 };
const DEEP: Demand = { operation: "read", depth: 256, ringPages: 8 };

const NEIGHBOURS: Readonly<Record<string, Demand>> = {
  "full rings": BUSY,
  "deep rings": DEEP,
  "deep rings of single sectors": { ...DEEP, sectors: 1 },
  "writes of 44 KiB": { operation: "write", depth: 32, segments: 11 },
  "indirect reads of 128 KiB": { ...BUSY, segments: 32 },
  "indirect reads of 1 MiB": { ...BUSY, segments: 256 },
  "indirect writes of one segment": { operation: "write", depth: 32, indirect: true },
  "bad requests": { operation: "bad", depth: 32 },
  "barriers": { operation: "barrier", depth: 32 },
  "flushes": { operation: "flush", depth: 32 },
  "notifications without requests": { operation: "nothing", depth: 1, thinkUs: 2 },
};
/** What a disk takes beside the reactor's time: nothing, as from the page cache, or as an SSD. */
const DEVICES_US = [0, 80];

function measure(demands: readonly Demand[], deviceUs = 0, us = MEASURED_US): readonly Load[] {
  using world = new World(demands, deviceUs);
  world.run(WARM_UP_US);
  world.run(us);
  return world.loads;
}

/** Half of its fair share in requests, and a 99th percentile of at most five times that without neighbours. */
function assertUnharmed(neighbours: readonly Demand[], deviceUs: number, us = MEASURED_US): void {
  const alone = measure([SMALL], deviceUs, us)[0]!;
  const beside = measure([SMALL, ...neighbours], deviceUs, us)[0]!;
  const fairShare = alone.answered / (neighbours.length + 1);
  assertGreater(beside.answered, fairShare / 2);
  const [p99, p99Alone] = [beside.percentileUs(0.99), alone.percentileUs(0.99)];
  assert(p99 <= 5 * p99Alone, `a 99th percentile of ${p99} µs, and ${p99Alone} µs alone`);
}

for (const [name, demand] of Object.entries(NEIGHBOURS)) {
  Deno.test(`a guest at depth 1 keeps half of its share, and its latency, beside ${name}`, () => {
    for (const deviceUs of DEVICES_US) {
      for (const count of [1, 4, 16]) assertUnharmed(Array(count).fill(demand), deviceUs);
    }
  });
}

Deno.test("a guest at depth 1 keeps half of its share, and its latency, beside any mix", () => {
  const neighbour = fc.constantFrom(...Object.values(NEIGHBOURS));
  const mixes = fc.array(neighbour, { minLength: 1, maxLength: 10 });
  fc.assert(
    fc.property(mixes, fc.constantFrom(...DEVICES_US), (mix, deviceUs) => assertUnharmed(mix, deviceUs, 30_000)),
    { numRuns: 30 },
  );
});

Deno.test("of 64 guests that ask for all they can get, none gets much less than another", () => {
  for (const demand of [BUSY, DEEP, { ...BUSY, segments: 11 }]) {
    const answered = measure(Array(64).fill(demand), 0, 3 * MEASURED_US).map((load) => load.answered);
    assertGreater(Math.min(...answered), 0.8 * Math.max(...answered));
  }
});

Deno.test("guests with different loads get the same of the reactor's time", () => {
  const loads = measure([BUSY, DEEP, { ...BUSY, segments: 11 }, { ...BUSY, segments: 32 }]);
  // By the world's own model: what a request takes, and a page of it.
  const times = loads.map(({ answered, demand }) => answered * (2.6 + (demand.segments ?? 1) * 0.8));
  assertGreater(Math.min(...times), 0.6 * Math.max(...times));
});

/** Each load's part of all answers, as against its part of all weights. */
function assertProportional(loads: readonly { readonly answered: number }[], weights: readonly number[]): void {
  const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
  const answered = loads.map((load) => load.answered);
  for (const [i, weight] of weights.entries()) {
    const [share, part] = [answered[i]! / sum(answered), weight / sum(weights)];
    assert(Math.abs(share - part) < 0.15 * part + 0.001, `weights ${weights}: answered ${answered}`);
  }
}

for (const deviceUs of DEVICES_US) {
  Deno.test(`weights divide the reactor, disks that take ${deviceUs} µs`, () => {
    for (const weights of [[100, 200, 400], [10, 1000], [1, 10, 100, 1000]]) {
      assertProportional(measure(weights.map((weight) => ({ ...DEEP, weight })), deviceUs, 10 * MEASURED_US), weights);
    }
  });
}

Deno.test("a weight that changes holds from then on", () => {
  using world = new World([DEEP, DEEP]);
  world.run(WARM_UP_US);
  world.run(MEASURED_US);
  assertProportional(world.loads, [1, 1]);
  world.loads[0]!.weight.value = 300;
  world.run(MEASURED_US);
  assertProportional(world.loads, [3, 1]);
  world.loads[0]!.weight.value = 25;
  world.run(MEASURED_US);
  assertProportional(world.loads, [1, 4]);
});

Deno.test("a guest gets no more for several disks, and divides what it gets by their weights", () => {
  const disks = [{ ...DEEP, domain: 1 }, { ...DEEP, domain: 1, weight: 300 }, { ...DEEP, domain: 2, weight: 300 }];
  assertProportional(measure(disks, 0, 3 * MEASURED_US), [1, 3, 4]);
  const alike = [...Array(4).fill({ ...DEEP, domain: 1 }), { ...DEEP, domain: 2 }];
  assertProportional(measure(alike, 0, 3 * MEASURED_US), [1, 1, 1, 1, 4]);
});

Deno.test("the smallest weight costs nothing while nobody else has requests", () => {
  for (const deviceUs of DEVICES_US) {
    const idle = { ...SMALL, thinkUs: 1e9, weight: 1000 };
    const [usual] = measure([DEEP, idle], deviceUs);
    const [least] = measure([{ ...DEEP, weight: 1 }, idle], deviceUs);
    assertEquals(least!.answered, usual!.answered);
  }
});

Deno.test("a guest that was charged much and leaves does not change how the others share", () => {
  const demands: Demand[] = [{ ...DEEP, weight: 200 }, DEEP, { operation: "bad", depth: 32, weight: 1000 }];
  using world = new World(demands);
  world.run(WARM_UP_US);
  world.reactor.close(3);
  world.run(MEASURED_US);
  assertProportional(world.loads.slice(0, 2), [2, 1]);
});

Deno.test("a ring that waits for its turn is closed without waiting for it", () => {
  using world = new World([DEEP, { ...DEEP, weight: 1 }]);
  world.run(MEASURED_US);
  world.reactor.close(2);
  const { answered } = world.loads[0]!;
  world.turnUntil(() => world.reactor.queues === 1);
  assertLess(world.loads[0]!.answered - answered, 1000);
});

Deno.test("a guest whose disk fails is served, and costs the others no more than one that works", () => {
  const failing: Demand = { ...DEEP, fails: true };
  const [beside, bad] = measure([DEEP, failing]);
  assertGreater(bad!.answered, 0);
  assertGreater(beside!.answered, measure([DEEP, DEEP])[0]!.answered);
});
