/**
 * How a simulated run ends: no fault strikes any more and nobody misbehaves, so everything that was begun must come to
 * its end, every guest to its disk, and every answer to its guest; then the disks are looked at, the process is
 * stopped, and nothing may be left of it; and what was promised must survive the loss of power.
 */

import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage } from "../../lib/sim/platform.ts";
import type { Slot } from "./slot.ts";
import type { World } from "./world.ts";

/** Rounds in which everything must come to rest, each of them a chance for everybody. */
const ROUNDS = 120;
const TURNS_PER_ROUND = 20;
const ROUND_MS = 200;

/** Runs the end of a run. */
export async function end(world: World): Promise<void> {
  const { run } = world;
  run.decisions.beginEnding();
  run.faults.enabled = false;
  run.note("ending");
  if (run.decisions.below(2) === 1) world.failPower();
  await comeToRest(world);
  check(world);
  await stop(world);
  if (!await rests(world)) fail(world); // the next process goes on
  check(world);
  await retire(world);
  checkMachine(world);
  world.failPower();
}

/** Everybody gets to where they want to be; with help from the operator if a fault made that necessary. */
async function comeToRest(world: World): Promise<void> {
  const { run } = world;
  if (await rests(world)) return;
  const needed = ["image not opened", "grant map", "grant unmap"] as const;
  if (needed.every((kind) => run.faults.countOf(kind) === 0)) return fail(world);
  run.note("the operator restarts the process");
  await stop(world);
  if (await rests(world)) return;
  run.note("the operator attaches the disks anew");
  for (const slot of world.slots) if (!isContent(slot)) slot.remove();
  if (!await rests(world)) fail(world);
}

async function rests(world: World): Promise<boolean> {
  for (let round = 0; round < ROUNDS; round++) {
    await goOn(world);
    if (world.process?.state === "running" && world.slots.every(isContent)) return true;
  }
  return false;
}

/** Everybody does what they have to do. */
async function goOn(world: World): Promise<void> {
  world.ensureStore();
  await world.attempt(() => world.startProcess());
  for (const slot of world.slots) {
    if (slot.guest !== undefined) slot.guest.calm = true;
    await world.attempt(() => slot.toolstackStep());
    await world.attempt(() => slot.guest?.stopNonsense());
    await world.attempt(() => slot.guest?.step());
  }
  await world.settle();
  for (const gate of world.process?.deliverable ?? []) gate.deliver();
  await world.settle();
  world.process?.finishOpening();
  await world.settle();
  for (let turn = 0; turn < TURNS_PER_ROUND; turn++) {
    world.turn();
    world.carryOut();
  }
  world.process?.clock.advance(ROUND_MS);
  await world.settle();
}

function isContent({ guest }: Slot): boolean {
  return guest?.phase === "connected" && guest.connection?.inFlight === 0;
}

function fail(world: World): never {
  const states = world.slots.map(({ guest, address }) => {
    const inFlight = guest?.connection?.inFlight ?? 0;
    return `domain ${address?.frontendDomain} is ${guest?.phase} with ${inFlight} requests in flight`;
  });
  return world.run.fail(`no rest: the process is ${world.process?.state}; ${states.join("; ")}`);
}

function check(world: World): void {
  for (const { guest, watch: { disk, history } } of world.slots) {
    guest?.connection?.check();
    disk.checkGuard();
    const fault = history.inspect((sector) => disk.idOf(sector), world.run.tick());
    if (fault !== undefined) world.run.fail(`${disk.name} is wrong: ${fault}`);
  }
}

/** Stops the process and lets it end. */
async function stop(world: World): Promise<void> {
  world.stopProcess();
  for (let round = 0; round < ROUNDS && world.process?.state === "stopping"; round++) {
    world.process.finishOpening();
    for (let turn = 0; turn < TURNS_PER_ROUND; turn++) {
      world.turn();
      world.carryOut();
    }
    await world.settle();
  }
  if (world.process?.state === "stopping") world.run.fail("the process does not end though it was asked to");
}

/** All guests die while they are served, and when everything of them is cleaned up the process ends. */
async function retire(world: World): Promise<void> {
  for (const slot of world.slots) slot.retire();
  const over = (): boolean => world.slots.every((slot) => slot.address === undefined && !slot.isServed);
  for (let round = 0; round < ROUNDS && !over(); round++) await goOn(world);
  if (!over()) world.run.fail("a guest died, and its disk is not given up");
  await stop(world);
  checkKept(world);
  // The next process removes what is left of disks that were taken away while no process was there to see it.
  world.startProcess();
  await stop(world);
}

/** Of guests that died while they were served nothing is kept for a next process. */
function checkKept({ run, slots, host: { journals } }: World): void {
  for (const { domain } of slots) {
    const kept = [...journals.keys()].find((name) => name.startsWith(`vbd3-${domain}-`));
    if (kept !== undefined) run.fail(`the guest is dead, and ${kept} is still there`);
  }
}

/** Without guests and process nothing of the machine is in use. */
function checkMachine(world: World): void {
  const { run, host: { machine, journals } } = world;
  const [kept] = journals.keys();
  if (kept !== undefined) run.fail(`the guests are dead, and ${kept} is still there`);
  const none = machineUsage(EMPTY_MACHINE);
  const leaks = Object.entries(machineUsage(machine)).filter(([what, count]) =>
    count !== none[what as keyof typeof none]
  );
  const said = leaks.map(([what, count]) => `${count} ${what}`).join(", ");
  if (leaks.length > 0) run.fail(`with everybody gone the machine has still in use: ${said}`);
}

const EMPTY_MACHINE = createMachine({ memoryBytes: 4096 });
