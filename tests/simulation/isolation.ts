/**
 * One disk hangs: no call to its storage returns, and no operation on it ends. Nobody else waits for it: other guests are
 * answered, connect, and lose their disks when the toolstack asks for it, within a few rounds. A process that is asked to
 * stop releases all other devices, and the next one serves them. When the disk goes on, or the process has ended, nothing
 * of the hung device is left: no descriptor, lock or ring.
 */

import { becomesIdle, describe, doRound, isIdle, ROUND_MS, ROUNDS, within } from "./rounds.ts";
import type { Slot } from "./slot.ts";
import type { World } from "./world.ts";

/** Rounds within which any other guest must have what it waits for. */
const MOST_ROUNDS = 40;
/** Calls and operations after which the disk may begin to hang: connecting takes fewer. */
const MOST_CALLS = 12;
/** Time that a process gives its devices when it stops. */
const GRACE_MS = 5_000;
/** Time of a round in which the backend's waits are to end. */
const LONG_ROUND_MS = 1_000;
/** Requests that the guest of the hung disk sends. */
const REQUESTS = 3;

/** What happens to the disk that hangs, about when it begins to hang. */
const EVENTS: readonly ((slot: Slot) => void)[] = [
  () => {},
  sendRequests,
  (slot) => slot.remove(),
  (slot) => slot.requestRemoval(),
  (slot) => slot.guest?.beginClose(false),
  (slot) => slot.kill(),
];

/** Lets one disk hang, checks that others do not wait for it, and ends that in one of several ways. */
export async function checkIsolation(world: World): Promise<void> {
  const { run, slots } = world;
  const { decisions } = run;
  const hung = decisions.pick(slots);
  const others = slots.filter((slot) => slot !== hung);
  run.note("isolation");
  hung.watch.hangAfter(1 + decisions.below(MOST_CALLS));
  for (const act of [decisions.pick(EVENTS), decisions.pick(EVENTS)]) {
    await world.attempt(() => act(hung));
    for (let rounds = decisions.below(6); rounds > 0; rounds--) await doRound(world);
  }
  if (!hung.watch.hangs) hung.watch.hangAfter(0);
  await checkOthers(world, others);
  await checkReport(world, hung);
  const endings = [release, release, kill, stop];
  await (world.journals ? decisions.pick(endings) : release)(world, others);
  run.note("all disks go on");
  world.releaseDisks();
  if (!await becomesIdle(world)) run.fail(`not recovered after a disk hung: ${describe(slots)}`);
  await checkNothingIsLeft(world);
}

/**
 * A guest waits for the hung disk to connect: its device says why, within the time of all waits that may come one after
 * the other before that one.
 */
async function checkReport(world: World, { guest, address }: Slot): Promise<void> {
  const waits = (): boolean => address !== undefined && (guest?.phase === "starting" || guest?.phase === "waiting");
  const says = (): boolean =>
    world.process?.status.some(({ domain, error }) => domain === address?.frontendDomain && error !== undefined) ??
      false;
  for (let round = 0; waits() && !says(); round++) {
    if (round === MOST_ROUNDS) world.run.fail(`a disk hangs and its device does not say so to a guest ${guest!.phase}`);
    await doRound(world, LONG_ROUND_MS);
  }
}

/** Each of the others is answered, detached and attached anew. */
async function checkOthers(world: World, others: readonly Slot[]): Promise<void> {
  for (const slot of others) {
    sendRequests(slot);
    await require(world, others, "is answered", () => isIdle(slot));
    slot.requestRemoval();
    await require(world, others, "is detached", () => slot.address === undefined);
    await require(world, others, "is connected", () => isIdle(slot));
    sendRequests(slot);
    await require(world, others, "is answered", () => isIdle(slot));
  }
}

function sendRequests({ guest }: Slot): void {
  for (let count = 0; count < REQUESTS; count++) guest?.connection?.send(undefined, 0);
}

async function require(world: World, slots: readonly Slot[], what: string, isSo: () => boolean): Promise<void> {
  if (await within(world, MOST_ROUNDS, isSo)) return;
  world.run.fail(`while another disk hangs, a guest waits until it ${what}: ${describe(slots)}`);
}

/** The disk goes on; see the caller. */
function release(): Promise<void> {
  return Promise.resolve();
}

/** SIGKILL: the next process serves the others. */
async function kill(world: World, others: readonly Slot[]): Promise<void> {
  world.killProcess();
  await require(world, others, "is served by the next process", () => others.every(isIdle));
}

/**
 * SIGTERM: the process has released everything of the others before it gives the hung device up; and it ends in time. The
 * next process serves the others.
 */
async function stop(world: World, others: readonly Slot[]): Promise<void> {
  const { run } = world;
  const first = world.process!;
  const startMs = first.clock.now();
  world.stopProcess(run.decisions.pick(["connected", "detached"]), GRACE_MS);
  const released = (): boolean => others.every(({ isServed, watch }) => !isServed && !watch.locked);
  let rounds = 0;
  for (; first.state === "stopping"; rounds++) {
    if (rounds > ROUNDS) run.fail("a process does not end though it was asked to: a disk hangs");
    if (rounds === MOST_ROUNDS && !released()) run.fail("a process that stops holds other devices: a disk hangs");
    await doRound(world);
  }
  run.note("ended", Math.round((first.clock.now() - startMs) / ROUND_MS));
  await require(world, others, "is served by the next process", () => others.every(isIdle));
}

/** Of each disk one descriptor is open, and each ring has one channel. */
async function checkNothingIsLeft(world: World): Promise<void> {
  const leftOf = ({ watch, guest }: Slot): string | undefined => {
    const open = world.process!.openedOf(watch);
    const rings = guest?.connection?.rings.length;
    if (open !== 1) return `${watch.disk.name} is open ${open} times`;
    const channels = watch.channels.length;
    return channels === rings ? undefined : `${channels} channels to ${watch.disk.name} are open`;
  };
  const left = (): string | undefined => world.slots.map(leftOf).find((what) => what !== undefined);
  if (!await within(world, MOST_ROUNDS, () => left() === undefined)) world.run.fail(`after a disk hung, ${left()}`);
}
