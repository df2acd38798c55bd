/**
 * The report of a run, as text for people and as JSON for programs. Both begin with the
 * machine of the run.
 */

import { renderTable } from "../lib/cli/table.ts";
import type { StorageName } from "./cases.ts";
import type { DiskReport } from "./disk.ts";
import { describePattern, type FiguresCost, shareOf } from "./figures.ts";
import { judge, judgeFair, judgeFigures, judgeMany, judgeStart, judgeUnreached, type Verdict } from "./goals.ts";
import { loadLine, type MachineLoad, wasIdle } from "./load.ts";
import { type Machine, machineLine } from "./machine.ts";
import type { FairReport, FairResult } from "./fair.ts";
import type { ManyReport, ManyResult } from "./many.ts";
import type { PluginReport } from "./plugin.ts";
import { ratiosOf, renderRatios } from "./ratios.ts";
import { ringRates, type RingReport } from "./ring.ts";
import { counterpart, type Latency, type Measurement, medianSample } from "./samples.ts";
import type { Start, StartReport, StartResult } from "./start.ts";
import { median, ratio, spread } from "./statistics.ts";
import { describeUnreached, type UnreachedCost, unreachedShare } from "./unreached.ts";

/** The results of a run. Parts that were not chosen are undefined. */
export interface BenchReport {
  readonly machine: Machine;
  readonly load: MachineLoad;
  readonly ring: RingReport | undefined;
  readonly disk: DiskReport | undefined;
  readonly many: ManyReport | undefined;
  readonly fair?: FairReport | undefined;
  readonly plugin: PluginReport | undefined;
  readonly start?: StartReport | undefined;
}

const UNKNOWN = "-";
/** If the frontend's thread uses this share of a CPU or more, it may limit the case. */
const BUSY_SHARE = 0.95;
const SUBJECT_TITLES = {
  xenblk: "xenblk",
  filtered: "xenblk, filters",
  unlogged: "xenblk, no log",
  c: "C reference",
  qemu: "QEMU qdisk",
  raw: "xenblk, raw",
  fio: "fio io_uring",
  null: "xenblk, no disk",
} as const;

/** The failures of all parts. */
export function failuresOf({ disk, plugin }: BenchReport): readonly string[] {
  return [disk, plugin].flatMap((part) => part?.failures ?? []);
}

/** The report as text. */
export function renderReport(report: BenchReport): string {
  const { machine, load, ring, disk, many, plugin, fair, start } = report;
  const verdicts = verdictsOf(report);
  const goals = renderTable(
    [{ heading: "GOAL" }, right("MEASURED"), { heading: "MET" }],
    verdicts.map(({ goal, measured, met }) => [goal, measured, met ? "yes" : "no"]),
  );
  const sections = [
    `${machineLine(machine)}\n${loadLine(load)}\n`,
    ...(ring === undefined ? [] : [renderRing(ring), renderFigures(ring.figures), renderUnreached(ring.unreached)]),
    ...(disk === undefined || disk.measurements.length === 0 ? [] : [renderDisk(disk)]),
    disk === undefined ? "" : renderRatios(disk.measurements, disk.storages, wasIdle(load)),
    ...(many?.result === undefined ? [] : [renderMany(many.result)]),
    ...(plugin === undefined || plugin.results.length === 0 ? [] : [renderPlugins(plugin)]),
    ...(fair?.result === undefined ? [] : [renderFair(fair.result)]),
    ...(start?.result === undefined ? [] : [renderStart(start.result), renderSpeeds(start.result)]),
    ...(verdicts.length === 0 ? [] : [goals]),
    renderLines("Left out: ", leftOutOf(report)),
    renderLines("Failed: ", failuresOf(report)),
  ];
  return sections.filter((section) => section !== "").join("\n");
}

