/**
 * One simulated run, from a seed or a script of decisions, to its outcome. The same seed gives the same outcome, with
 * the same hash over everything that happened.
 */

import { Random } from "../../lib/guest/random.ts";
import type { Breakage } from "./backend_process.ts";
import { Decisions, type Script } from "./decisions.ts";
import { end } from "./ending.ts";
import type { FaultCounts } from "./faults.ts";
import { Run, Violation } from "./run.ts";
import { World } from "./world.ts";

/** Options of a run. */
interface SimulationOptions {
  /** Plays these decisions in place of random ones. */
  readonly script?: Script;
  /** Breaks a part of the backend. */
  readonly breakage?: Breakage;
  /** Keeps every line of the trace. */
  readonly trace?: boolean;
}

/** The outcome of a run. */
export interface Outcome {
  readonly seed: number;
  /** What went wrong, or undefined. */
  readonly failure: string | undefined;
  readonly hash: number;
  readonly steps: number;
  readonly faults: FaultCounts;
  readonly script: Script;
  /** The last lines of the trace, or all. */
  readonly lines: readonly string[];
}

const LEAST_STEPS = 200;
const MOST_STEPS = 1400;

/** Runs a seed. Never rejects. */
export async function simulate(seed: number, options: SimulationOptions = {}): Promise<Outcome> {
  const decisions = new Decisions(new Random(seed), options.script);
  const run = new Run(decisions, options.trace ?? false);
  let failure: string | undefined;
  try {
    await carryOut(run, options.breakage ?? {});
  } catch (error) {
    failure = error instanceof Violation ? error.message : String(error instanceof Error ? error.stack : error);
  }
  // Objects behind WeakRefs, such as AbortSignal.any's, are kept until the event loop turns.
  await new Promise((resolve) => setTimeout(resolve, 0));
  return {
    seed,
    failure: run.violation ?? failure,
    hash: run.hash,
    steps: decisions.record.steps.length,
    faults: run.faults.counts,
    script: decisions.record,
    lines: run.lines,
  };
}

async function carryOut(run: Run, breakage: Breakage): Promise<void> {
  const { decisions } = run;
  const world = new World(run, breakage);
  const steps = decisions.between(LEAST_STEPS, MOST_STEPS);
  for (let step = 0; step < steps && decisions.beginStep(); step++) {
    await world.step();
    if (run.violation !== undefined) return;
  }
  await end(world);
}
