/**
 * Fuzzing with random ring pages: every byte of the slots at random (with some of the fields plausible, or nothing
 * would ever be read or written), and sometimes of the header. The queue answers each request that the page's own
 * indices promise once, with its id, or stops for good; and no canary changes.
 */

import { Random } from "../../lib/sim/random.ts";
import { expectedEcho, slotBytes, type WireAnswer } from "../hardening/wire.ts";
import { ABI_NAMES, GRANT_MODES, SECTOR_SIZES, World } from "../hardening/world.ts";

/** Pages served by one queue, unless one stops it. */
const PAGES_PER_QUEUE = 400;

/** What a run came to. */
export interface PagesOutcome {
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
      maxRequests: random.between(1, 32),
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

/** True if the queue goes on. */
function servePage(
  world: World,
  random: Random,
  outcome: { requests: number; okay: number; stopped: number },
): boolean {
  fill(world, random);
  const wanted: string[] = [];
  const count = random.between(1, 32);
  for (let i = 0; i < count; i++) {
    const { id, operation } = expectedEcho(world.slot(world.produced + i), world.abi);
    wanted.push(`${id}/${operation}`);
  }
  const honest = random.chance(0.997);
  world.publish(world.produced + (honest ? count : random.between(33, 2 ** 32 - 1)));
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

/** Random bytes, over which some fields of some slots are made plausible. */
function fill(world: World, random: Random): void {
  const words = new Uint32Array(world.ring.view.buffer, world.ring.view.byteOffset, 1024);
  for (let i = 16; i < words.length; i++) words[i] = random.next();
  const plausibility = random.pick([0, 0.5, 0.9, 0.99, 1]);
  const grants = [...world.grants.data.refs, ...world.grants.readOnly.refs];
  for (let index = 0; index < 32; index++) {
    const slot = world.slot(index);
    const plausible = (): boolean => random.chance(plausibility);
    if (plausible()) slot.setUint8(0, random.below(7));
    if (plausible()) slot.setUint8(1, random.below(12));
    const sector = slotBytes(world.abi) === 108 ? 12 : 16;
    if (plausible()) slot.setBigUint64(sector, BigInt(random.below(256)), true);
    for (let segment = sector + 8; segment < sector + 96; segment += 8) {
      if (plausible()) slot.setUint32(segment, random.pick(grants), true);
      if (plausible()) slot.setUint8(segment + 4, random.below(4));
      if (plausible()) slot.setUint8(segment + 5, random.between(3, 7));
    }
  }
}