/** The report as JSON: medians, and the figures of each round. */
export function jsonReport(report: BenchReport): unknown {
  const { machine, load, ring, disk, many, plugin, fair, start } = report;
  return {
    machine: { ...machine, line: machineLine(machine) },
    load: { ...load, idle: wasIdle(load), line: loadLine(load) },
    ring: ring?.results.map((result) => ({ ...result, ...named(ringRates(result)) })),
    figures: ring?.figures.map((cost) => ({ ...cost, share: shareOf(cost).share })),
    unreachedLimits: ring?.unreached.map((cost) => ({ ...cost, ...unreachedShare(cost) })),
    disk: disk?.measurements.map((measurement) => ({ ...measurement, median: medianSample(measurement) })),
    storages: disk?.storages,
    ratios: disk === undefined ? undefined : ratiosOf(disk.measurements),
    many: many?.result,
    fair: fair?.result,
    start: start?.result,
    plugin: plugin?.results.map((result) => ({ ...result, median: medianSample(result) })),
    goals: verdictsOf(report),
    leftOut: leftOutOf(report),
    failures: failuresOf(report),
  };
}

function verdictsOf({ ring, disk, many, fair, start }: BenchReport): Verdict[] {
  const figures = judgeFigures(ring?.figures ?? []);
  return [
    ...judge(ring?.results ?? [], disk?.measurements ?? []),
    ...figures,
    ...judgeUnreached(ring?.unreached ?? []),
    ...judgeMany(many?.result),
    ...judgeFair(fair?.result),
    ...judgeStart(start?.result),
  ];
}

function leftOutOf({ ring, disk, many, plugin, fair, start }: BenchReport): string[] {
  return [ring, disk, many, plugin, fair, start].flatMap((part) => part?.leftOut ?? []);
}

function named(rates: ReturnType<typeof ringRates>): Record<string, number | undefined> {
  const { typescript, c, ratio, pairRatio, cPairRatio } = rates;
  return {
    typescriptPerSecond: typescript,
    cPerSecond: c,
    ratioToC: ratio,
    twoQueuesToOne: pairRatio,
    twoOfCToOne: cPairRatio,
  };
}

function renderRing({ results }: RingReport): string {
  const columns = [
    { heading: "NULL-I/O RING" },
    ...[
      "REQUESTS/s",
      "ns/REQUEST",
      "C ns/REQUEST",
      "RATE OF C's",
      "TWO QUEUES",
      "TWO OF C",
      "COLLECTIONS",
      "HEAP GROWTH",
      "OVER REQUESTS",
    ]
      .map(right),
  ];
  const rows = results.map((result) => {
    const { typescript, c, ratio, pairRatio, cPairRatio } = ringRates(result);
    const { collections, heapGrowthBytes, requests } = result.steady;
    return [
      `${result.segments} ${result.segments === 1 ? "segment" : "segments"}`,
      typescript.toFixed(0),
      (1e9 / typescript).toFixed(0),
      c === undefined ? UNKNOWN : (1e9 / c).toFixed(0),
      decimals(ratio, 2),
      decimals(pairRatio, 2),
      decimals(cPairRatio, 2),
      String(collections),
      `${(heapGrowthBytes / 1024).toFixed(1)} KiB`,
      String(requests),
    ];
  });
  return renderTable(columns, rows);
}

function renderFigures(figures: readonly FiguresCost[]): string {
  const columns = [{ heading: "HISTOGRAMS AND BUSY TIME" }, right("ns/REQUEST"), right("% OF 333 ns")];
  return renderTable(
    columns,
    figures.map((cost) => [describePattern(cost), cost.ns.toFixed(1), (100 * shareOf(cost).share).toFixed(1)]),
  );
}

/** `limits that are never reached: +6 ns, 3 %`. */
function renderUnreached(costs: readonly UnreachedCost[]): string {
  return renderLines(
    "",
    costs.map((cost) => {
      const { ns, share } = unreachedShare(cost);
      return `${describeUnreached(cost)}: ${ns < 0 ? "" : "+"}${ns.toFixed(1)} ns, ${(100 * share).toFixed(1)} %`;
    }),
  );
}

