/**
 * This project's goals, and whether a run met them. A goal is left out if the run
 * did not measure its figures.
 */

import { isDirect, isQcow2 } from "./cases.ts";
import { describePattern, FIGURES_GOAL, type FiguresCost, shareOf } from "./figures.ts";
import { limitOf } from "./limits.ts";
import type { FairResult } from "./fair.ts";
import type { ManyResult } from "./many.ts";
import { ringRates, type RingResult } from "./ring.ts";
import { counterpart, type Measurement, medianSample, type Sample } from "./samples.ts";
import type { StartResult } from "./start.ts";
import { median, ratio } from "./statistics.ts";
import { describeUnreached, UNREACHED_GOAL, type UnreachedCost, unreachedShare } from "./unreached.ts";

/** One goal and its measured figure. */
export interface Verdict {
  readonly goal: string;
  /** The measured figure, as text. */
  readonly measured: string;
  readonly met: boolean;
}

/** A ring without I/O reaches this many requests per second, or this share of C's. */
const RING_PER_SECOND = 3e6;
const RING_TO_C = 0.85;
/** Two queues on two reactors, on two idle processors, reach this much of one queue's rate. Judged where two C loops do. */
const PAIR_TO_ONE = 1.5;
/** Allowed growth of the live heap over millions of requests; the JIT compiler keeps some memory. */
const FLAT_BYTES = 256 * 1024;
/** Allowed processor time of the process while all disks are idle. */
const IDLE_SHARE = 0.01;

/** Of the C reference's, where that is a limit: processor time per request, and p50 with one request in flight. */
const CPU_TO_C = 1.1;
const P50_TO_C = 1.05;

/** From the program's execution to InitWait, with its files in the page cache and without; a restart under load. */
const WARM_MS = 150;
const COLD_MS = 400;
const PAUSE_MS = 150;
/** After a second a process is at its speed, apart from noise. */
const WARM_SHARE = 0.95;

/** All goals with figures. */
export function judge(ring: readonly RingResult[], disk: readonly Measurement[]): Verdict[] {
  const judged = disk.filter(({ subject }) => subject === "xenblk" || subject === "unlogged");
  const filtered = disk.filter(({ subject }) => subject === "filtered");
  const besideC = disk.filter(({ subject }) => subject === "xenblk");
  return [
    ...ring.flatMap(judgeRing),
    ...judged.flatMap(judgeIn(disk)),
    ...besideC.flatMap(judgeBesideC(disk)),
    ...filtered.flatMap(judgeFilters(disk)),
  ];
}

/** The goal of the cost of figures, where the requests of one take are answered in one visit. */
export function judgeFigures(costs: readonly FiguresCost[]): Verdict[] {
  return costs.filter(({ visits }) => visits === 1).map((cost) => {
    const { share, met } = shareOf(cost);
    return {
      goal: `figures, ${describePattern(cost)}: ${FIGURES_GOAL}`,
      measured: `${(100 * share).toFixed(1)} %`,
      met,
    };
  });
}

/** The goal of limits that are never reached. */
export function judgeUnreached(costs: readonly UnreachedCost[]): Verdict[] {
  return costs.map((cost) => {
    const { share, met } = unreachedShare(cost);
    return { goal: `${describeUnreached(cost)}: ${UNREACHED_GOAL}`, measured: `${(100 * share).toFixed(1)} %`, met };
  });
}

/** The goals of many disks in one process. */
export function judgeMany(result: ManyResult | undefined): Verdict[] {
  if (result === undefined) return [];
  const { disks, idle, iops } = result;
  const busy = idle.cpuMs / idle.ms;
  return [
    {
      goal: `${disks} idle disks: less than ${IDLE_SHARE * 100} % of a processor`,
      measured: `${(busy * 100).toFixed(1)} %`,
      met: busy < IDLE_SHARE,
    },
    ...atLeast(`${disks} loaded disks: the slowest, of the fastest's IOPS`, Math.min(...iops) / Math.max(...iops), 0.5),
  ];
}

/** The goals of guests that share a reactor. */
export function judgeFair(result: FairResult | undefined): Verdict[] {
  if (result === undefined) return [];
  const { alone, beside, weighted } = result;
  const worst = Math.max(...beside.map(({ p99Us }) => p99Us / alone.p99Us));
  const [small, large] = weighted as [typeof weighted[0], typeof weighted[0]];
  return [
    ...atLeast("depth 1 beside busy guests, of its fair share", Math.min(...beside.map(({ share }) => share)), 0.5),
    { goal: "depth 1 beside busy guests: p99 of that alone at most 5", measured: worst.toFixed(2), met: worst <= 5 },
    ...atLeast("weights 400 and 100: the ratio, of 4", large!.iops / small!.iops / 4, 0.8),
  ];
}

/** The goals of starts and restarts. */
export function judgeStart(result: StartResult | undefined): Verdict[] {
  if (result === undefined) return [];
  const medianMs = (goal: string, values: readonly number[], most: number): Verdict => {
    const measured = median(values) ?? NaN;
    return { goal: `${goal}, at most ${most} ms`, measured: measured.toFixed(0), met: measured <= most };
  };
  return [
    medianMs("start to InitWait, warm", result.warm.map(({ initWaitMs }) => initWaitMs), WARM_MS),
    medianMs("start to InitWait, cold", result.cold.map(({ initWaitMs }) => initWaitMs), COLD_MS),
    medianMs("pause of a restart under load", result.pausesMs, PAUSE_MS),
    ...result.speeds.flatMap(({ case: name, second }) =>
      atLeast(`${name}, the second second of a fresh process: of the fourth's rate`, median(second), WARM_SHARE)
    ),
  ];
}

