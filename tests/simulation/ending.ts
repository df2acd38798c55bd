/**
 * How a simulated run ends. Without further faults every guest must get connected and every request answered. One disk
 * hangs for a while, and others must not wait for it. Then the disks are checked, the process is stopped and must have
 * released everything, and what responses promised must survive a power failure.
 */

import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage } from "../../lib/sim/platform.ts";
import { checkIsolation } from "./isolation.ts";
import { becomesIdle, describe, doRound, isIdle, ROUNDS, TURNS_PER_ROUND } from "./rounds.ts";
import type { World } from "./world.ts";

/** Ends a run. */
export async function end(world: World): Promise<void> {
  const { run } = world;
  run.decisions.beginEnding();
  run.faults.enabled = false;
  run.note("ending");
  world.releaseDisks();
  if (run.decisions.below(2) === 1) world.failPower();
  await recover(world);
  check(world);
  await checkIsolation(world);
  check(world);
  await stop(world);
  if (!await becomesIdle(world)) fail(world); // the next process takes over
  check(world);
  await retire(world);
  checkMachine(world);
  world.failPower();
}

/** All guests get connected and idle, with help from the operator if earlier faults made that necessary. */
async function recover(world: World): Promise<void> {
  const { run } = world;
  if (await becomesIdle(world)) return;
  const needed = ["image not opened", "grant map", "grant unmap"] as const;
  if (needed.every((kind) => run.faults.countOf(kind) === 0)) return fail(world);
  run.note("the operator restarts the process");
  await stop(world);
  if (await becomesIdle(world)) return;
  run.note("the operator attaches the disks anew");
  for (const slot of world.slots) if (!isIdle(slot)) slot.remove();
  if (!await becomesIdle(world)) fail(world);
}

function fail(world: World): never {
  return world.run.fail(`not recovered: the process is ${world.process?.state}; ${describe(world.slots)}`);
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
    world.process.finishCall();
    for (let turn = 0; turn < TURNS_PER_ROUND; turn++) {
      world.turn();
      world.carryOut();
    }
    await world.settle();
  }
  if (world.process?.state === "stopping") world.run.fail("the process does not end though it was asked to");
}

/** All guests die while they are served; when they are cleaned up, the process stops. */
async function retire(world: World): Promise<void> {
  for (const slot of world.slots) slot.retire();
  const over = (): boolean => world.slots.every((slot) => slot.address === undefined && !slot.isServed);
  for (let round = 0; round < ROUNDS && !over(); round++) await doRound(world);
  if (!over()) world.run.fail("a guest died, and its device is not released");
  await stop(world);
  checkKept(world);
  // The next process removes what is left of devices that were removed while no process ran.
  world.startProcess();
  await stop(world);
}

/** No journal of a guest that died while it was served is kept. */
function checkKept({ run, slots, host: { journals } }: World): void {
  for (const { domain } of slots) {
    const kept = [...journals.keys()].find((name) => name.startsWith(`vbd3-${domain}-`));
    if (kept !== undefined) run.fail(`the guest is dead, and ${kept} is still there`);
  }
}

/** Without guests and processes nothing of the machine is in use. */
function checkMachine(world: World): void {
  const { run, host: { machine, journals } } = world;
  const [kept] = journals.keys();
  if (kept !== undefined) run.fail(`the guests are dead, and ${kept} is still there`);
  const none = machineUsage(EMPTY_MACHINE);
  const leaks = Object.entries(machineUsage(machine)).filter(([what, count]) =>
    count !== none[what as keyof typeof none]
  );
  const said = leaks.map(([what, count]) => `${count} ${what}`).join(", ");
  if (leaks.length > 0) run.fail(`without guests and processes the machine still has in use: ${said}`);
}

const EMPTY_MACHINE = createMachine({ memoryBytes: 4096 });
