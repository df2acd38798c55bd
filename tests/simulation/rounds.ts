/**
 * Fair rounds: in each of them everybody does all that it can, so that what must happen happens within a number of
 * rounds. For the end of a run, when no fault strikes at random any more.
 */

import type { Slot } from "./slot.ts";
import type { World } from "./world.ts";

/** Rounds within which all guests must be connected and idle. */
export const ROUNDS = 120;
/** Turns of the data plane in a round; after each the disks carry out an operation. */
export const TURNS_PER_ROUND = 20;
const CALLS_PER_ROUND = 4;
/** Of each watch; attaching a disk causes about twenty. */
const EVENTS_PER_ROUND = 6;
/** Time that passes in a round. */
export const ROUND_MS = 200;

/** Plays rounds until it is so. False: it is not so after `most` rounds. */
export async function within(world: World, most: number, isSo: () => boolean): Promise<boolean> {
  for (let round = 0; round < most; round++) {
    if (isSo()) return true;
    await doRound(world);
  }
  return isSo();
}

/** Whether all guests get connected and idle. At least one round is played. */
export async function becomesIdle(world: World): Promise<boolean> {
  await doRound(world);
  return await within(world, ROUNDS - 1, () => world.process?.state === "running" && world.slots.every(isIdle));
}

/** One round, of so much time: toolstacks, guests, xenstore, process, disks. A process is started if none runs. */
export async function doRound(world: World, ms: number = ROUND_MS): Promise<void> {
  world.ensureStore();
  await world.attempt(() => world.startProcess());
  for (const slot of world.slots) {
    if (slot.guest !== undefined) slot.guest.calm = true;
    await world.attempt(() => slot.toolstackStep());
    await world.attempt(() => slot.guest?.correctState());
    await world.attempt(() => slot.guest?.step());
  }
  await world.settle();
  for (let event = 0; event < EVENTS_PER_ROUND; event++) {
    for (const gate of world.process?.deliverable ?? []) gate.deliver();
    await world.settle();
  }
  for (let call = 0; call < CALLS_PER_ROUND; call++) {
    world.process?.finishCall();
    await world.settle();
  }
  for (let turn = 0; turn < TURNS_PER_ROUND; turn++) {
    world.turn();
    world.carryOut();
  }
  world.process?.clock.advance(ms);
  await world.settle();
}

/** Its guest is connected and has nothing in flight. */
export function isIdle({ guest }: Slot): boolean {
  return guest?.phase === "connected" && guest.connection?.inFlight === 0;
}

/** The guests, for messages. */
export function describe(slots: readonly Slot[]): string {
  return slots.map(({ guest, address }) => {
    const inFlight = guest?.connection?.inFlight ?? 0;
    return `domain ${address?.frontendDomain} is ${guest?.phase} with ${inFlight} requests in flight`;
  }).join("; ");
}
