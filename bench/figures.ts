/**
 * The cost of the data plane's own figures (histograms of durations, busy time) as a share of a request of the ring alone.
 * They are measured without the rest of the data plane, since they are a small part of it.
 */

import { V8_FLAGS } from "../lib/cli/install/plan.ts";

/** Requests that are taken together: a ring of one page. */
export const SLOTS = 32;

/** How requests that were taken together are answered. */
export interface FiguresPattern {
  readonly passes: number;
  /** The reactor's visits with these passes: each ends with a look at the clock. */
  readonly visits: number;
}

/** The measured patterns. */
export const PATTERNS: readonly FiguresPattern[] = [
  { passes: 1, visits: 1 },
  { passes: 11, visits: 1 },
  { passes: 11, visits: 11 },
];

/** Nanoseconds per request of a pattern. */
export interface FiguresCost extends FiguresPattern {
  readonly ns: number;
}

/** How long to measure. */
export interface FiguresPlan {
  readonly rounds: number;
  /** Few, so that many rounds are over before the scheduler gives the processor to something else. */
  readonly requestsPerRound: number;
}

/** A request at 3 million per second, the goal of the ring alone; and the share of it that figures may cost. */
const REQUEST_NS = 333;
const MOST_SHARE = 0.02;

/** The program that measures them, a module of bench/. */
export const FIGURES_PROGRAM = "figures_process.ts";

/** Measures all patterns in a process of its own, whose joined modules are in a directory. Throws if it fails. */
export async function runFigures(
  directory: string,
  { rounds, requestsPerRound }: FiguresPlan,
): Promise<FiguresCost[]> {
  const program = `${directory}/${FIGURES_PROGRAM}`;
  const args = ["run", "-A", "--no-check", V8_FLAGS, program, `${rounds}`, `${requestsPerRound}`];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args, stdin: "null" }).output();
  const [text, words] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  if (!success) throw new Error(`Cannot measure the cost of figures: ${words!.trim()}`);
  return JSON.parse(text!);
}

/** The value that a tenth of the rounds stays below: nothing else ran meanwhile. */
export function undisturbed(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 10)]!;
}

/** The share of a request that a cost is, and whether that meets the goal. */
export function shareOf({ ns }: FiguresCost): { readonly share: number; readonly met: boolean } {
  const share = ns / REQUEST_NS;
  return { share, met: share <= MOST_SHARE };
}

/** For people: `32 requests taken, answered in 11 passes of 1 visit`. */
export function describePattern({ passes, visits }: FiguresPattern): string {
  const counted = (count: number, what: string): string => `${count} ${count === 1 ? what : `${what}es`}`;
  return `${SLOTS} taken at once, answered in ${counted(passes, "pass")} of ${visits} visit${visits === 1 ? "" : "s"}`;
}

/** For people: what the goal is. */
export const FIGURES_GOAL = `at most ${MOST_SHARE * 100} % of ${REQUEST_NS} ns`;
