/**
 * The process of a disk in TypeScript: what it may reach, how it ends, what it says, and that nothing of it stays.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { eventually, Folder } from "../../storage/rig.ts";
import { PluginRig } from "./rig.ts";

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

/** What a plugin can reach, as it found out itself. */
async function reachOf(target: string, permissions: readonly string[]): Promise<string[]> {
  await using rig = await PluginRig.start({ disk: "curious_disk.ts", target, settings: { permissions } });
  using channel = await rig.channel();
  channel.read(0, 0, [4096]);
  assertEquals([...await channel.finished()], [[0, 0]]);
  return new TextDecoder().decode(channel.buffer(0).subarray(0, 4096)).trim().split("\n");
}

Deno.test("a plugin can read its own folder, and nothing else of this machine, and keeps nothing in Deno's", async () => {
  using folder = new Folder();
  assertEquals(await reachOf(folder.file("a", 10), []), [
    "own folder: ok",
    "passwd: NotCapable",
    "path: NotCapable",
    "write: NotCapable",
    "net: NotCapable",
    "run: NotCapable",
    "ffi: NotCapable",
    "pointer: NotCapable",
    "env: NotCapable",
    "allowed env: XENBLK_TOLD: NotCapable",
    "cwd: true",
    "store: Error",
    "cache: Error",
  ]);
});

Deno.test("a plugin can reach what the operator allows, and no more", async () => {
  using folder = new Folder();
  const path = folder.file("a", 10);
  const found = await reachOf(path, [`read=${path}`, "env=XENBLK_TOLD", "net=127.0.0.1:1"]);
  assertEquals(found[1], "passwd: NotCapable");
  assertEquals(found[2], "path: ok");
  assertEquals(found[3], "write: NotCapable");
  assertEquals(found.slice(5), [
    "run: NotCapable",
    "ffi: NotCapable",
    "pointer: NotCapable",
    "env: NotCapable",
    "allowed env: XENBLK_TOLD: ok",
    "cwd: true",
    "store: Error",
    "cache: Error",
  ]);
});

Deno.test("a plugin's process ends with its disk", async () => {
  const rig = await PluginRig.start({ disk: "memory_disk.ts" });
  const { pid } = rig.disk;
  assert(isRunning(pid));
  await rig[Symbol.asyncDispose]();
  assert(!isRunning(pid));
});

Deno.test("a plugin's process ends when the one that serves its disk is killed", async () => {
  const server = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", new URL("./serving_process.ts", import.meta.url).pathname],
    stdout: "piped",
  }).spawn();
  const reader = server.stdout.getReader();
  const pid = Number(new TextDecoder().decode((await reader.read()).value));
  assert(pid > 0 && isRunning(pid));
  server.kill("SIGKILL");
  await server.status;
  await reader.cancel();
  await eventually(() => !isRunning(pid), "the plugin's process has ended");
});

Deno.test("a module that has changed is said to have, when the next process runs it", async () => {
  using folder = new Folder();
  const source = (sizeBytes: number): Uint8Array =>
    new TextEncoder().encode(`
      import { defineDisk } from "${new URL("../../../lib/storage/plugin/disk_methods.ts", import.meta.url).href}";
      export default defineDisk({ open: () => ({ sizeBytes: ${sizeBytes}, read: (_, into) => void into.fill(7) }) });`);
  const disk = folder.file("disk.ts", source(4096));
  await using rig = await PluginRig.open({ disk });
  const pid = (): number => Number(/process (\d+)/.exec(rig.disk.description)![1]);
  folder.file("disk.ts", source(8192));
  const first = pid();
  Deno.kill(first, "SIGKILL");
  await eventually(() => pid() !== first && rig.disk.trouble === undefined, "another process serves");
  assert(rig.lines.all.some((line) => /its module has changed since the disk was attached/.test(line)));
  // A larger disk is one that the guest can be told of later.
  assertEquals(rig.disk.properties.sectors, 16);
  using channel = await rig.channel();
  channel.read(0, 4096, [4096]);
  assertEquals([...await channel.finished()], [[0, 0]]);
});

