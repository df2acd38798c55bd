/**
 * Part one of the bench. The data plane alone with a disk that does nothing, and a C loop with the same algorithm, in
 * alternating rounds. Then many requests, to count V8's garbage collections, and the cost of the data plane's figures and
 * of limits that are never reached.
 */

import { compile, MISSING_COMPILER } from "./compile.ts";
import { FIGURES_PROGRAM, type FiguresCost, type FiguresPlan, runFigures } from "./figures.ts";
import { joinModules } from "./joined.ts";
import { RING_PROGRAM, RingProcess } from "./ring_processes.ts";
import { median, ratio } from "./statistics.ts";
import { runUnreached, type UnreachedCost, type UnreachedPlan } from "./unreached.ts";

/** The steady state: the number of requests, and their cost in memory. */
export interface SteadyState {
  readonly requests: number;
  /** Garbage collections during these requests. */
  readonly collections: number;
  /** Growth of the live heap. */
  readonly heapGrowthBytes: number;
  readonly residentGrowthBytes: number;
}

/** The figures for requests with this many segments. */
export interface RingResult {
  readonly segments: number;
  readonly requestsPerRound: number;
  /** Nanoseconds per request, by round. */
  readonly typescriptNs: readonly number[];
  /** Empty without a C compiler. */
  readonly cNs: readonly number[];
  /** The same of two queues on two reactors: the time in which each has carried out one. Empty on one processor. */
  readonly pairNs: readonly number[];
  /** The same of two C loops at once: what two of these processors gain at all. */
  readonly cPairNs: readonly number[];
  readonly steady: SteadyState;
}

/** What to measure, and how long. */
export interface RingPlan {
  readonly segments: readonly number[];
  readonly rounds: number;
  readonly requestsPerRound: number;
  readonly steadyRequests: number;
  /** Of the cost of the data plane's own figures. */
  readonly figures: FiguresPlan;
  /** Of the cost of limits that are never reached. */
  readonly unreached: UnreachedPlan;
}

/** All of part one. */
export interface RingReport {
  readonly results: readonly RingResult[];
  readonly figures: readonly FiguresCost[];
  readonly unreached: readonly UnreachedCost[];
  /** Parts that were not measured, and why. */
  readonly leftOut: readonly string[];
}

/** Two C loops run so many rounds at once: they are processes, and do not start at the same moment. */
const C_PAIR_ROUNDS = 5;
/** V8 writes this in the trace line of a collection that the program requested. */
const ASKED_FOR = /\btesting\b/;

/** Requests per second (median), the ratio to C's if C was measured, and those of two queues to one, ours and C's. */
export function ringRates(result: RingResult): {
  typescript: number;
  c: number | undefined;
  ratio: number | undefined;
  pairRatio: number | undefined;
  cPairRatio: number | undefined;
} {
  const typescript = 1e9 / median(result.typescriptNs)!;
  const cNs = median(result.cNs);
  const c = cNs === undefined ? undefined : 1e9 / cNs;
  const ofPair = (ns: number | undefined): number | undefined => ns === undefined ? undefined : 2e9 / ns;
  const pairRatio = ratio(ofPair(median(result.pairNs)), typescript);
  const cPairRatio = ratio(ofPair(median(result.cPairNs)), c);
  return { typescript, c, ratio: ratio(typescript, c), pairRatio, cPairRatio };
}

/**
 * Counts garbage collections in --trace-gc output, for each pair of requested collections: those between the two.
 * Throws Error if the number of requested collections is odd.
 */
export function collectionsWatched(trace: string): number[] {
  const lines = trace.split("\n").filter((line) => /(Scavenge|Mark-Compact|Minor)/.test(line));
  const asked = lines.flatMap((line, index) => ASKED_FOR.test(line) ? [index] : []);
  if (asked.length % 2 !== 0) {
    throw new Error("Cannot count collections: the trace ends between two requested collections");
  }
  return asked.flatMap((line, index) => index % 2 === 0 ? [asked[index + 1]! - line - 1] : []);
}

/** Runs part one. `progress` is called with what is measured next. */
export async function runRing(plan: RingPlan, progress: (text: string) => void): Promise<RingReport> {
  const directory = await Deno.makeTempDir({ prefix: "xenblk-bench-" });
  try {
    const program = await compile("ring.c", directory);
    const leftOut = program === undefined ? [`the C loop beside the null-I/O ring: ${MISSING_COMPILER}`] : [];
    await joinModules([RING_PROGRAM, "ring_thread.ts", FIGURES_PROGRAM], directory);
    await using typescript = new RingProcess(directory);
    await using pairs = new RingProcess(directory); // so that its collections do not count
    const measured = [];
    for (const segments of plan.segments) {
      progress(`null-I/O ring, ${segments} ${segments === 1 ? "segment" : "segments"}`);
      measured.push(await measure(plan, segments, { typescript, pairs, program }));
    }
    const collections = collectionsWatched(await typescript.end());
    const results = measured.map(({ steady, ...rest }, i) => ({
      ...rest,
      steady: { ...steady, collections: collections[i]! },
    }));
    progress("the cost of the data plane's figures");
    const figures = await runFigures(directory, plan.figures);
    progress("the cost of limits that are never reached");
    return { results, figures, unreached: await runUnreached(directory, plan.segments, plan.unreached), leftOut };
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** What is measured beside one another. */
interface Programs {
  readonly typescript: RingProcess;
  /** Two queues at once. */
  readonly pairs: RingProcess;
  /** The C loop, if there is a compiler. */
  readonly program: string | undefined;
}

type Uncounted = Omit<RingResult, "steady"> & { readonly steady: Omit<SteadyState, "collections"> };

async function measure(
  plan: RingPlan,
  segments: number,
  { typescript, pairs, program }: Programs,
): Promise<Uncounted> {
  const requests = plan.requestsPerRound;
  const round = { segments, requests, queues: 1, watchMemory: false, limited: false };
  const pair = { ...round, queues: 2 };
  await typescript.run(round); // compiles the loop
  const several = navigator.hardwareConcurrency > 1;
  if (several) await pairs.run({ ...pair, requests: requests / 4 }); // compiles it in its Workers
  const typescriptNs: number[] = [];
  const cNs: number[] = [];
  const pairNs: number[] = [];
  const cPairNs: number[] = [];
  for (let i = 0; i < plan.rounds; i++) {
    typescriptNs.push((await typescript.run(round)).ns / requests);
    if (several) pairNs.push((await pairs.run(pair)).ns / requests);
    if (program === undefined) continue;
    cNs.push(await runC(program, segments, requests) / requests);
    if (!several) continue;
    const long = C_PAIR_ROUNDS * requests;
    const both = await Promise.all([runC(program, segments, long), runC(program, segments, long)]);
    cPairNs.push(Math.max(...both) / long);
  }
  const steadyOrder = { segments, requests: plan.steadyRequests, queues: 1, watchMemory: true, limited: false };
  const { heapGrowthBytes, residentGrowthBytes } = await typescript.run(steadyOrder);
  const steady = { requests: plan.steadyRequests, heapGrowthBytes, residentGrowthBytes };
  return { segments, requestsPerRound: requests, typescriptNs, cNs, pairNs, cPairNs, steady };
}

async function runC(program: string, segments: number, requests: number): Promise<number> {
  const args = [String(segments), String(requests)];
  const { success, stdout } = await new Deno.Command(program, { args, stdin: "null", stderr: "inherit" }).output();
  if (!success) throw new Error("Cannot measure the C loop: it answered a request incorrectly");
  return JSON.parse(new TextDecoder().decode(stdout)).ns;
}
