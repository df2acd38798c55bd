/**
 * Processes of ours that are killed while storage daemons serve their disks: the daemons go on, and are never doubled.
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { DaemonRig, daemonTest, runs, statusOf } from "./rig.ts";

/** A process of ours, started by a command that may confine it. */
class Child implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #output: ReadableStreamDefaultReader<string>;

  constructor(rig: DaemonRig, image: string, vdev = 51712, by: readonly string[] = [], permissions = ["-A"]) {
    const script = new URL("child.ts", import.meta.url).pathname;
    const args = [...by, Deno.execPath(), "run", ...permissions, "--no-check", script, rig.folder, image, `${vdev}`];
    this.#process = new Deno.Command(args[0]!, { args: args.slice(1), stdout: "piped" }).spawn();
    this.#output = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** What it said once it had its disk, or had failed. */
  async said(): Promise<{ readonly description?: string; readonly error?: string; readonly log: string[] }> {
    let text = "";
    while (!text.includes("\n")) text += (await this.#output.read()).value!;
    return JSON.parse(text);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#process.kill("SIGKILL");
    } catch {
      // it has ended
    }
    await this.#output.cancel();
    await this.#process.status;
  }
}

daemonTest("a daemon outlives the kill of the process that started it, and serves the next one", async () => {
  await using rig = new DaemonRig();
  const image = await rig.image("one.qcow2");
  const pids: number[] = [];
  for (let round = 0; round < 3; round++) {
    await using child = new Child(rig, image);
    assertMatch((await child.said()).description!, /^qcow2:/);
    pids.push(rig.record().process.pid);
  }
  assertEquals(new Set(pids).size, 1, "each found the first one's daemon");
  assertEquals(runs(pids[0]!), true);
});

daemonTest("of several processes that start at once, one gets the disk, in one daemon", async () => {
  await using rig = new DaemonRig();
  const image = await rig.image("one.qcow2");
  await using first = new Child(rig, image);
  await using second = new Child(rig, image);
  await using third = new Child(rig, image);
  const said = await Promise.all([first, second, third].map((child) => child.said()));
  assertEquals(said.filter(({ description }) => description !== undefined).length, 1);
  for (const { error } of said) if (error !== undefined) assertMatch(error, /another process of xenblk has it|lock/);
});

daemonTest("without the right to mount, a daemon is confined as far as it goes, and that is said", async () => {
  await using rig = new DaemonRig();
  const image = await rig.image("one.qcow2");
  await using child = new Child(rig, image, 51712, ["setpriv", "--bounding-set=-all,+dac_override,+setpcap"]);
  const { log } = await child.said();
  assertStringIncludes(log[0]!, "warning a storage daemon has no root directory of its own, so it can open every file");
  assertStringIncludes(log[0]!, "unshare: unshare failed: Operation not permitted");
  const { process: { pid }, rooted } = rig.record();
  assertEquals(rooted, false);
  assertEquals([statusOf(pid, "CapEff"), statusOf(pid, "NoNewPrivs")], ["0000000000000002", "1"]);
});

daemonTest("with fewer permissions than it needs, no daemon is started, and the remedy says which", async () => {
  await using rig = new DaemonRig();
  const image = await rig.image("one.qcow2");
  const permissions = ["read", "write", "env", "ffi", "run", "sys", "net"].map((name) => `--allow-${name}`);
  await using child = new Child(rig, image, 51712, [], permissions);
  const { error } = await child.said();
  assertMatch(error!, /^Cannot open image .*: Deno was started without the permissions for storage daemons/);
  Deno.mkdirSync(rig.directory, { recursive: true }); // the rig looks there for daemons to end
});
