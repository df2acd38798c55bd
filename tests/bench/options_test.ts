/**
 * The bench's command line: the plans that it makes, and the errors, which name the option.
 */

import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import type { DiskCase } from "../../bench/cases.ts";
import { benchHelp, parseBenchOptions } from "../../bench/options.ts";
import { XenblkError } from "../../lib/errors.ts";

Deno.test("without arguments everything is measured; --quick takes less of it", () => {
  const full = parseBenchOptions([]);
  const quick = parseBenchOptions(["--quick"]);
  assertEquals(full.disk!.storages, ["tmpfs", "cached", "direct", "loop"]);
  assertEquals(full.disk!.cases, undefined);
  assertEquals(full.ring!.steadyRequests, 10_000_000);
  assert(quick.disk!.roundMs * quick.disk!.rounds < full.disk!.roundMs * full.disk!.rounds / 5);
  assert(quick.ring!.steadyRequests < full.ring!.steadyRequests);
});

Deno.test("parts, cases, storages and subjects are chosen by name, and come in the report's order", () => {
  const { ring, disk } = parseBenchOptions([
    "--parts=disk",
    "--storage=direct,tmpfs",
    "--subjects=fio,xenblk",
    "--cases=seqread-64k-4,randread-4k-1",
    "--serve=--grants map  --workers 1",
  ]);
  assertEquals(ring, undefined);
  assertEquals(disk!.storages, ["tmpfs", "direct"]);
  assertEquals(disk!.subjects, ["xenblk", "fio"]);
  assertEquals(disk!.cases?.map(({ name }) => name), ["seqread-64k-4", "randread-4k-1"]);
  assertEquals(disk!.serveArguments, ["--grants", "map", "--workers", "1"]);
});

Deno.test("writes that allocate are cases, and qcow2 images have options", () => {
  const { disk } = parseBenchOptions(["--storage=qcow2-tmpfs", "--cases=seqalloc-4k-8", "--qcow2=extended_l2=on"]);
  const [{ name, operation, allocates }] = disk!.cases as [DiskCase];
  assertEquals([name, operation, allocates], ["seqalloc-4k-8", "write", true]);
  assertEquals([disk!.storages, disk!.qcow2], [["qcow2-tmpfs"], "extended_l2=on"]);
});

Deno.test("a plot adds the depths that its curve needs, once", () => {
  const names = parseBenchOptions(["--plot=x.svg", "--cases=randread-4k-4"]).disk!.cases?.map(({ name }) => name);
  assertEquals(names, ["randread-4k-4", "randread-4k-16"]);
});

const REFUSED: readonly (readonly [args: string[], words: string])[] = [
  [["--cases=randread-4k-0"], "--cases=randread-4k-0"],
  [["--cases=randread-4k-513"], "a depth from 1 to 512"],
  [["--cases=randtrim-4k-1"], "--cases=randtrim-4k-1"],
  [["--storage=nfs"], "one of tmpfs, cached, direct, loop, qcow2-tmpfs, qcow2-cached, qcow2-direct"],
  [["--subjects=blkback"], "one of xenblk, filtered, unlogged, c, qemu, raw, fio, null"],
  [["--rounds=0"], "a whole number from 1 to 99"],
  [["--seconds=never"], "--seconds=never"],
  [["--parts=ring", "--plot=x.svg"], "Cannot use --plot without the part disk"],
  [["--fast"], "bench has no such option"],
  [["image.img"], "bench takes no operands"],
];

for (const [args, words] of REFUSED) {
  Deno.test(`the bench refuses ${args.join(" ")}`, () => {
    const error = assertThrows(() => parseBenchOptions(args), XenblkError);
    assertEquals(error.kind, "usage");
    assertStringIncludes(error.line, words);
    assertStringIncludes(error.line, "see deno task bench --help");
  });
}

Deno.test("help names the command as it is called, and every option", () => {
  const help = benchHelp();
  assertStringIncludes(help, "Usage: deno task bench [OPTIONS]");
  for (const option of ["--quick", "--cases", "--storage", "--plot", "--json"]) assertStringIncludes(help, option);
  assert(!help.includes("xenblk bench"));
});
