/**
 * Fuzzing with random ring pages: every byte of the slots is random, except that some fields are plausible, so that
 * some requests are carried out. The queue answers each request once, with its id, or an impossible index stops it for
 * good; no canary changes.
 */

import { Random } from "../../lib/guest/random.ts";
import { expectedEcho, slotBytes, type WireAnswer } from "../hardening/wire.ts";
import { ABI_NAMES, GRANT_MODES, SECTOR_SIZES, World } from "../hardening/world.ts";

/** Pages per queue, unless one stops it. */
const PAGES_PER_QUEUE = 400;

/** Counts of a run. */
interface PagesOutcome {
  readonly pages: number;
  readonly requests: number;
  readonly okay: number;
  readonly stopped: number;
}

/** Serves `pages` random pages. Throws Error naming seed and page at the first failure. */
export function fuzzRingPages(seed: number, pages: number): PagesOutcome {
  const random = new Random(seed);
  const outcome = { pages: 0, requests: 0, okay: 0, stopped: 0 };
  while (outcome.pages < pages) {
    using world = new World({
      abi: random.pick(ABI_NAMES),
      grants: random.pick(GRANT_MODES),
      sectorBytes: random.pick(SECTOR_SIZES),
      readOnly: random.chance(0.2),
      startIndex: random.next(),
      maxRequests: random.between(1, 64),
      ringPages: random.pick([1, 1, 1, 2, 8]),
      indirectSegments: random.pick([0, 11, 256]),
      discard: random.chance(0.5),
    });
    for (let page = 0; page < PAGES_PER_QUEUE && outcome.pages < pages; page++) {
      try {
        outcome.pages++;
        if (!servePage(world, random, outcome)) break;
      } catch (error) {
        throw new Error(`seed ${seed}, page ${outcome.pages}: ${(error as Error).message}`, { cause: error });
      }
    }
  }
  return outcome;
}

/**
 * Serves `rounds` rings whose requests name the ring's own pages as data, so that bytes of the disk become requests,
 * responses and indices. Returns how many rings were stopped. Throws Error if anything else is harmed.
 */
export function fuzzRingsInThemselves(seed: number, rounds: number): number {
  const random = new Random(seed);
  let stopped = 0;
  for (let round = 0; round < rounds; round++) {
    const ringPages = random.pick([1, 2]);
    using world = new World({ abi: random.pick(ABI_NAMES), grants: random.pick(GRANT_MODES), ringPages });
    const words = new Uint32Array(world.disk.buffer, 0, world.disk.length / 4);
    for (let i = 0; i < words.length; i++) words[i] = random.chance(0.7) ? random.next() & 0x07070707 : random.next();
    fill(world, random, [...world.ring.refs, ...world.grants.data.refs.slice(0, 2)]);
    world.publish(random.between(1, world.slots));
    world.survive();
    if (world.connection.queue.broken !== undefined) stopped++;
  }
  return stopped;
}

/** Serves one random page. False: the queue is stopped. */
function servePage(
  world: World,
  random: Random,
  outcome: { requests: number; okay: number; stopped: number },
): boolean {
  fill(world, random, [...world.grants.data.refs, ...world.grants.readOnly.refs]);
  const wanted: string[] = [];
  const count = random.between(1, world.slots);
  for (let i = 0; i < count; i++) {
    const { id, operation } = expectedEcho(world.slot(world.produced + i), world.abi);
    wanted.push(`${id}/${operation}`);
  }
  const honest = random.chance(0.997);
  world.publish(world.produced + (honest ? count : random.between(world.slots + 1, 2 ** 32 - 1)));
  const answers = world.answers();
  if (!honest) return stopped(world, answers, outcome);
  const got = answers.map(({ id, operation }) => `${id}/${operation}`);
  if (wanted.sort().join() !== got.sort().join()) throw new Error(`answers ${got}, expected ${wanted}`);
  const strange = answers.find(({ status }) => status < -2 || status > 0);
  if (strange !== undefined) throw new Error(`an answer has the status ${strange.status}`);
  outcome.requests += count;
  outcome.okay += answers.filter(({ status }) => status === 0).length;
  return true;
}

function stopped(world: World, answers: readonly WireAnswer[], outcome: { stopped: number }): boolean {
  const { broken, state } = world.connection.queue;
  if (broken === undefined || state !== "drained") throw new Error("an impossible index did not stop the ring");
  if (answers.length > 0) throw new Error("a stopped ring answered");
  outcome.stopped++;
  return false;
}

/** Fills the ring with random bytes, then makes some fields of some slots plausible. */
function fill(world: World, random: Random, grants: readonly number[]): void {
  const words = new Uint32Array(world.ring.view.buffer, world.ring.view.byteOffset, world.ring.view.length / 4);
  for (let i = 16; i < words.length; i++) words[i] = random.next();
  const plausibility = random.pick([0, 0.5, 0.9, 0.99, 1]);
  fillLists(world, random, plausibility, grants);
  for (let index = 0; index < world.slots; index++) {
    const slot = world.slot(index);
    const plausible = (): boolean => random.chance(plausibility);
    if (plausible()) slot.setUint8(0, random.below(7));
    const indirect = slot.getUint8(0) === 6;
    if (plausible()) slot.setUint8(1, random.below(indirect ? 2 : 12));
    if (indirect && plausible()) slot.setUint16(2, random.between(1, 40), true);
    const sector = slotBytes(world.abi) === 108 ? 12 : 16;
    if (plausible()) slot.setBigUint64(sector, BigInt(random.below(256)), true);
    if (indirect) {
      for (let i = 0; i < 8; i++) {
        if (plausible()) slot.setUint32(sector + 12 + 4 * i, random.pick(world.grants.lists.refs), true);
      }
      continue;
    }
    if (slot.getUint8(0) === 5) {
      if (plausible()) slot.setBigUint64(sector + 8, BigInt(random.below(64)), true);
      continue;
    }
    for (let segment = sector + 8; segment < sector + 96; segment += 8) {
      if (plausible()) slot.setUint32(segment, random.pick(grants), true);
      if (plausible()) slot.setUint8(segment + 4, random.below(4));
      if (plausible()) slot.setUint8(segment + 5, random.between(3, 7));
    }
  }
}

/** Fills two of the pages for the segments of indirect requests. */
function fillLists(world: World, random: Random, plausibility: number, grants: readonly number[]): void {
  for (let n = 0; n < 2; n++) {
    const page = world.listPage(random.pick(world.grants.lists.refs))!;
    const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    for (let at = 0; at < 4096; at += 8) {
      view.setUint32(at, random.chance(plausibility) ? random.pick(grants) : random.next(), true);
      view.setUint8(at + 4, random.chance(plausibility) ? random.below(4) : random.below(256));
      view.setUint8(at + 5, random.chance(plausibility) ? random.between(3, 7) : random.below(256));
    }
  }
}
