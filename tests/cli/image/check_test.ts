/**
 * `image check`: its exit statuses on clean, leaking and corrupt images, repairs, and images that are in use.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { xenblk } from "../command.ts";
import { qemu, setRefcount, testImages, useElsewhere } from "./images.ts";

/** Clusters of the image below: the header, the refcount table and block, the L1 table, an L2 table, data. */
const DATA_CLUSTER = 5;

async function makeImage(directory: string): Promise<string> {
  const path = `${directory}/a`;
  await qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=64k", path, "1M");
  await qemu("qemu-io", "-f", "qcow2", "-c", "write 0 64k", path);
  return path;
}

testImages("a clean image is 0, and --json has the counts", async (directory) => {
  const path = await makeImage(directory);
  const { status, stdout, stderr } = await xenblk(["image", "check", `qcow2:${path}`]);
  assertEquals([status, stderr], [0, ""]);
  assertEquals(stdout.split("\n").slice(0, 5), [
    `image        qcow2:${path}`,
    "verdict      clean",
    "corruptions  0",
    "leaks        0",
    "clusters     1 of 16 allocated",
  ]);
  const verdict = JSON.parse((await xenblk(["image", "check", `qcow2:${path}`, "--json"])).stdout);
  assertEquals([verdict.verdict, verdict.corruptions, verdict.totalClusters], ["clean", 0, 16]);
});

testImages("leaks are 7, and --repair leaks makes the image clean", async (directory) => {
  const path = await makeImage(directory);
  setRefcount(path, DATA_CLUSTER + 1, 1);
  Deno.truncateSync(path, (DATA_CLUSTER + 2) * 65536);
  const { status, stdout } = await xenblk(["image", "check", `qcow2:${path}`]);
  assertEquals(status, 7);
  assertMatch(stdout, /^verdict +leaks: space is lost, no data; repair it with --repair leaks$/m);
  const repaired = await xenblk(["image", "check", `qcow2:${path}`, "--repair", "leaks"]);
  assertEquals(repaired.status, 0);
  assertMatch(repaired.stdout, /^leaks +0, 1 repaired$/m);
});

testImages("a corrupt image is 6, --repair leaks refuses it, and --repair all makes it clean", async (directory) => {
  const path = await makeImage(directory);
  setRefcount(path, DATA_CLUSTER, 0);
  const { status, stdout } = await xenblk(["image", "check", `qcow2:${path}`]);
  assertEquals(status, 6);
  assertMatch(stdout, /^verdict +corrupt: data may be lost; make a copy of it, then use --repair all$/m);
  const { status: failed, stderr } = await xenblk(["image", "check", `qcow2:${path}`, "--repair=leaks"]);
  assertEquals(failed, 1);
  assertMatch(stderr, /^xenblk: Cannot repair image .*; repair a copy of it with --repair all, which rebuilds them\n$/);
  const repaired = await xenblk(["image", "check", `qcow2:${path}`, "--repair=all"]);
  assertEquals(repaired.status, 0);
  assertMatch(repaired.stdout, /^corruptions +0, 1 repaired$/m);
});

testImages("an image that another process writes to is neither checked nor repaired", async (directory) => {
  const path = await makeImage(directory);
  await using _user = await useElsewhere("qcow2", path);
  for (const [verb, args] of [["check", []], ["repair", ["--repair=all"]]] as const) {
    const { status, stdout, stderr } = await xenblk(["image", "check", `qcow2:${path}`, ...args]);
    assertEquals([status, stdout], [1, ""]);
    assertMatch(
      stderr,
      new RegExp(
        `^xenblk: Cannot ${verb} image qcow2:\\S+: process \\d+ \\(qemu-io\\) uses it; end that use first\\n$`,
      ),
    );
  }
});

testImages("an image that another process only reads is checked, but not repaired", async (directory) => {
  const path = await makeImage(directory);
  await using _user = await useElsewhere("qcow2", path, ["-r"]);
  assertEquals((await xenblk(["image", "check", `qcow2:${path}`])).status, 0);
  const { status, stderr } = await xenblk(["image", "check", `qcow2:${path}`, "--repair=all"]);
  assertEquals(status, 1);
  assertMatch(stderr, /process \d+ \(qemu-io\) uses it/);
});

testImages("a format without metadata cannot be checked", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/a`, "1M");
  const { status, stderr } = await xenblk(["image", "check", `${directory}/a`]);
  assertEquals([status, stderr], [
    2,
    `xenblk: Cannot check image raw:${directory}/a: the format raw cannot be checked\n`,
  ]);
});
