/**
 * A short run of the bench's ring part, started as a user does: what it reports and its exit status, not its speed.
 */

import { assert, assertEquals, assertGreater, assertStringIncludes } from "@std/assert";

const MAIN = new URL("../../bench/main.ts", import.meta.url).pathname;

async function bench(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", MAIN, ...args] });
  const { code, stdout, stderr } = await command.output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { code, stdout: out!, stderr: err! };
}

Deno.test({
  name:
    "the ring is measured for 1 and 11 segments, beside C where there is a compiler, without collections, and with limits",
  timeout: 180_000, // beside other load
  fn: theRing,
});

async function theRing(): Promise<void> {
  const { code, stdout, stderr } = await bench("--quick", "--parts=ring", "--json");
  assertEquals([code, stderr], [0, ""]);
  const { ring, figures, unreachedLimits, disk, machine, leftOut } = JSON.parse(stdout);
  assertEquals(ring.map(({ segments }: { segments: number }) => segments), [1, 11]);
  const several = navigator.hardwareConcurrency > 1;
  for (const { typescriptPerSecond, cPerSecond, ratioToC, twoQueuesToOne, twoOfCToOne, steady } of ring) {
    assertGreater(typescriptPerSecond, 0);
    if (several) assertGreater(twoQueuesToOne, 0);
    if (several && cPerSecond !== undefined) assertGreater(twoOfCToOne, 0);
    if (cPerSecond === undefined) assertStringIncludes(leftOut.join(), "gcc is missing (Debian package gcc)");
    else assert(cPerSecond > 0 && ratioToC > 0);
    assertEquals(steady.collections, 0);
    assertEquals(steady.requests, 1_000_000);
  }
  const patterns = figures.map(({ passes, visits }: { passes: number; visits: number }) => [passes, visits]);
  assertEquals(patterns, [[1, 1], [11, 1], [11, 11]]);
  for (const { ns, share } of figures) assert(ns > 0 && share > 0);
  for (const { segments, withoutNs, moreNs } of unreachedLimits) {
    assertEquals([withoutNs.length, moreNs.length], [40, 40], `${segments} segments`);
  }
  assertEquals(unreachedLimits.length, 2);
  assertEquals(disk, undefined);
  assertGreater(machine.cpus, 0);
}

Deno.test("a wrong argument is a one-line error with exit status 2", async () => {
  const { code, stdout, stderr } = await bench("--storage=nfs");
  assertEquals([code, stdout], [2, ""]);
  assertEquals(stderr.trimEnd().split("\n").length, 1);
  assertStringIncludes(stderr, "--storage=nfs");
});
