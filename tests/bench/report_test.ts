/**
 * The bench's report: the table, the goals and the curve that follow from samples, with gaps where nothing was measured.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type DiskCase, diskCase, type StorageName, type SubjectName } from "../../bench/cases.ts";
import { undisturbed } from "../../bench/figures.ts";
import { judge, judgeFair, judgeFigures, judgeStart, judgeUnreached } from "../../bench/goals.ts";
import { loadLine } from "../../bench/load.ts";
import { machineLine } from "../../bench/machine.ts";
import { curve, pictureOf, wrapAtCommas } from "../../bench/plot.ts";
import { type BenchReport, failuresOf, jsonReport, renderReport } from "../../bench/report.ts";
import type { RingResult } from "../../bench/ring.ts";
import { type Measurement, medianSample, type Sample } from "../../bench/samples.ts";
import type { Start } from "../../bench/start.ts";

const MACHINE = {
  processor: "Sample CPU",
  cpus: 2,
  memoryBytes: 24 * 2 ** 30,
  kernel: "6.1.0",
  programs: { Deno: "2.9.6", QEMU: "missing" },
};
const LOAD = { before: { average: 0.1, busyCpus: 0.02 }, after: { average: 2, busyCpus: 0 } };
const READ_32 = diskCase("random", "read", 4, 32);
const READ_1 = diskCase("random", "read", 4, 1);

function sample(iops: number, more: Partial<Sample> = {}): Sample {
  return { iops, cpuUs: 2, latencyUs: { p50: 10, p99: 20, p999: 30 }, frontendShare: 0.4, ...more };
}

function measured(
  storage: StorageName | undefined,
  subject: SubjectName,
  one: DiskCase,
  ...samples: Sample[]
): Measurement {
  return { storage, subject, case: one, remark: undefined, samples };
}

const RING: RingResult = {
  segments: 1,
  requestsPerRound: 1000,
  typescriptNs: [250, 200, 9000],
  pairNs: [250, 300],
  cNs: [100, 100, 100],
  cPairNs: [110],
  steady: { requests: 1_000_000, collections: 0, heapGrowthBytes: 1024, residentGrowthBytes: 0 },
};

const FIGURES = [{ passes: 1, visits: 1, ns: 6.6 }, { passes: 11, visits: 1, ns: 6.7 }, {
  passes: 11,
  visits: 11,
  ns: 25,
}];

const UNREACHED = [
  { segments: 1, withoutNs: [200, 210, 190], moreNs: [6, 90, 5] },
  { segments: 11, withoutNs: [400, 400, 400], moreNs: [-1, 14, 14] },
];

const REPORT: BenchReport = {
  machine: MACHINE,
  load: LOAD,
  ring: { results: [RING], figures: FIGURES, unreached: UNREACHED, leftOut: [] },
  disk: {
    measurements: [
      measured("tmpfs", "xenblk", READ_32, sample(90_000), sample(300_000), sample(310_000)),
      measured("tmpfs", "qemu", READ_32, sample(100_000, { cpuUs: 8 })),
      measured("tmpfs", "fio", READ_32, sample(600_000, { frontendShare: undefined })),
      measured(undefined, "null", READ_32, sample(1_500_000, { frontendShare: 0.97 })),
    ],
    storages: { tmpfs: "tmpfs" },
    leftOut: ["direct: there is no disk"],
    failures: [],
  },
  many: {
    result: {
      domains: 2,
      disks: 4,
      workers: 1,
      residentBytes: { before: 80 * 2 ** 20, connected: 84 * 2 ** 20, loaded: 86 * 2 ** 20 },
      idle: { ms: 10_000, cpuMs: 20, wakeUps: 3 },
      operations: 57_000,
      iops: [1000, 2000, 1500, 1200],
      cpuUs: 1.5,
      collections: 1,
    },
    leftOut: [],
  },
  plugin: {
    results: ["memory", "plugin, no-op"].map((disk, i) => ({
      disk,
      case: diskCase("random", "read", 4, 32),
      samples: [{ iops: 200_000 / (i + 1), cpuUs: 1, latencyUs: { p50: 1, p99: 2, p999: 3 }, frontendShare: 0.5 }],
    })),
    leftOut: [],
    failures: ["plugins: a disk is missing"],
  },
};

Deno.test("disks in TypeScript stand beside the one in memory, and their failures in the report", () => {
  const text = renderReport(REPORT);
  assertMatch(text, /^plugin, no-op +randread-4k-32 +100000 +0 +0.50 +1 +2$/m);
  assertStringIncludes(text, "Failed: plugins: a disk is missing");
});

Deno.test("on qcow2 QEMU's IOPS and its processor time are the goals, with the log and without", () => {
  const disk = [
    measured("qcow2-tmpfs", "xenblk", READ_32, sample(110, { cpuUs: 3 })),
    measured("qcow2-tmpfs", "unlogged", READ_32, sample(130, { cpuUs: 5 })),
    measured("qcow2-tmpfs", "qemu", READ_32, sample(100, { cpuUs: 4 })),
  ];
  assertEquals(judge([], disk).map(({ goal, measured, met }) => [goal, measured, met]), [
    ["randread-4k-32 on qcow2-tmpfs: IOPS of QEMU's, at least 1.2", "1.10", false],
    ["randread-4k-32 on qcow2-tmpfs: CPU of QEMU's, at most 1", "0.75", true],
    ["randread-4k-32 on qcow2-tmpfs, no log: IOPS of QEMU's, at least 1.2", "1.30", true],
    ["randread-4k-32 on qcow2-tmpfs, no log: CPU of QEMU's, at most 1", "1.25", false],
  ]);
});

Deno.test("filters that do nothing are judged by the same disk without them, where it is in memory", () => {
  const disk = [
    measured("tmpfs", "xenblk", READ_32, sample(100)),
    measured("tmpfs", "filtered", READ_32, sample(93)),
    measured("direct", "xenblk", READ_32, sample(100)),
    measured("direct", "filtered", READ_32, sample(50)),
  ];
  assertEquals(judge([], disk).map(({ goal, measured, met }) => [goal, measured, met]), [
    ["randread-4k-32 on tmpfs: IOPS behind three filters, of none, at least 0.9", "0.93", true],
  ]);
});

Deno.test("the medians of a measurement ignore the round that was disturbed", () => {
  const disturbed = measured("tmpfs", "xenblk", READ_32, sample(1), sample(100), sample(110, { cpuUs: 50 }));
  assertEquals([medianSample(disturbed).iops, medianSample(disturbed).cpuUs], [100, 2]);
});

Deno.test("the report names the machine's size and gives each subject's ratios", () => {
  const text = renderReport(REPORT);
  assertStringIncludes(text, "Sample CPU, 2 CPUs, 24.0 GiB, Linux 6.1.0, Deno 2.9.6, QEMU missing\nLoad average 0.10;");
  assertMatch(text, /tmpfs +randread-4k-32 +xenblk +300000 .* 3\.00 +0\.50 +2\.00 +10 +20 +30 +40\n/);
  assertMatch(text, /tmpfs +randread-4k-32 +QEMU qdisk +100000 .* - +0\.17 +8\.00/);
  assertMatch(text, /none +randread-4k-32 +xenblk, no disk +1500000 .* - +- .* 97!\n/);
  assertStringIncludes(text, "5.00 times the IOPS of the fastest backend at randread-4k-32");
  assertStringIncludes(text, "Left out: direct: there is no disk");
  assertMatch(text, /memory per disk, after the load +1\.5 MiB/);
  assertMatch(text, /slowest and of the fastest disk +1000, 2000/);
  assertMatch(text, /4 idle disks: less than 1 % of a processor +0\.2 % +yes/);
  assertMatch(text, /4 loaded disks: the slowest, of the fastest's IOPS, at least 0\.5 +0\.50 +yes/);
  assertMatch(text, /1 segment +4000000 +250 +100 +0\.40 +1\.82 +1\.82 +0 +1\.0 KiB +1000000/);
});

Deno.test("the report lists failures, and leaves out what was not measured", () => {
  const disk = { measurements: [], storages: {}, leftOut: [], failures: ["tmpfs: it broke"] };
  const report = { machine: MACHINE, load: LOAD, ring: undefined, disk, many: undefined, plugin: undefined };
  assertEquals(failuresOf(report), ["tmpfs: it broke"]);
  assertEquals(renderReport(report), `${machineLine(MACHINE)}\n${loadLine(LOAD)}\n\nFailed: tmpfs: it broke\n`);
});

Deno.test("JSON holds the rounds, the medians and the goals", () => {
  const json = JSON.parse(JSON.stringify(jsonReport(REPORT)));
  assertEquals(json.disk[0].median.iops, 300_000);
  assertEquals(json.disk[0].samples.length, 3);
  assertEquals(json.ring[0].ratioToC, 0.4);
  assertEquals([json.load.idle, json.ratios.length, json.ratios[0].case], [true, 1, "randread-4k-32"]);
  assertEquals(json.leftOut, ["direct: there is no disk"]);
  assert(json.goals.length > 0 && json.machine.line.startsWith("Sample CPU"));
});

Deno.test("goals are judged against the figures of the same case and storage", () => {
  const met = (verdicts: ReturnType<typeof judge>): [string, boolean][] =>
    verdicts.map(({ goal, met }) => [goal.split(":")[1]!.trim(), met]);
  assertEquals(met(judge([], REPORT.disk!.measurements)), [
    ["IOPS of QEMU's, at least 3", true],
    ["CPU of QEMU's, at most 0.33", true],
  ]);
  const slow = [
    measured("direct", "xenblk", READ_32, sample(60)),
    measured("direct", "qemu", READ_32, sample(30)),
    measured("direct", "fio", READ_32, sample(100)),
    measured("direct", "xenblk", READ_1, sample(1, { latencyUs: { p50: 11, p99: 1, p999: 1 } })),
    measured("direct", "qemu", READ_1, sample(1)),
  ];
  assertEquals(met(judge([], slow)), [
    ["IOPS of QEMU's, at least 2.5", false],
    ["IOPS of fio's, at least 0.7", false],
    ["p50 latency of QEMU's, at most 1", false],
  ]);
});

Deno.test("the ring's goals are a rate or a ratio, and no collection at all", () => {
  assertEquals(judge([RING], []).map(({ met }) => met), [true, true, true]);
  const bad = { ...RING, typescriptNs: [500], pairNs: [900], steady: { ...RING.steady, collections: 1 } };
  assertEquals(judge([bad], []).map(({ met }) => met), [false, false, false]);
  assertEquals(judge([{ ...bad, cPairNs: [150] }], []).length, 2, "two C loops gain no more than that either");
});

Deno.test("what figures cost is a share of a request, judged where one visit answers what was taken at once", () => {
  const text = renderReport(REPORT);
  assertMatch(text, /^32 taken at once, answered in 1 pass of 1 visit +6\.6 +2\.0$/m);
  assertMatch(text, /^32 taken at once, answered in 11 passes of 11 visits +25\.0 +7\.5$/m);
  assertEquals(judgeFigures(FIGURES).map(({ measured, met }) => [measured, met]), [["2.0 %", true], ["2.0 %", false]]);
  assertMatch(judgeFigures(FIGURES)[1]!.goal, /^figures, 32 taken at once, .*: at most 2 % of 333 ns$/);
  assertEquals(undisturbed([30, 20, 10, 90, 80, 70, 60, 50, 40, 100]), 20);
});

Deno.test("what unreached limits cost is the median of what a limited ring needs more in each round", () => {
  const text = renderReport(REPORT);
  assertMatch(text, /^limits that are never reached, 1 segment: \+6\.0 ns, 3\.0 %$/m);
  assertMatch(text, /^limits that are never reached, 11 segments: \+14\.0 ns, 3\.5 %$/m);
  const verdicts = judgeUnreached(UNREACHED);
  assertEquals(verdicts.map(({ measured, met }) => [measured, met]), [["3.0 %", true], ["3.5 %", false]]);
  assertEquals(verdicts[0]!.goal, "limits that are never reached, 1 segment: at most 3 % of a request");
});

Deno.test("a goal without figures to compare with is left out", () => {
  assertEquals(judge([], [measured("tmpfs", "xenblk", READ_32, sample(1))]), []);
});

Deno.test("a curve has one point for each depth of 4 KiB random reads, in order", () => {
  const measurements = [
    measured("tmpfs", "xenblk", READ_32, sample(320.4)),
    measured("tmpfs", "xenblk", READ_1, sample(10)),
    measured("tmpfs", "xenblk", diskCase("random", "write", 4, 32), sample(5)),
    measured("cached", "xenblk", READ_1, sample(7)),
  ];
  assertEquals(curve(measurements, "tmpfs", "xenblk"), [[1, 10], [32, 320]]);
  const picture = pictureOf({ machine: MACHINE, measurements, storages: { cached: "ext4, cached" } })!;
  assertEquals(picture.panels.map(({ title, lines }) => [title, lines.length]), [["tmpfs", 1], ["ext4, cached", 1]]);
  assertStringIncludes(picture.subtitle, "2 CPUs");
  assertEquals(pictureOf({ machine: MACHINE, measurements: [], storages: {} }), undefined);
});

Deno.test("small print is broken at commas", () => {
  assertEquals(wrapAtCommas("one, two, three, four", 10), "one, two,\nthree,\nfour");
  assertEquals(wrapAtCommas("alone", 2), "alone");
});

Deno.test("guests that share a Worker are judged by the worst of them", () => {
  const beside = [{ load: "reads", iops: 4000, p99Us: 100, share: 2 }, {
    load: "writes",
    iops: 900,
    p99Us: 600,
    share: 0.45,
  }];
  const weighted = [{ weight: 100, iops: 1000 }, { weight: 400, iops: 3600 }];
  const verdicts = judgeFair({ alone: { iops: 10_000, p99Us: 100 }, beside, weighted });
  assertEquals(verdicts.map(({ measured, met }) => [measured, met]), [["0.45", false], ["6.00", false], [
    "0.90",
    true,
  ]]);
});

Deno.test("starts and restarts are judged by their medians, and the report has the shortest and the longest", () => {
  const start = (initWaitMs: number): Start => ({ initWaitMs, openMs: initWaitMs + 30, cpuMs: 170 });
  const result = {
    warm: [90, 100, 900].map(start),
    cold: [300, 500].map(start),
    pausesMs: [140, 150, 151, 700],
    speeds: [{ case: "randread-4k-1", first: [0.5, 0.6, 0.9], second: [0.99, 0.8, 0.94] }],
  };
  assertEquals(judgeStart(result).map(({ measured, met }) => [measured, met]), [
    ["100", true],
    ["400", true],
    ["151", false],
    ["0.94", false],
  ]);
  assertEquals(judgeStart(undefined), []);
  const text = renderReport({ ...REPORT, start: { result, leftOut: [] } });
  assertMatch(text, /^files in the page cache: to InitWait +90 +100 +900$/m);
  assertMatch(text, /^pause of a guest under load at a restart +140 +151 +700$/m);
  assertMatch(text, /^randread-4k-1, of the fourth second's rate +0\.60 +0\.94$/m);
});