Deno.test("a disk that opens as another one is not served in its place", async () => {
  using folder = new Folder();
  const source = (method: string): Uint8Array =>
    new TextEncoder().encode(`
      import { defineDisk } from "${new URL("../../../lib/storage/plugin/disk_methods.ts", import.meta.url).href}";
      export default defineDisk({ open: () => ({ sizeBytes: 4096, read() {}, ${method} }) });`);
  await using rig = await PluginRig.start({ disk: folder.file("disk.ts", source("write() {}")) });
  folder.file("disk.ts", source(""));
  Deno.kill(rig.disk.pid, "SIGKILL");
  assertMatch(await rig.disk.lost, /it was ended with SIGKILL/);
  await assertRejects(() => rig.disk.restart(), XenblkError, "it opens with other properties or methods than before");
  folder.file("disk.ts", source("write() {}"));
  await rig.disk.restart();
});

Deno.test("a process that does not open its disk in time is ended, and so is one that fails", async () => {
  using folder = new Folder();
  const rejection = (source: string): Promise<XenblkError> => {
    const disk = folder.file("disk.ts", new TextEncoder().encode(source));
    return assertRejects(() => PluginRig.start({ disk, startMs: 800 }), XenblkError);
  };
  assertMatch(
    (await rejection("await new Promise(() => setInterval(() => {}, 1000));")).message,
    /did not answer within 0.8 s/,
  );
  assertMatch((await rejection("Deno.exit(3);")).message, /Cannot open image plugin:test: it ended with status 3/);
  assertMatch((await rejection("nonsense(")).message, /its module cannot be imported: .*disk.ts/);
  assertMatch((await rejection("export default 1;")).message, /its module exports no disk/);
});

Deno.test("a disk is flushed when it is closed; if that fails, closing says that answered writes may be lost", async () => {
  using folder = new Folder();
  for (const flush of ["Deno.writeTextFile(path, '1')", "Promise.reject(new Error('no'))"]) {
    const source = `
      import { defineDisk } from "${new URL("../../../lib/storage/plugin/disk_methods.ts", import.meta.url).href}";
      const open = (path) => ({ sizeBytes: 4096, read() {}, write() {}, flush: () => ${flush} });
      export default defineDisk({ open });`;
    const disk = folder.file("disk.ts", new TextEncoder().encode(source));
    const path = `${folder.path}/flushed`;
    const rig = await PluginRig.open({ disk, target: path, settings: { permissions: [`write=${path}`] } });
    {
      using channel = await rig.channel();
      channel.write(0, 0, [4096]);
      assertEquals([...await channel.finished()], [[0, 0]]);
    }
    const closing = rig[Symbol.asyncDispose]();
    if (flush.startsWith("Deno")) {
      await closing;
      assertEquals(Deno.readTextFileSync(path), "1");
    } else await assertRejects(() => closing, XenblkError, "in order: writes that it had answered may be lost");
  }
});

Deno.test("what a plugin prints is logged, limited in number, and the log says how much is missing", async () => {
  using folder = new Folder();
  const source = `
    import { defineDisk } from "${new URL("../../../lib/storage/plugin/disk_methods.ts", import.meta.url).href}";
    for (let i = 0; i < 5000; i++) console.log("line", i);
    export default defineDisk({ open: () => ({ sizeBytes: 4096, read() {} }) });`;
  const rig = await PluginRig.start({ disk: folder.file("disk.ts", new TextEncoder().encode(source)) });
  await rig[Symbol.asyncDispose]();
  const { all } = rig.lines;
  assertEquals([all[0], all[59]], ["image plugin:test: line 0", "image plugin:test: line 59"]);
  const suppressed = all.slice(60).map((line) => Number(/: suppressed (\d+) lines of the plugin$/.exec(line)?.[1]));
  assertEquals(suppressed.reduce((sum, count) => sum + count, 0), 4940);
});

Deno.test("a signal that ends the server by its terminal or service manager does not end the plugin's process first", async () => {
  await using rig = await PluginRig.start({ disk: "memory_disk.ts" });
  using channel = await rig.channel();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) Deno.kill(rig.disk.pid, signal);
  for (let i = 0; i < 3; i++) {
    channel.write(0, 0, [4096]);
    assertEquals([...await channel.finished()], [[0, 0]]);
  }
  assert(isRunning(rig.disk.pid));
});
