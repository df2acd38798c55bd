/**
 * `image info` and `image map`: what they show of real images, in tables and in JSON.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { xenblk } from "../command.ts";
import { qemu, setIncompatible, testImages, useElsewhere } from "./images.ts";

const QCOW2 = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=64k"];

testImages("info shows an image as names and values, and its snapshots below", async (directory) => {
  const path = `${directory}/a`;
  await qemu("qemu-img", ...QCOW2, path, "1M");
  await qemu("qemu-img", "snapshot", "-c", "before\x1bupdate", path);
  const { status, stdout, stderr } = await xenblk(["image", "info", `qcow2:${path}`]);
  assertEquals([status, stderr], [0, ""]);
  const lines = stdout.trimEnd().split("\n");
  assertEquals(lines.slice(0, 3), [
    `image      qcow2:${path}`,
    "format     qcow2",
    "size       1.0 MiB, 2048 sectors",
  ]);
  assertMatch(lines[3]!, /^allocated {2}\d+\.\d KiB$/);
  assertEquals(lines[4], "clusters   64.0 KiB");
  assertMatch(lines[5]!, /^SNAPSHOT {2}NAME +TAKEN +STATE$/);
  assertMatch(lines[6]!, /^1 +before\\x1bupdate +20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ +0 B$/);
  assertEquals(lines.length, 7);
});

testImages("info shows a chain, each image with its backing image", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/base`, "1M");
  await qemu("qemu-img", ...QCOW2, "-b", `${directory}/base`, "-F", "raw", `${directory}/a`);
  const { status, stdout } = await xenblk(["image", "info", `qcow2:${directory}/a`, "--chain", "--json"]);
  assertEquals(status, 0);
  const [top, base, ...more] = JSON.parse(stdout);
  assertEquals(top.backing, { path: `${directory}/base`, format: "raw" });
  assertEquals([top.name, top.sizeBytes, top.clusterBytes], [`qcow2:${directory}/a`, 2 ** 20, 65536]);
  assertEquals([top.formatBy, top.dirty, top.corrupt, top.guests, top.snapshots], ["name", false, false, [], []]);
  assertEquals([base.name, base.formatBy, more], [`raw:${directory}/base`, "image", []]);
  const table = await xenblk(["image", "info", `qcow2:${directory}/a`, "--chain"]);
  const lines = table.stdout.split("\n");
  assertEquals(lines.filter((line) => line.startsWith("backing")), [`backing    raw:${directory}/base`]);
  assertEquals(lines.filter((line) => line.startsWith("image")).length, 2);
});

testImages("info finds the format by the content and says so; a raw image is raw", async (directory) => {
  await qemu("qemu-img", ...QCOW2, `${directory}/a`, "1M");
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/b`, "1M");
  const formatOf = async (name: string): Promise<string> =>
    (await xenblk(["image", "info", name])).stdout.split("\n").find((line) => line.startsWith("format"))!;
  assertEquals(await formatOf(`${directory}/a`), "format     qcow2, by its content; no format was named");
  assertEquals(await formatOf(`${directory}/b`), "format     raw");
  assertEquals(await formatOf(`raw:${directory}/a`), "format     raw");
});

testImages("info shows that an image is in use, dirty or corrupt", async (directory) => {
  const path = `${directory}/a`;
  await qemu("qemu-img", ...QCOW2, path, "1M");
  const lineOf = async (name: string): Promise<string | undefined> => {
    const { stdout } = await xenblk(["image", "info", `qcow2:${path}`]);
    return stdout.split("\n").find((line) => line.startsWith(name));
  };
  assertEquals([await lineOf("condition"), await lineOf("used by")], [undefined, undefined]);
  {
    await using _user = await useElsewhere("qcow2", path);
    assertMatch((await lineOf("used by"))!, /^used by +process \d+ \(qemu-io\)$/);
  }
  setIncompatible(path, 1);
  assertEquals(
    await lineOf("condition"),
    "condition  dirty: it was not closed; QEMU repairs it when it is next opened",
  );
  setIncompatible(path, 2);
  assertEquals(
    await lineOf("condition"),
    "condition  corrupt: QEMU opens it read-only until `xenblk image check --repair all` has repaired it",
  );
});

testImages("what is no image of its format is an error with what to do", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/a`, "1M");
  const { status, stdout, stderr } = await xenblk(["image", "info", `qcow2:${directory}/a`]);
  assertEquals([status, stdout], [1, ""]);
  assertMatch(
    stderr,
    /^xenblk: Cannot look at image qcow2:\S+: .*Image is not in qcow2 format; name its real format: FORMAT:PATH\n$/,
  );
  const missing = await xenblk(["image", "info", `${directory}/none`]);
  assertMatch(missing.stderr, /^xenblk: Cannot open image \S+\/none: there is no such file; /);
  assertEquals(missing.status, 1);
});

testImages("map shows what each range holds, and where", async (directory) => {
  await qemu("qemu-img", "create", "-q", "-f", "raw", `${directory}/base`, "256k");
  await qemu("qemu-io", "-f", "raw", "-c", "write 0 64k", `${directory}/base`);
  const path = `${directory}/a`;
  await qemu("qemu-img", ...QCOW2, "-b", `${directory}/base`, "-F", "raw", path);
  await qemu("qemu-io", "-f", "qcow2", "-c", "write 128k 64k", "-c", "write -z 192k 64k", path);
  const { status, stdout, stderr } = await xenblk(["image", "map", `qcow2:${path}`, "--no-headings"]);
  assertEquals([status, stderr], [0, ""]);
  const rows = stdout.trimEnd().split("\n").map((line) => line.trim().split(/ {2,}/));
  assertEquals(rows.map((row) => row.slice(0, 5)), [
    ["0", "65536", "64.0 KiB", "data", "1"],
    ["65536", "65536", "64.0 KiB", "zeroes", "1"],
    ["131072", "65536", "64.0 KiB", "data", "0"],
    ["196608", "65536", "64.0 KiB", "zeroes", "0"],
  ]);
  assertEquals([rows[0]![5], rows[3]![5]], ["0", "-"]);
  const json = JSON.parse((await xenblk(["image", "map", `qcow2:${path}`, "--json"])).stdout);
  assertEquals(json[2], { ...json[2], startBytes: 131072, lengthBytes: 65536, content: "data", depth: 0 });
  assertEquals(String(json[2].hostOffsetBytes), rows[2]![5]);
});

testImages(
  "a verb that reads all of an image refuses one that looks like a format that is not named",
  async (directory) => {
    const path = `${directory}/a`;
    await qemu("qemu-img", ...QCOW2, path, "1M");
    for (const verb of ["map", "check", "convert"]) {
      const { status, stdout, stderr } = await xenblk([
        "image",
        verb,
        path,
        ...(verb === "convert" ? [`${path}.2`] : []),
      ]);
      assertEquals([status, stdout, stderr], [
        2,
        "",
        `xenblk: Cannot ${verb} ${path}: it begins like a qcow2 image, but no format is named; name it qcow2:${path}, or ` +
        `raw:${path} if a guest wrote what it begins with\n`,
      ]);
    }
  },
);