function renderDisk({ measurements, storages }: DiskReport): string {
  const columns = [
    ...["STORAGE", "CASE", "SUBJECT"].map((heading) => ({ heading })),
    ...["IOPS", "±%", "MB/s", "OF QEMU", "OF fio", "CPU µs", "p50 µs", "p99 µs", "p99.9 µs", "FRONTEND %"].map(right),
  ];
  const rows = measurements.map((measurement) => diskRow(measurements, measurement, storages));
  return renderTable(columns, rows) + "\n" + renderLines("", diskNotes(measurements));
}

function renderMany(
  { domains, disks, workers, residentBytes, idle, operations, iops, cpuUs, collections }: ManyResult,
): string {
  const { before, connected, loaded } = residentBytes;
  const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const total = iops.reduce((sum, one) => sum + one, 0);
  const rows: [string, string][] = [
    ["disks, of guests, on Workers", `${disks}, ${domains}, ${workers}`],
    ["memory of the process without disks", mib(before)],
    ["memory per disk, connected and used once", mib((connected - before) / disks)],
    ["memory per disk, after the load", mib((loaded - before) / disks)],
    [`processor time while all are idle, ${idle.ms / 1000} s`, `${idle.cpuMs.toFixed(0)} ms`],
    ["wake-ups of Workers meanwhile", String(idle.wakeUps)],
    ["4 KiB random reads, 32 in flight on each, IOPS of all", total.toFixed(0)],
    ["IOPS of the slowest and of the fastest disk", `${Math.min(...iops).toFixed(0)}, ${Math.max(...iops).toFixed(0)}`],
    [
      `garbage collections in all threads, over ${(operations / 1e6).toFixed(1)} million reads`,
      String(collections),
    ],
    ["processor time per read", `${cpuUs.toFixed(2)} µs`],
  ];
  return renderTable([{ heading: "MANY DISKS" }, right("MEASURED")], rows);
}

function renderFair({ alone, beside, weighted }: FairResult): string {
  const columns = [
    { heading: "ONE READ AT A TIME" },
    ...["READS/s", "p99 µs", "OF FAIR SHARE", "p99 OF ALONE"].map(right),
  ];
  const rows = [
    ["alone", alone.iops.toFixed(0), alone.p99Us.toFixed(0), "", ""],
    ...beside.map(({ load, iops, p99Us, share }) => [
      `beside ${load}`,
      iops.toFixed(0),
      p99Us.toFixed(0),
      share.toFixed(2),
      (p99Us / alone.p99Us).toFixed(2),
    ]),
    ...weighted.map((
      { weight, iops },
    ) => [`44 KiB reads, 128 in flight, weight ${weight}`, iops.toFixed(0), "", "", ""]),
  ];
  return renderTable(columns, rows);
}

function renderStart({ warm, cold, pausesMs }: StartResult): string {
  const row = (
    what: string,
    values: readonly number[],
  ): string[] => [
    what,
    ...[Math.min(...values), median(values) ?? NaN, Math.max(...values)].map((ms) => ms.toFixed(0)),
  ];
  const rows = (how: string, starts: readonly Start[]): string[][] => [
    row(`${how}: to InitWait`, starts.map(({ initWaitMs }) => initWaitMs)),
    row(`${how}: to an open image`, starts.map(({ openMs }) => openMs)),
    row(`${how}: processor time until then`, starts.map(({ cpuMs }) => cpuMs)),
  ];
  const columns = [{ heading: "STARTS" }, ...["MIN ms", "MEDIAN ms", "MAX ms"].map(right)];
  return renderTable(columns, [
    ...rows("files in the page cache", warm),
    ...rows("the program's files not in the page cache", cold),
    row("pause of a guest under load at a restart", pausesMs),
  ]);
}

function renderSpeeds({ speeds }: StartResult): string {
  const columns = [{ heading: "A FRESH PROCESS" }, ...["FIRST SECOND", "SECOND SECOND"].map(right)];
  const rows = speeds.map(({ case: name, first, second }) => [
    `${name}, of the fourth second's rate`,
    decimals(median(first), 2),
    decimals(median(second), 2),
  ]);
  return renderTable(columns, rows);
}

