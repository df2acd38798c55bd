/**
 * `image convert`: the copy is the same, its progress in each of its forms, and that a failure or a signal leaves nothing.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { ConvertProgress } from "../../../lib/cli/image/convert_progress.ts";
import { type ByteSink, Output } from "../../../lib/cli/output.ts";
import { startXenblk, xenblk } from "../command.ts";
import { namesIn, qemu, smallFileSystem, testImages, useElsewhere } from "./images.ts";

/** A qcow2 image of 4 MiB with 2 MiB of data. */
async function makeSource(directory: string): Promise<string> {
  const path = `${directory}/source`;
  await qemu("qemu-img", "create", "-q", "-f", "qcow2", path, "4M");
  await qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 2M", path);
  return path;
}

testImages(
  "a conversion yields the same disk, tells its progress line by line, and prints the new name",
  async (directory) => {
    const source = await makeSource(directory);
    const target = `${directory}/target`;
    const { status, stdout, stderr } = await xenblk(["image", "convert", `qcow2:${source}`, `vmdk:${target}`]);
    assertEquals([status, stdout], [0, `vmdk:${target}\n`], stderr);
    const lines = stderr.trimEnd().split("\n");
    assertMatch(lines.at(-1)!, /^xenblk: made vmdk:\S+ \(4\.0 MiB, [\d.]+ MiB allocated\) in \d+\.\d s$/);
    for (const line of lines.slice(0, -1)) assertMatch(line, /^xenblk: \d+% copied$/);
    await qemu("qemu-img", "compare", "-f", "qcow2", "-F", "vmdk", source, target);
    assertEquals(namesIn(directory), ["source", "target"]);
  },
);

testImages("--json prints events, one a line, and --quiet prints the name alone", async (directory) => {
  const source = await makeSource(directory);
  const { status, stdout, stderr } = await xenblk(["image", "convert", `qcow2:${source}`, `${directory}/b`, "--json"]);
  assertEquals([status, stderr], [0, ""]);
  const events = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  const done = events.pop();
  assertEquals([done.event, done.image, done.sizeBytes], ["done", `qcow2:${directory}/b`, 4 * 2 ** 20]);
  assert(events.length > 0);
  for (const { event, percent } of events) assert(event === "progress" && percent >= 0 && percent <= 100);
  const quiet = await xenblk(["image", "convert", `qcow2:${source}`, `${directory}/c`, "--quiet"]);
  assertEquals(quiet, { status: 0, stdout: `qcow2:${directory}/c\n`, stderr: "" });
});

testImages("INT ends a conversion with status 130 and leaves no part of the target", async (directory) => {
  const source = `${directory}/source`;
  await qemu("qemu-img", "create", "-q", "-f", "qcow2", source, "64M");
  // qemu-img begins eight requests of 2 MiB before the rate holds it up.
  await qemu("qemu-io", "-f", "qcow2", "-c", "write 0 40M", source);
  const args = ["image", "convert", `qcow2:${source}`, `${directory}/target`, "--rate=64K", "--json"];
  await using child = startXenblk(args);
  const stderr = new Response(child.stderr).text();
  const [beginning, whole] = child.stdout.tee();
  const stdout = new Response(whole).text();
  const reader = beginning.getReader();
  await reader.read(); // qemu-img has begun
  reader.cancel();
  assertEquals(namesIn(directory), ["source", "target.part"]);
  child.kill("SIGINT");
  assertEquals((await child.status).code, 130);
  const message = `Cannot convert qcow2:${source} to qcow2:${directory}/target: ended by SIGINT`;
  assertEquals(JSON.parse(await stderr), { error: { kind: "failed", exitStatus: 130, message } });
  assert(!(await stdout).includes("done"));
  assertEquals(namesIn(directory), ["source"]);
});

