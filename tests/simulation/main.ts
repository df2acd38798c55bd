/**
 * `deno task sim [SEED] [--seeds N] [--trace]`: simulates N seeds from SEED on, or from one that it chooses, and prints
 * how often each fault struck. The first failing seed is printed at once, then shrunk, and its trace shown. A single
 * seed is run twice, to check that it replays.
 */

import { parseArgs } from "@std/cli";
import { FAULT_KINDS, type FaultCounts, type FaultKind } from "./faults.ts";
import { shrink } from "./shrink.ts";
import { type Outcome, simulate } from "./simulation.ts";

const DEFAULT_SEEDS = 1000;
const MOST_ATTEMPTS = 3000;
const LINES_SHOWN = 120;
/** Seeds between two lines of progress. */
const REPORT_EVERY = 1000;

if (import.meta.main) Deno.exit(await main(Deno.args));

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { string: ["seeds"], boolean: ["trace"] });
  const [first] = options._;
  const start = first === undefined ? Date.now() % 2 ** 31 : Number(first);
  const count = Number(options.seeds ?? (first === undefined ? DEFAULT_SEEDS : 1));
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(count) || count < 1) {
    say("Cannot simulate: SEED and N of --seeds N are whole numbers");
    return 2;
  }
  if (count === 1) return await one(start, options.trace === true);
  return await many(start, count);
}

/** One seed, twice. */
async function one(seed: number, trace: boolean): Promise<number> {
  const outcome = await simulate(seed, { trace });
  if (trace) { for (const line of outcome.lines) say(line); }
  const again = await simulate(seed);
  if (again.hash !== outcome.hash || again.failure !== outcome.failure) {
    say(`seed ${seed} does not replay: trace hash ${outcome.hash}, then ${again.hash}`);
    return 1;
  }
  if (outcome.failure !== undefined) return await report(outcome);
  say(`seed ${seed}: ${outcome.steps} steps, trace hash ${outcome.hash}`);
  showFaults(outcome.faults);
  return 0;
}

async function many(start: number, count: number): Promise<number> {
  const faults = new Map<FaultKind, number>();
  let steps = 0;
  for (let seed = start; seed < start + count; seed++) {
    const outcome = await simulate(seed);
    if (outcome.failure !== undefined) return await report(outcome);
    steps += outcome.steps;
    for (const kind of FAULT_KINDS) faults.set(kind, (faults.get(kind) ?? 0) + outcome.faults[kind]);
    const done = seed - start + 1;
    if (done % REPORT_EVERY === 0 && done < count) say(`${done} of ${count} seeds`);
  }
  say(`${count} seeds from ${start} on: ${steps} steps, nothing wrong. Faults:`);
  showFaults(Object.fromEntries(faults) as FaultCounts);
  return 0;
}

/** Prints the seed first: shrinking takes time. */
async function report(outcome: Outcome): Promise<number> {
  const { seed, failure } = outcome;
  say(`seed ${seed} fails after ${outcome.steps} steps: ${failure}`);
  say(`replay it with: deno task sim ${seed} --trace`);
  const play = async (script: Outcome["script"]): Promise<string | undefined> =>
    (await simulate(seed, { script })).failure;
  const { script, attempts } = await shrink(outcome.script, play, MOST_ATTEMPTS);
  const shortest = await simulate(seed, { script, trace: true });
  say(`shrunk in ${attempts} attempts to ${script.steps.length} steps: ${shortest.failure}`);
  for (const line of shortest.lines.slice(-LINES_SHOWN)) say(`  ${line}`);
  return 1;
}

function showFaults(faults: FaultCounts): void {
  for (const kind of FAULT_KINDS) say(`  ${kind.padEnd(20)} ${String(faults[kind]).padStart(9)}`);
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}
