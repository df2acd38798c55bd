/**
 * The C reference in the report: where it is a limit, the ratios to it, and the goals that follow; and how busy the
 * machine was.
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { type DiskCase, diskCase, type StorageName, type SubjectName } from "../../bench/cases.ts";
import { judge } from "../../bench/goals.ts";
import { leastShare, limitOf } from "../../bench/limits.ts";
import { loadLine, type MachineLoad, parseBusyTicks, readLoad, wasIdle } from "../../bench/load.ts";
import { ratiosOf, renderRatios } from "../../bench/ratios.ts";
import type { Measurement, Sample } from "../../bench/samples.ts";

const READ_1 = diskCase("random", "read", 4, 1);
const READ_32 = diskCase("random", "read", 4, 32);
const WRITE_32 = diskCase("random", "write", 4, 32);
const SPLIT = diskCase("sequential", "read", 128, 8);

function measured(storage: StorageName, subject: SubjectName, one: DiskCase, sample: Partial<Sample>): Measurement {
  const whole = { iops: 100, cpuUs: 2, latencyUs: { p50: 10, p99: 20, p999: 30 }, frontendShare: undefined, ...sample };
  return { storage, subject, case: one, remark: undefined, samples: [whole] };
}

/** C and fio on one case. */
function besideFio(storage: StorageName, one: DiskCase, c: number, fio: number): Measurement[] {
  return [measured(storage, "c", one, { iops: c }), measured(storage, "fio", one, { iops: fio })];
}

Deno.test("the share of fio's IOPS that makes a limit depends on the storage and the operation", () => {
  const shares = (["tmpfs", "cached", "direct", "loop"] as const).map((storage) => leastShare(storage, "read"));
  assertEquals(shares, [0.33, 0.5, 0.77, 0.77]);
  assertEquals([leastShare("direct", "write"), leastShare("cached", "write")], [0.9, 0.5]);
});

Deno.test("a cell of the reference is a limit only where it reaches that share in the same run", () => {
  const cell = { storage: "direct", case: READ_32 } as const;
  assertEquals(limitOf(besideFio("direct", READ_32, 77, 100), cell), { counts: true, why: "0.77 of fio's IOPS" });
  const slow = besideFio("direct", READ_32, 76, 100);
  assertEquals(limitOf(slow, cell), { counts: false, why: "0.76 of fio's IOPS, less than 0.77" });
  assertEquals(limitOf(besideFio("direct", WRITE_32, 80, 100), { storage: "direct", case: WRITE_32 })?.counts, false);
  assertEquals(limitOf([slow[0]!], cell), { counts: false, why: "fio was not measured" });
  assertEquals(limitOf([slow[1]!], cell), undefined);
  assertEquals(limitOf(slow, { storage: undefined, case: READ_32 }), undefined);
});

Deno.test("with one request in flight the deep loads of the same storage and operation decide", () => {
  const cell = { storage: "cached", case: READ_1 } as const;
  const shallow = besideFio("cached", READ_1, 20, 100);
  assertEquals(limitOf(shallow, cell), { counts: false, why: "0.20 of fio's IOPS, less than 0.5" });
  const deep = besideFio("cached", READ_32, 60, 100);
  assertEquals(limitOf([...shallow, ...deep], cell), { counts: true, why: "0.60 of fio's IOPS at randread-4k-32" });
  const slow = besideFio("cached", READ_32, 40, 100);
  assertEquals(limitOf([...shallow, ...slow], cell), {
    counts: false,
    why: "0.40 of fio's IOPS, less than 0.5, at randread-4k-32",
  });
  for (const others of [besideFio("tmpfs", READ_32, 90, 100), besideFio("cached", WRITE_32, 90, 100)]) {
    assertEquals(limitOf([...shallow, ...others], cell)?.counts, false);
  }
});