testImages("a target that exists stays as it was if the conversion fails", async (directory) => {
  Deno.mkdirSync(`${directory}/small`);
  await using _mounted = await smallFileSystem(`${directory}/small`, "1M");
  const source = await makeSource(directory);
  const target = `${directory}/small/target`;
  Deno.writeTextFileSync(target, "precious");
  const refused = await xenblk(["image", "convert", `qcow2:${source}`, target]);
  assertMatch(refused.stderr, /it exists; name another file, or overwrite it with --force\n$/);
  const { status, stderr } = await xenblk(["image", "convert", `qcow2:${source}`, target, "--force"]);
  assertEquals(status, 1);
  assertMatch(stderr, /No space left on device; free space on its file system, or name a file on another one\n$/);
  assertEquals(namesIn(`${directory}/small`), ["target"]);
  assertEquals(Deno.readTextFileSync(target), "precious");
}, true);

testImages("a source that another process writes to is refused with who uses it", async (directory) => {
  const source = await makeSource(directory);
  await using _user = await useElsewhere("qcow2", source);
  const { status, stderr } = await xenblk(["image", "convert", `qcow2:${source}`, `${directory}/target`]);
  assertEquals(status, 1);
  assertMatch(stderr, /^xenblk: Cannot convert qcow2:\S+ to qcow2:\S+: process \d+ \(qemu-io\) uses it; end that use/);
  assertEquals(namesIn(directory), ["source"]);
});

testImages("an image can be converted in place: it is replaced when the copy is complete", async (directory) => {
  const source = await makeSource(directory);
  const { status, stderr } = await xenblk(["image", "convert", `qcow2:${source}`, `raw:${source}`, "--force"]);
  assertEquals(status, 0, stderr);
  assertEquals(Deno.statSync(source).size, 4 * 2 ** 20);
  assertEquals(Deno.readFileSync(source).slice(2 ** 20, 2 ** 20 + 3), new Uint8Array([7, 7, 7]));
});

testImages("a snapshot is copied by its name", async (directory) => {
  const source = await makeSource(directory);
  await qemu("qemu-img", "snapshot", "-c", "s,1", source);
  await qemu("qemu-io", "-f", "qcow2", "-c", "write -P 9 1M 2M", source);
  const args = ["image", "convert", `qcow2:${source}`, `raw:${directory}/t`, "--snapshot=s,1"];
  assertEquals((await xenblk(args)).status, 0);
  assertEquals(Deno.readFileSync(`${directory}/t`)[2 ** 20], 7);
});

/** A stream that keeps what is written. */
class Recorder implements ByteSink {
  text = "";
  constructor(readonly terminal: boolean) {}
  writeSync(bytes: Uint8Array): number {
    this.text += new TextDecoder().decode(bytes);
    return bytes.length;
  }
  isTerminal(): boolean {
    return this.terminal;
  }
}

Deno.test("on a terminal the progress is a bar with rate and time left, erased at the end", () => {
  const stderr = new Recorder(true);
  const output = new Output(new Recorder(false), stderr, () => 100);
  let nowMs = 0;
  {
    using progress = new ConvertProgress({ output, quiet: false }, false, () => nowMs);
    progress.update(0);
    nowMs = 10_000;
    progress.update(25);
  }
  assertEquals(
    stderr.text,
    "\r  0% [..............................]\x1b[K" +
      "\r 25% [#######.......................], 30 s left\x1b[K\r\x1b[K",
  );
});

Deno.test("in a pipe the progress is a line for each tenth", () => {
  const stderr = new Recorder(false);
  const output = new Output(new Recorder(false), stderr, () => 100);
  let nowMs = 0;
  using progress = new ConvertProgress({ output, quiet: false }, false, () => nowMs);
  for (const percent of [0, 5, 10.5, 15, 19, 31, 35, 40, 100]) {
    nowMs += 400_000;
    progress.update(percent);
  }
  assertEquals(
    stderr.text,
    "xenblk: 10% copied, 3 h left\nxenblk: 31% copied, 90 min left\nxenblk: 40% copied, 80 min left\n",
  );
});
