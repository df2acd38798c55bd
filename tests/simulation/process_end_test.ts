/**
 * Processes that end while a device is connected or removed. A killed process has no effect any more, wherever its
 * promises stand: it holds no lock, opens nothing and does not block the next process. That one answers each request
 * that is unanswered, once.
 */

import { assert, assertEquals } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";
import { backendPath } from "../../lib/xenbus/paths.ts";
import { Decisions } from "./decisions.ts";
import { Run } from "./run.ts";
import { simulate } from "./simulation.ts";
import type { Slot } from "./slot.ts";
import { World } from "./world.ts";

/** Every decision is the least eventful one. */
const UNEVENTFUL = { setup: [], steps: [], ending: [] };
/** More rounds than connecting, or resuming, takes. */
const MOST_ROUNDS = 80;
/** Far more microtasks than a process takes to end. */
const END_TICKS = 100;
/** More than a guest has to close its disk when the process detaches it. */
const GUEST_TIME_MS = 20_000;

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

// Promises settle one microtask at a time, or all after each round: rings are served before Connected is written.
for (const [moment, state, ticks] of [["written", "2", 1], ["seen", "4", undefined]] as const) {
  Deno.test(`requests from before Connected is ${moment} are answered once, though the process is killed`, async () => {
    const world = await worldUntil((slot) => slot.guest!.phase === "waiting" && slot.watch.channels.length > 0, ticks);
    const [slot] = world.slots;
    const { guest, watch } = slot!;
    assertEquals(stateOf(world), state);
    for (let i = 0; i < 2; i++) guest!.connection!.send(undefined, 0);
    world.process!.wake();
    world.turn();
    watch.channels[0]!.carryOut(1);
    world.process!.wake();
    world.turn(); // answers the second request while the first one is in flight
    world.process!.kill();
    world.startProcess();
    for (let rounds = 0; !slot!.isServed; rounds++) {
      assert(rounds < MOST_ROUNDS, "the device is not taken over");
      stepControlPlane(world);
      await world.settle();
    }
    for (let round = 0; round < MOST_ROUNDS; round++) {
      await goOn(world, 1);
      world.carryOut();
    }
    assertEquals([guest!.phase, guest!.connection?.inFlight, world.run.violation], ["connected", 0, undefined]);
  });
}

Deno.test("seed 2000617: a guest that has not seen Connected is taken over", async () => {
  assertEquals((await simulate(2000617)).failure, undefined);
});

Deno.test("seed 600187249: a disk is attached anew while a process waits for the image's lock to take it over", async () => {
  assertEquals((await simulate(600187249)).failure, undefined);
});

Deno.test("a process that detaches leaves a device alone that was attached anew while its rings were closed", async () => {
  const world = await connectedWorld();
  const [slot] = world.slots;
  world.stopProcess("detached");
  await world.settle();
  slot!.remove();
  stepControlPlane(world);
  await world.settle();
  slot!.toolstackStep();
  for (let rounds = 0; world.process!.state !== "ended"; rounds++) {
    assert(rounds < MOST_ROUNDS, "the process does not end");
    stepControlPlane(world);
    world.turn();
    world.carryOut();
    world.process!.clock.advance(1000);
    await world.settle();
  }
  assertEquals(stateOf(world), "1");
});

for (const leave of ["connected", "detached"] as const) {
  Deno.test(`an image that opens at any moment while its process ends, the device ${leave}, is closed`, async () => {
    let [before, after] = [0, 0];
    for (let ticks = 0; ticks < END_TICKS; ticks++) {
      const world = await openingWorld();
      const process = world.process!;
      world.stopProcess(leave);
      process.clock.advance(GUEST_TIME_MS);
      await world.settle(ticks);
      if (process.state === "ended") after++;
      else before++;
      process.finishCall();
      await world.settle();
      process.clock.advance(GUEST_TIME_MS);
      await world.settle();
      assertEquals([process.state, world.run.violation], ["ended", undefined], `after ${ticks} ticks`);
    }
    assert(before > 0 && after > 0, `opened before the end ${before} times, and after it ${after} times`);
  });
}

/** A world with one process that is opening the image of a device. */
async function openingWorld(): Promise<World> {
  const world = new World(new Run(new Decisions(new Random(0), UNEVENTFUL), false), {});
  world.startProcess();
  world.slots[0]!.toolstackStep();
  for (let rounds = 0; stateOf(world) !== "2"; rounds++) {
    assert(rounds < MOST_ROUNDS, "the device is not offered");
    world.deliver();
    await world.settle();
  }
  return world;
}

/** A world with one process that serves a connected guest. */
function connectedWorld(): Promise<World> {
  return worldUntil(({ guest }) => guest!.phase === "connected");
}

/** A world with one process and one guest, which connects until it is `there`. */
async function worldUntil(there: (slot: Slot) => boolean, ticks?: number): Promise<World> {
  const world = new World(new Run(new Decisions(new Random(0), UNEVENTFUL), false), {});
  const [slot] = world.slots;
  world.startProcess();
  slot!.toolstackStep();
  for (let rounds = 0; !there(slot!); rounds++) {
    assert(rounds < 10 * MOST_ROUNDS, "the guest does not connect");
    await goOn(world, 1, ticks);
  }
  return world;
}

/** In each round everybody does one thing; then promises settle for so many microtasks. */
async function goOn(world: World, rounds: number, ticks?: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    stepControlPlane(world);
    world.slots[0]!.guest!.step();
    world.turn();
    await world.settle(ticks);
  }
}

/** The backend's state node. */
function stateOf(world: World): string | undefined {
  const { address } = world.slots[0]!;
  using store = world.host.store.connect(address!.backendDomain);
  return store.read(`${backendPath(address!)}/state`);
}

function stepControlPlane(world: World): void {
  world.deliver();
  world.process!.finishCall();
}