Deno.test("the goals beside C are its processor time and its p50 at depth 1, where it is a limit", () => {
  const own = (one: DiskCase, sample: Partial<Sample>): Measurement => measured("cached", "xenblk", one, sample);
  const disk = [
    own(READ_1, { cpuUs: 2.2, latencyUs: { p50: 10.6, p99: 1, p999: 1 } }),
    own(READ_32, { cpuUs: 2.3 }),
    own(WRITE_32, { cpuUs: 9 }),
    ...besideFio("cached", READ_1, 20, 100),
    ...besideFio("cached", READ_32, 60, 100),
    ...besideFio("cached", WRITE_32, 10, 100),
  ];
  assertEquals(judge([], disk).map(({ goal, measured, met }) => [goal, measured, met]), [
    ["randread-4k-1 on cached: CPU of C's, at most 1.10", "1.10", true],
    ["randread-4k-1 on cached: p50 latency of C's, at most 1.05", "1.06", false],
    ["randread-4k-32 on cached: CPU of C's, at most 1.10", "1.15", false],
  ]);
});

Deno.test("ratios to C, QEMU and fio stand in one row per cell, and what is no limit below them", () => {
  const disk = [
    measured("tmpfs", "xenblk", READ_32, { iops: 150, cpuUs: 3 }),
    ...besideFio("tmpfs", READ_32, 100, 200),
    measured("tmpfs", "qemu", READ_32, { iops: 50, cpuUs: 6, latencyUs: { p50: 40, p99: 40, p999: 40 } }),
    measured("direct", "xenblk", SPLIT, { latencyUs: undefined }),
    ...besideFio("direct", SPLIT, 10, 100),
  ];
  const [first, second] = ratiosOf(disk);
  assertEquals(first, {
    storage: "tmpfs",
    case: "randread-4k-32",
    ratios: {
      "IOPS/C": 1.5,
      "IOPS/QEMU": 3,
      "IOPS/fio": 0.75,
      "CPU/C": 1.5,
      "CPU/QEMU": 0.5,
      "CPU/fio": 1.5,
      "p50/C": 1,
      "p50/QEMU": 0.25,
      "p50/fio": 1,
      "p99/C": 1,
      "p99/QEMU": 0.5,
      "p99/fio": 1,
    },
    limit: { counts: true, why: "0.50 of fio's IOPS" },
  });
  assertEquals([second!.ratios["p50/C"], second!.ratios["IOPS/QEMU"]], [undefined, undefined]);
  const text = renderRatios(disk, { direct: "ext4, O_DIRECT" }, true);
  assertMatch(text, /^xenblk BESIDE OTHERS +CASE +IOPS\/C +IOPS\/QEMU +IOPS\/fio +CPU\/C .* p99\/fio +C IS A LIMIT$/m);
  assertMatch(text, /^tmpfs +randread-4k-32 +1\.50 +3\.00 +0\.75 +1\.50 .* yes$/m);
  assertMatch(text, /^ext4, O_DIRECT +seqread-128k-8 +10\.00 +- +1\.00 .* no$/m);
  assertStringIncludes(text, "No limit: C reference, seqread-128k-8 on direct: 0.10 of fio's IOPS, less than 0.77\n");
  assertEquals(text.includes("Limits are doubtful"), false);
  assertStringIncludes(renderRatios(disk, {}, false), "Limits are doubtful: the machine was not idle");
  assertEquals(renderRatios([disk[0]!], {}, false), "");
});

Deno.test("a machine is idle if nothing else runs before the run and after it", () => {
  const load = (average: number, before: number, after: number): MachineLoad => ({
    before: { average, busyCpus: before },
    after: { average: 9, busyCpus: after }, // the bench itself
  });
  assertEquals([load(0.2, 0.01, 0.02), load(1.2, 0, 0), load(0, 0.5, 0), load(0, 0, 1)].map(wasIdle), [
    true,
    false,
    false,
    false,
  ]);
  assertEquals(
    loadLine(load(0.17, 0.01, 0.02)),
    "Load average 0.17; in use by others: 0.01 CPUs before the run, 0.02 after it: the machine was idle",
  );
  assertStringIncludes(loadLine(load(11, 2, 2)), "the machine was NOT idle, so figures are rough");
});

Deno.test("processors are busy in /proc/stat unless they are idle or wait for I/O", async () => {
  assertEquals(parseBusyTicks("cpu  100 20 30 4000 500 6 7 8 90 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n"), 171);
  const { average, busyCpus } = await readLoad();
  assertEquals(average >= 0 && busyCpus >= 0 && busyCpus <= navigator.hardwareConcurrency + 0.5, true);
});