function renderPlugins({ results }: PluginReport): string {
  const columns = [
    ...["DISK IN TYPESCRIPT", "CASE"].map((heading) => ({ heading })),
    ...["IOPS", "±%", "OF MEMORY", "p50 µs", "p99 µs"].map(right),
  ];
  const rows = results.map((result) => {
    const { iops, latencyUs } = medianSample(result);
    const memory = results.find(({ disk, case: { name } }) => disk === "memory" && name === result.case.name);
    const deviation = spread(result.samples.map((sample) => sample.iops));
    return [
      result.disk,
      result.case.name,
      iops.toFixed(0),
      deviation === undefined ? UNKNOWN : (100 * deviation).toFixed(0),
      decimals(ratio(iops, memory === undefined ? undefined : medianSample(memory).iops), 2),
      decimals(latencyUs?.p50, 0),
      decimals(latencyUs?.p99, 0),
    ];
  });
  return renderTable(columns, rows);
}

function diskRow(
  all: readonly Measurement[],
  measurement: Measurement,
  storages: Readonly<Partial<Record<StorageName, string>>>,
): string[] {
  const { storage, case: { name, blockBytes }, subject, samples } = measurement;
  const sample = medianSample(measurement);
  const of = (other: "qemu" | "fio"): string => {
    const base = subject === "null" ? undefined : counterpart(all, measurement, other);
    return subject === other || base === undefined ? UNKNOWN : decimals(ratio(sample.iops, medianSample(base).iops), 2);
  };
  const latency = (value: (latency: Latency) => number): string =>
    sample.latencyUs === undefined ? UNKNOWN : value(sample.latencyUs).toFixed(0);
  const { frontendShare } = sample;
  return [
    storage === undefined ? "none" : storages[storage] ?? storage,
    name,
    SUBJECT_TITLES[subject],
    sample.iops.toFixed(0),
    samples.length < 3 ? UNKNOWN : decimals(spread(samples.map(({ iops }) => iops))! * 100, 0),
    (sample.iops * blockBytes / 1e6).toFixed(0),
    of("qemu"),
    of("fio"),
    sample.cpuUs.toFixed(2),
    latency(({ p50 }) => p50),
    latency(({ p99 }) => p99),
    latency(({ p999 }) => p999),
    frontendShare === undefined ? UNKNOWN : (frontendShare * 100).toFixed(0) + (frontendShare >= BUSY_SHARE ? "!" : ""),
  ];
}

/** Remarks on single rows, and whether the frontend limited any. */
function diskNotes(measurements: readonly Measurement[]): string[] {
  const remarks = measurements.flatMap(({ subject, case: { name }, remark }) =>
    remark === undefined ? [] : [`${SUBJECT_TITLES[subject]}, ${name}: ${remark}`]
  );
  return [
    "Medians of rounds; ±% is half the distance of the quartiles. CPU is user and system time of the backend's",
    "process (fio's own) per block. FRONTEND is the frontend's processor time in per cent of one CPU.",
    ...frontendNotes(measurements),
    ...new Set(remarks),
  ];
}

function frontendNotes(measurements: readonly Measurement[]): string[] {
  return measurements.filter(({ subject }) => subject === "null").flatMap((ceiling) => {
    const others = measurements.filter(({ subject, case: { name } }) =>
      (subject === "xenblk" || subject === "qemu") && name === ceiling.case.name
    );
    if (others.length === 0) return [];
    const fastest = Math.max(...others.map((other) => medianSample(other).iops));
    const times = ratio(medianSample(ceiling).iops, fastest)!;
    return [
      `With a null disk, the frontend reaches ${times.toFixed(2)} times the IOPS of the fastest backend at ` +
      `${ceiling.case.name}.`,
    ];
  });
}

function renderLines(prefix: string, lines: readonly string[]): string {
  return lines.map((line) => `${prefix}${line}\n`).join("");
}

function right(heading: string): { heading: string; align: "right" } {
  return { heading, align: "right" };
}

function decimals(value: number | undefined, digits: number): string {
  return value === undefined ? UNKNOWN : value.toFixed(digits);
}
