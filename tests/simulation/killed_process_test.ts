/**
 * A killed process has no effect any more, wherever its promises stand: it holds no lock, opens nothing and does not
 * block the next process. Shown by killing a process after every number of microtasks while it takes over a guest.
 */

import { assert, assertEquals } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";
import { Decisions } from "./decisions.ts";
import { Run } from "./run.ts";
import { simulate } from "./simulation.ts";
import { World } from "./world.ts";

/** Every decision is the least eventful one. */
const UNEVENTFUL = { setup: [], steps: [], ending: [] };
/** More rounds than connecting, or resuming, takes. */
const MOST_ROUNDS = 40;

Deno.test("a process that is killed while it takes over a device holds nothing, after whichever await", async () => {
  let served = 0;
  for (let rounds = 0; rounds < MOST_ROUNDS; rounds++) {
    const world = await connectedWorld();
    const [slot] = world.slots;
    slot!.requestRemoval();
    world.process!.kill();
    world.startProcess();
    await goOn(world, rounds, 1);
    if (slot!.isServed) served++;
    world.process!.kill();
    await world.settle();
    assertEquals(
      [slot!.watch.locked, slot!.watch.channels.length, slot!.isServed, world.run.violation],
      [false, 0, false, undefined],
      `killed after ${rounds} rounds`,
    );
  }
  assert(served > 0 && served < MOST_ROUNDS, `killed before it served and after: ${served} of ${MOST_ROUNDS} served`);
});

Deno.test("seed 500257: a process is killed before it locks the image that it has opened", async () => {
  assertEquals((await simulate(500257)).failure, undefined);
});

/** A world with one process that serves a guest. */
async function connectedWorld(): Promise<World> {
  const world = new World(new Run(new Decisions(new Random(0), UNEVENTFUL), false), {});
  world.startProcess();
  world.slots[0]!.toolstackStep();
  for (let rounds = 0; world.slots[0]!.guest!.phase !== "connected"; rounds++) {
    assert(rounds < MOST_ROUNDS, "the guest does not connect");
    await goOn(world, 1);
  }
  return world;
}

/** Everybody goes on once a round; then promises settle for so many microtasks. */
async function goOn(world: World, rounds: number, ticks?: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    world.deliver();
    world.process!.finishOpening();
    world.slots[0]!.guest!.step();
    world.turn();
    await world.settle(ticks);
  }
}
