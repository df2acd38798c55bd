/**
 * Tells endless growth from growth that ends. Caches fill, code is compiled and Workers start once, when they are first
 * needed; a test cannot know when. A leak grows in every round.
 */

import { assert } from "@std/assert";
import type { BackendProcess, Holdings } from "./backend.ts";

/** How much a process may grow in one round. */
export type Allowance = Pick<Holdings, "descriptors" | "mappings" | "residentKiB">;

/** How growth is judged. */
export interface GrowthOptions {
  /** The number of first rounds that do not count. */
  readonly warmUp: number;
  readonly allowed: Allowance;
  /** How long the resources of a round may take to be released. */
  readonly settleMs?: number;
}

/** Rounds after the warm-up until growth counts as endless. */
const MOST_ROUNDS = 4;
/** Some resources of a round are released only a moment after its end. */
const SETTLE_MS = 5_000;
const LOOK_MS = 100;

function within(before: Holdings, after: Holdings, allowed: Allowance): boolean {
  return (["descriptors", "mappings", "residentKiB"] as const).every((what) =>
    after[what] - before[what] <= allowed[what]
  );
}

/** The resources of the process, as soon as they are within the allowance, or after the settling time. */
async function settled(
  backend: Pick<BackendProcess, "holdings">,
  before: Holdings,
  { allowed, settleMs = SETTLE_MS }: GrowthOptions,
): Promise<Holdings> {
  for (const end = performance.now() + settleMs;;) {
    const now = await backend.holdings();
    if (within(before, now, allowed) || performance.now() > end) return now;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

/**
 * Runs rounds until one of them grows the process by no more than the allowance. Throws AssertionError with the
 * resources after each round if every round grew it.
 */
export async function assertNoEndlessGrowth(
  backend: Pick<BackendProcess, "holdings">,
  round: (number: number) => Promise<void>,
  options: GrowthOptions,
): Promise<void> {
  const { warmUp, allowed } = options;
  const held: Holdings[] = [];
  for (let number = 0; number < warmUp + MOST_ROUNDS; number++) {
    await round(number);
    const before = held.at(-1);
    held.push(before === undefined ? await backend.holdings() : await settled(backend, before, options));
    if (number >= warmUp && before !== undefined && within(before, held.at(-1)!, allowed)) return;
  }
  const list = held.map(({ descriptors, mappings, residentKiB }) => `${descriptors}/${mappings}/${residentKiB} KiB`);
  assert(false, `descriptors/mappings/resident memory grow round by round: ${list.join(", ")}`);
}