function judgeRing(result: RingResult): Verdict[] {
  const { typescript, ratio: toC, pairRatio, cPairRatio } = ringRates(result);
  const { collections, heapGrowthBytes, requests } = result.steady;
  const ring = `null-I/O ring, ${result.segments} ${result.segments === 1 ? "segment" : "segments"}`;
  const rate = `${(typescript / 1e6).toFixed(1)} million/s` + (toC === undefined ? "" : `, ${toC.toFixed(2)} of C`);
  return [
    {
      goal: `${ring}: 3 million requests/s, or 0.85 of C`,
      measured: rate,
      met: typescript >= RING_PER_SECOND || (toC ?? 0) >= RING_TO_C,
    },
    {
      goal: `${ring}: no garbage collection, flat heap over ${requests / 1e6} million requests`,
      measured: `${collections} collections, ${(heapGrowthBytes / 1024).toFixed(1)} KiB`,
      met: collections === 0 && heapGrowthBytes < FLAT_BYTES,
    },
    ...(cPairRatio ?? PAIR_TO_ONE) < PAIR_TO_ONE
      ? []
      : atLeast(`${ring}: two queues on two reactors, of one's rate`, pairRatio, PAIR_TO_ONE),
  ];
}

/** What filters that do nothing cost, where the disk is not the limit. */
function judgeFilters(all: readonly Measurement[]): (own: Measurement) => Verdict[] {
  return (own) => {
    const bare = counterpart(all, own, "xenblk");
    if (bare === undefined || own.case.name !== "randread-4k-32" || isDirect(own.storage!)) return [];
    const share = ratio(medianSample(own).iops, medianSample(bare).iops);
    return atLeast(`${own.case.name} on ${own.storage}: IOPS behind three filters, of none`, share, 0.9);
  };
}

/** The goals beside the C reference, in the cells whose limit it shows. */
function judgeBesideC(all: readonly Measurement[]): (own: Measurement) => Verdict[] {
  return (own) => {
    const reference = counterpart(all, own, "c");
    if (reference === undefined || limitOf(all, own)?.counts !== true) return [];
    const [mine, theirs] = [medianSample(own), medianSample(reference)];
    const what = `${own.case.name} on ${own.storage}`;
    const p50 = own.case.depth === 1 ? ratio(mine.latencyUs?.p50, theirs.latencyUs?.p50) : undefined;
    return [
      ...atMost(`${what}: CPU of C's`, ratio(mine.cpuUs, theirs.cpuUs), CPU_TO_C),
      ...atMost(`${what}: p50 latency of C's`, p50, P50_TO_C),
    ];
  };
}

function judgeIn(all: readonly Measurement[]): (own: Measurement) => Verdict[] {
  return (own) => {
    const of = (subject: "qemu" | "fio"): Sample | undefined => {
      const other = counterpart(all, own, subject);
      return other === undefined ? undefined : medianSample(other);
    };
    return judgeCase(own, medianSample(own), of("qemu"), of("fio"));
  };
}

function judgeCase(own: Measurement, mine: Sample, qemu: Sample | undefined, fio: Sample | undefined): Verdict[] {
  const { name } = own.case;
  const storage = own.storage!;
  const what = `${name} on ${storage}`;
  const toQemu = ratio(mine.iops, qemu?.iops);
  if (isQcow2(storage)) {
    const how = own.subject === "unlogged" ? `${what}, no log` : what;
    return [
      ...atLeast(`${how}: IOPS of QEMU's`, toQemu, own.case.depth >= 32 ? 1.2 : 1),
      ...atMost(`${how}: CPU of QEMU's`, ratio(mine.cpuUs, qemu?.cpuUs), 1),
    ];
  }
  const toFio = ratio(mine.iops, fio?.iops);
  switch (name) {
    case "randread-4k-32":
      return [
        ...atLeast(`${what}: IOPS of QEMU's`, toQemu, isDirect(storage) ? 2.5 : 3),
        ...(isDirect(storage)
          ? atLeast(`${what}: IOPS of fio's`, toFio, 0.7)
          : atMost(`${what}: CPU of QEMU's`, ratio(mine.cpuUs, qemu?.cpuUs), 1 / 3)),
      ];
    case "randread-4k-1":
      return atMost(`${what}: p50 latency of QEMU's`, ratio(mine.latencyUs?.p50, qemu?.latencyUs?.p50), 1);
    case "seqread-128k-8":
      return isDirect(storage) ? atLeast(`${what}: throughput of fio's`, toFio, 0.8) : [];
    default:
      return [];
  }
}

function atLeast(goal: string, measured: number | undefined, least: number): Verdict[] {
  if (measured === undefined) return [];
  return [{ goal: `${goal}, at least ${least}`, measured: measured.toFixed(2), met: measured >= least }];
}

function atMost(goal: string, measured: number | undefined, most: number): Verdict[] {
  if (measured === undefined) return [];
  const bound = most === 1 ? "1" : most.toFixed(2);
  return [{ goal: `${goal}, at most ${bound}`, measured: measured.toFixed(2), met: measured <= most }];
}
