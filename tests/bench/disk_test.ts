/**
 * A very short run of the bench's disk part, started as a user does: every kind of load is measured on whole backends,
 * and large blocks are requested as they should be. Speed is not judged.
 */

import { assert, assertEquals } from "@std/assert";
import { nativeTest } from "../native/harness.ts";

const MAIN = new URL("../../bench/main.ts", import.meta.url).pathname;
const CASES = ["randread-4k-1", "randread-4k-128", "randwrite-4k-32", "seqread-128k-8"];

nativeTest(
  "loads of every kind are measured on this backend and the C reference, large ones in one request",
  async () => {
    const choice = ["--parts=disk", "--storage=tmpfs", `--cases=${CASES}`, "--subjects=xenblk,c,null"];
    const size = ["--rounds=1", "--seconds=0.2", "--size=16M", "--json", "--quiet"];
    const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", MAIN, ...choice, ...size] });
    const { code, stdout, stderr } = await command.output();
    assertEquals(code, 0, new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
    const { disk, failures, leftOut } = JSON.parse(new TextDecoder().decode(stdout));
    assertEquals([failures, leftOut], [[], []]);
    const measured = disk.map(({ case: { name }, subject, remark }: Measured) => [name, subject, remark]);
    // JSON has no undefined: without a remark, blocks were not split.
    const subjects = ["xenblk", "c", "null"];
    assertEquals(measured, CASES.flatMap((name) => subjects.map((subject) => [name, subject, undefined])));
    for (const { median: { iops, latencyUs } } of disk) assert(iops > 0 && latencyUs.p50 <= latencyUs.p999);
  },
);

nativeTest("a qcow2 image is measured with its storage daemon, also where writes allocate", async () => {
  const cases = ["randread-4k-32", "randalloc-4k-32"];
  const choice = ["--parts=disk", "--storage=qcow2-tmpfs", `--cases=${cases}`, "--subjects=xenblk,unlogged,raw"];
  const size = ["--rounds=1", "--seconds=0.2", "--size=16M", "--json", "--quiet"];
  const command = new Deno.Command(Deno.execPath(), { args: ["run", "-A", "--no-check", MAIN, ...choice, ...size] });
  const { code, stdout, stderr } = await command.output();
  assertEquals(code, 0, new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr));
  const { disk, failures, leftOut } = JSON.parse(new TextDecoder().decode(stdout));
  assertEquals([failures, leftOut], [[], []]);
  assertEquals(disk.map(({ case: { name }, subject }: Measured) => `${subject} ${name}`), [
    "xenblk randread-4k-32",
    "unlogged randread-4k-32",
    "raw randread-4k-32",
    "xenblk randalloc-4k-32",
    "unlogged randalloc-4k-32",
  ]);
  for (const { median } of disk) assert(median.iops > 0);
});

interface Measured {
  readonly case: { readonly name: string };
  readonly subject: string;
  readonly remark?: string;
}
