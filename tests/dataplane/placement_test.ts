/**
 * Which queue moves where: simulated reactors under loads of all kinds, with virtual time. A reactor's demand is what its
 * queues ask for; it serves them all in proportion once that is more than it has.
 */

import { assert, assertEquals } from "@std/assert";
import { Placement, workOf } from "../../lib/dataplane/placement.ts";
import { STAT } from "../../lib/dataplane/stats.ts";
import { Random } from "../../lib/guest/random.ts";

/** A simulated queue: what part of a reactor it asks for. */
interface Queue {
  readonly id: number;
  demand: number;
  lane: number;
  readonly fixed?: boolean;
}

/** Work of a reactor that is busy all the time, in one look. */
const WORK_PER_LOOK = 100_000;

/** Reactors with their queues, and a look a second. */
class Reactors {
  readonly placement = new Placement();
  moves: { readonly look: number; readonly id: number; readonly from: number; readonly to: number }[] = [];
  looks = 0;

  constructor(readonly count: number, readonly queues: Queue[]) {}

  /** From 0 to 1. */
  load(lane: number): number {
    return Math.min(1, this.demand(lane));
  }

  demand(lane: number): number {
    return this.queues.filter((queue) => queue.lane === lane).reduce((sum, { demand }) => sum + demand, 0);
  }

  /** How much all queues get of what they ask for. */
  get served(): number {
    return Array.from({ length: this.count }, (_, lane) => this.load(lane)).reduce((sum, load) => sum + load, 0);
  }

  look(noise: (load: number) => number = (load) => load): void {
    this.looks++;
    const views = Array.from({ length: this.count }, (_, lane) => ({
      lane,
      load: noise(this.load(lane)),
      queues: this.queues.filter((queue) => queue.lane === lane).map(({ id, demand, fixed }) => ({
        id,
        work: demand / Math.max(1, this.demand(lane)) * WORK_PER_LOOK,
        canMoveTo: () => fixed !== true,
      })),
    }));
    const move = this.placement.look(views);
    if (move === undefined) return;
    const queue = this.queues.find(({ id }) => id === move.id)!;
    this.moves.push({ look: this.looks, id: move.id, from: queue.lane, to: move.to });
    queue.lane = move.to;
  }

  run(looks: number, noise?: (load: number) => number): this {
    for (let i = 0; i < looks; i++) this.look(noise);
    return this;
  }
}

function queues(demands: readonly number[], lane = 0): Queue[] {
  return demands.map((demand, id) => ({ id, demand, lane }));
}

Deno.test("of two hot queues on a full reactor one moves to the idle one, after some seconds, and stays", () => {
  const reactors = new Reactors(2, queues([0.8, 0.8])).run(100);
  assertEquals(reactors.moves.length, 1);
  assertEquals(reactors.moves[0]!.look, 3);
  assertEquals(new Set(reactors.queues.map(({ lane }) => lane)), new Set([0, 1]));
});

Deno.test("a hot queue that alone fills a reactor stays; its small neighbours leave it", () => {
  const alone = new Reactors(2, queues([5])).run(100);
  assertEquals(alone.moves, []);
  const crowded = new Reactors(2, queues([5, 0.2, 0.2, 0.2])).run(100);
  assertEquals(crowded.queues.map(({ lane }) => lane), [0, 1, 1, 1]);
});

Deno.test("nothing moves while no reactor is full, or none has room, or only for a moment", () => {
  assertEquals(new Reactors(2, queues([0.4, 0.4])).run(100).moves, []);
  const both = [...queues([0.8, 0.8]), { id: 7, demand: 0.7, lane: 1 }];
  assertEquals(new Reactors(2, both).run(100).moves, []);
  const burst = new Reactors(2, queues([0.1, 0.1]));
  for (let i = 0; i < 30; i++) {
    for (const queue of burst.queues) queue.demand = i % 3 === 0 ? 0.1 : 0.8;
    burst.look();
  }
  assertEquals(burst.moves, []);
});

Deno.test("a queue whose disk cannot move stays", () => {
  const reactors = new Reactors(2, queues([0.6, 0.6]).map((queue) => ({ ...queue, fixed: true }))).run(50);
  assertEquals(reactors.moves, []);
});

Deno.test("hundreds of queues on one of eight reactors spread until none is full, one move at a time", () => {
  const reactors = new Reactors(8, queues(Array(200).fill(0.02))).run(2000);
  for (let lane = 0; lane < 8; lane++) assert(reactors.load(lane) < 0.85, `${lane}: ${reactors.load(lane)}`);
  const looks = reactors.moves.map(({ look }) => look);
  assert(looks.every((look, i) => i === 0 || look - looks[i - 1]! >= 2), "a pause between moves");
});

Deno.test("whatever the loads are, nothing moves back and forth, and moves never make less be served", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = new Random(seed);
    const count = 2 + random.below(7);
    const all = Array.from({ length: 1 + random.below(24) }, (_, id) => ({
      id,
      demand: random.below(1000) / (random.below(4) === 0 ? 400 : 4000),
      lane: random.below(count),
      fixed: random.below(10) === 0,
    }));
    const reactors = new Reactors(count, all);
    const before = reactors.served;
    // Half of the runs measure badly.
    const error = random.below(2) * 50;
    reactors.run(600, (load) => Math.min(1, Math.max(0, load + (random.below(2 * error + 1) - error) / 1000)));
    assert(reactors.served >= before - 1e-9, `seed ${seed}: ${before} became ${reactors.served}`);
    // With a steady demand each queue finds its place in a few moves.
    for (const { id } of all) {
      const own = reactors.moves.filter((move) => move.id === id);
      assert(own.length <= 4, `seed ${seed}: queue ${id} moved ${own.length} times`);
    }
    if (error === 0) assertEquals(reactors.moves.filter(({ look }) => look > 300), [], `seed ${seed} comes to rest`);
  }
});

Deno.test("a queue's work counts its requests, bytes and visits", () => {
  const stats = new Float64Array(Object.keys(STAT).length);
  stats[STAT.reads] = 10;
  const reads = workOf(stats);
  stats[STAT.sectorsRead] = 880;
  const large = workOf(stats);
  stats[STAT.passes] = 10;
  assert(reads > 0 && large > reads && workOf(stats) > large);
});
