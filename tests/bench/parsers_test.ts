/**
 * The bench reads V8's trace, fio's JSON and /proc, and what QEMU says of itself.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { qemuPath } from "../../bench/backends.ts";
import { sampleOf } from "../../bench/fio.ts";
import { parseProcessorSeconds } from "../../bench/machine.ts";
import { collectionsWatched } from "../../bench/ring.ts";
import { XenblkError } from "../../lib/errors.ts";

const ASKED = "[9:0x5]  10 ms: Mark-Compact 4.6 (7.0) -> 3.7 (6.8) MB, 1.1 / 0.0 ms testing; GC in old space requested";
const SCAVENGE = "[9:0x5]  11 ms: Scavenge 4.2 (5.8) -> 3.7 (6.2) MB, 0.9 / 0.0 ms allocation failure;";

Deno.test("collections are counted between those that were requested", () => {
  const trace = [SCAVENGE, ASKED, ASKED, SCAVENGE, SCAVENGE, ASKED, SCAVENGE, "something else", ASKED, SCAVENGE];
  assertEquals(collectionsWatched(trace.join("\n")), [0, 1]);
  assertEquals(collectionsWatched(SCAVENGE), []);
  assertThrows(() => collectionsWatched(ASKED), Error, "ends between two requested collections");
});

Deno.test("fio's processor time is for one block, its latency in microseconds", () => {
  const percentile = { "50.000000": 31_000, "99.000000": 69_000, "99.900000": 4_046_000 };
  const idle = { iops: 0, total_ios: 0, lat_ns: { percentile: {} } };
  const read = { iops: 500, total_ios: 1000, lat_ns: { percentile } };
  const job = { error: 0, usr_cpu: 20, sys_cpu: 30, job_runtime: 2000, read, write: idle };
  assertEquals(sampleOf(job, { operation: "read" }), {
    iops: 500,
    cpuUs: 1000,
    latencyUs: { p50: 31, p99: 69, p999: 4046 },
    frontendShare: undefined,
  });
  assertThrows(() => sampleOf(job, { operation: "write" }), XenblkError, "its job failed");
  assertThrows(() => sampleOf({ ...job, error: 5 }, { operation: "read" }), XenblkError, "its job failed (5)");
});

Deno.test("processor time is found behind any process name", () => {
  const fields = "S 1 2 3 4 5 6 7 8 9 10 150 250 0 0";
  assertEquals(parseProcessorSeconds(`42 (deno) ${fields}`), 4);
  assertEquals(parseProcessorSeconds(`42 (a) b (c 1 2) ${fields}`), 4);
});

Deno.test("a QEMU is used only if it was built for Xen", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const program = async (name: string, machines: string): Promise<string> => {
      await Deno.writeTextFile(`${directory}/${name}`, `#!/bin/sh\necho '${machines}'\n`, { mode: 0o755 });
      return `${directory}/${name}`;
    };
    const without = await program("without", "pc   Standard PC");
    const built = await program("built", "xenpv   Xen Para-virtualized PC");
    assertEquals(qemuPath([`${directory}/missing`, without, built]), built);
    assertEquals(qemuPath([without]), undefined);
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});
