/**
 * Tells growth that goes on from growth that ends: caches fill, code is compiled and Workers start when they are first
 * needed, each of it once, and at a time that no test can know. What is leaked is leaked in every round.
 */

import { assert } from "@std/assert";
import type { BackendProcess, Holdings } from "./backend.ts";

/** By how much a process may hold more after a round than before it. */
export type Allowance = Pick<Holdings, "descriptors" | "mappings" | "residentKiB">;

/** How growth is judged. */
export interface GrowthOptions {
  /** First rounds, which don't count. */
  readonly warmUp: number;
  readonly allowed: Allowance;
  /** How long what a round leaves open may take to be closed. */
  readonly settleMs?: number;
}

/** Rounds after the warm-up until growth counts as endless. */
const MOST_ROUNDS = 4;
/** What is closed by itself soon after a round may still be open when the round ends. */
const SETTLE_MS = 5_000;
const LOOK_MS = 100;

function within(before: Holdings, after: Holdings, allowed: Allowance): boolean {
  return (["descriptors", "mappings", "residentKiB"] as const).every((what) =>
    after[what] - before[what] <= allowed[what]
  );
}

/** What the process holds once that is within the allowance, or after a while. */
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
 * Runs rounds until one of them leaves the process with no more than it had before, but for the allowance. Throws AssertionError with all that was held if every round added to it.
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
