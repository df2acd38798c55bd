/**
 * What limits cost that are never reached: the ring alone with and without them, each in a process of its own, so that the
 * one's code is compiled for it alone. Their short rounds alternate.
 */

import { RingProcess } from "./ring_processes.ts";
import { median, ratio } from "./statistics.ts";

/** How long to measure. */
export interface UnreachedPlan {
  /** Pairs of processes: V8 does not compile the same code to the same program each time. */
  readonly processes: number;
  /** Of each pair. */
  readonly rounds: number;
  /** Few, so that many rounds are over before the scheduler gives the processor to something else. */
  readonly requestsPerRound: number;
}

/** Nanoseconds per request, by round: of a ring without limits, and what one with limits needed more next to it. */
export interface UnreachedCost {
  readonly segments: number;
  readonly withoutNs: readonly number[];
  readonly moreNs: readonly number[];
}

/** The share of a request that they may cost. */
const MOST_SHARE = 0.03;
/** Requests that run before the rounds: V8 has compiled the loop then. */
const WARM_UP_REQUESTS = 1_000_000;

/** Measures requests with these many segments. `directory`: has the joined modules. */
export async function runUnreached(
  directory: string,
  segments: readonly number[],
  plan: UnreachedPlan,
): Promise<UnreachedCost[]> {
  const costs = segments.map((count) => ({ segments: count, withoutNs: [] as number[], moreNs: [] as number[] }));
  for (let i = 0; i < plan.processes; i++) {
    await using without = new RingProcess(directory);
    await using limited = new RingProcess(directory);
    for (const cost of costs) await measurePair(cost, plan, { without, limited });
  }
  return costs;
}

async function measurePair(
  { segments, withoutNs, moreNs }: {
    readonly segments: number;
    readonly withoutNs: number[];
    readonly moreNs: number[];
  },
  { rounds, requestsPerRound: requests }: UnreachedPlan,
  { without, limited }: { readonly without: RingProcess; readonly limited: RingProcess },
): Promise<void> {
  const order = { segments, requests, queues: 1, watchMemory: false, limited: false };
  const nsOf = async (process: RingProcess, more: Partial<typeof order> = {}): Promise<number> =>
    (await process.run({ ...order, limited: process === limited, ...more })).ns / requests;
  for (const process of [without, limited]) await nsOf(process, { requests: WARM_UP_REQUESTS });
  for (let round = 0; round < rounds; round++) {
    const [first, second] = round % 2 === 0 ? [without, limited] as const : [limited, without] as const;
    const [firstNs, secondNs] = [await nsOf(first), await nsOf(second)];
    const [ns, limitedNs] = first === without ? [firstNs, secondNs] : [secondNs, firstNs];
    withoutNs.push(ns);
    moreNs.push(limitedNs - ns);
  }
}

/** Medians, in nanoseconds per request and as a share, and whether that meets the goal. */
export function unreachedShare({ withoutNs, moreNs }: UnreachedCost): {
  readonly ns: number;
  readonly share: number;
  readonly met: boolean;
} {
  const ns = median(moreNs) ?? NaN;
  const share = ratio(ns, median(withoutNs)) ?? NaN;
  return { ns, share, met: share <= MOST_SHARE };
}

/** For people: `limits that are never reached, 11 segments`. */
export function describeUnreached({ segments }: UnreachedCost): string {
  return `limits that are never reached, ${segments} ${segments === 1 ? "segment" : "segments"}`;
}

/** For people: what the goal is. */
export const UNREACHED_GOAL = `at most ${MOST_SHARE * 100} % of a request`;
