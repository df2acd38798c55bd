/**
 * `xenblk export` against a real `serve`, a real daemon and a guest under load: what readers get, and what becomes of the
 * export, its readers and the guest when the verb, `serve`, the daemon or all of them end.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { missingProgram, nativeTest } from "../harness.ts";
import { command, runs, until } from "../qemu/rig.ts";
import { detach } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";

const CLI = new URL("../../../cli.ts", import.meta.url).pathname;
const MISSING = missingProgram("nbdcopy", "libnbd-bin");

/** A verb that runs. */
class Verb implements AsyncDisposable {
  stdout = "";
  stderr = "";
  readonly #child: Deno.ChildProcess;
  readonly #read: Promise<unknown>;

  constructor(stage: FormatStage, ...args: string[]) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", CLI, ...args],
      env: { NO_COLOR: "1", ...stage.xen.env() },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const collect = async (stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> => {
      for await (const text of stream.pipeThrough(new TextDecoderStream())) take(text);
    };
    this.#read = Promise.all([
      collect(this.#child.stdout, (text) => this.stdout += text),
      collect(this.#child.stderr, (text) => this.stderr += text),
    ]);
  }

  /** The URI that it prints. */
  async uri(): Promise<string> {
    return await until("it prints a URI", () => /^nbd.*$/m.exec(this.stdout)?.[0]).catch((error) => {
      throw new Error(`${error.message}: ${this.stderr}`);
    });
  }

  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }

  async status(): Promise<number> {
    const { code } = await this.#child.status;
    await this.#read;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.status();
  }
}

/** A verb to its end. */
async function outcome(stage: FormatStage, ...args: string[]): Promise<readonly [number, string, string]> {
  await using verb = new Verb(stage, ...args);
  return [await verb.status(), verb.stdout, verb.stderr];
}

async function sizeAt(uri: string): Promise<number> {
  return Number(await command("nbdinfo", "--size", uri));
}

/** Nobody answers at the URI, and its socket is gone. */
async function isGone(uri: string): Promise<void> {
  await until(`${uri} is gone`, async () => await sizeAt(uri).then(() => undefined, () => true));
  const path = decodeURI(uri.slice(uri.indexOf("=") + 1));
  await until(`${path} is removed`, async () => await Deno.lstat(path).then(() => undefined, () => true));
}

async function copies(stage: FormatStage, uri: string, name: string): Promise<Uint8Array> {
  const path = `${stage.folder}/${name}`;
  await command("nbdcopy", uri, path);
  return Deno.readFileSync(path);
}

function assertEqualBytes(one: Uint8Array, other: Uint8Array): void {
  assertEquals(one.length, other.length);
  const at = one.findIndex((byte, index) => byte !== other[index]);
  assertEquals(at, -1, `byte ${at} differs`);
}

nativeTest("a disk is exported under load, in the foreground, in the background and by TCP", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 100);
  const socket = `${stage.folder}/my socket`;
  {
    await using verb = new Verb(stage, "export", "7", "xvda", "--socket", socket, "--scratch-dir", stage.folder);
    const uri = await verb.uri();
    assertEquals(uri, `nbd+unix:///xvda?socket=${encodeURI(socket)}`);
    assertEquals(Deno.lstatSync(socket).mode! & 0o777, 0o600);
    assertMatch(verb.stderr, /^xenblk: xvda of guest-7 \(domain 7\) as it was at \d{4}-\S+Z \(64\.0 MiB\), read-only;/);
    const first = await copies(stage, uri, "first");
    await assertProgress(stage.disk, 100);
    assertEqualBytes(await copies(stage, uri, "second"), first);
    const twice = await outcome(stage, "export", "7", "xvda");
    assertEquals(twice.slice(0, 2), [1, ""]);
    assertMatch(twice[2], /Cannot export xvda of domain 7: it is exported already; end that first: `xenblk export/);
    const swap = await outcome(stage, "swap", "7", "xvda", `raw:${stage.folder}/first`);
    assertEquals(swap.slice(0, 2), [1, ""]);
    assertMatch(swap[2], /Cannot swap the image of .*: its storage daemon is asked to export .*`xenblk export/);
    verb.kill("SIGINT");
    assertEquals([await verb.status(), verb.stderr.includes("Cannot")], [0, false], verb.stderr);
    await isGone(uri);
  }
  const listen = ["--listen", "127.0.0.1:0", "--background", "--scratch-dir", stage.folder, "--json"];
  const [status, stdout] = await outcome(stage, "export", "7", "xvda", ...listen);
  assertEquals(status, 0);
  const { event, uri, sizeBytes } = JSON.parse(stdout);
  assertEquals([event, sizeBytes, await sizeAt(uri)], ["exported", 64 << 20, 64 << 20]);
  await assertProgress(stage.disk, 100);
  const [ended, , said] = await outcome(stage, "export", "7", "xvda", "--end");
  assertEquals([ended, said], [0, "xenblk: the export of xvda of guest-7 (domain 7) has ended\n"]);
  await isGone(uri);
  const [none, , why] = await outcome(stage, "export", "7", "xvda", "--end");
  assertEquals(none, 3);
  assertMatch(why, /Cannot find an export of xvda of .*: there is none/);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend);
}, MISSING);

nativeTest("kill -9 of the daemon, of serve, of both, of the verb: the export ends, the guest goes on", async () => {
  await using stage = await FormatStage.open("qcow2");
  let backend = stage.serve();
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  const begin = async (): Promise<{ readonly verb: Verb; readonly uri: string }> => {
    await assertProgress(stage.disk, 100);
    const verb = new Verb(stage, "export", "7", "xvda", "--scratch-dir", stage.folder);
    return { verb, uri: await verb.uri() };
  };
  const ends = async (verb: Verb, uri: string, why: RegExp): Promise<void> => {
    assertEquals(await verb.status(), 1, verb.stderr);
    assertMatch(verb.stderr, why);
    await assertRejects(() => sizeAt(uri));
  };
  {
    const { verb, uri } = await begin();
    await using _verb = verb;
    await stage.killDaemon();
    await ends(
      verb,
      uri,
      /Cannot go on exporting xvda of guest-7 \(domain 7\): its storage daemon died; what was read/,
    );
    await isGone(uri);
  }
  for (const withDaemon of [false, true]) {
    const { verb, uri } = await begin();
    await using _verb = verb;
    const [daemon] = await stage.daemons();
    if (withDaemon) await stage.killDaemon();
    await backend.stop("SIGKILL");
    await ends(verb, uri, /the process that serves the disk is gone/);
    backend = stage.serve();
    await assertProgress(stage.disk, 100);
    if (!withDaemon) assertEquals([runs(daemon!), await exportNodes(daemon!)], [true, ""]);
    await isGone(uri);
  }
  {
    const { verb, uri } = await begin();
    await using _verb = verb;
    verb.kill("SIGKILL");
    await isGone(uri);
    const [daemon] = await stage.daemons();
    await until("nothing of it is in the daemon", async () => await exportNodes(daemon!) === "" || undefined);
  }
  {
    const { verb, uri } = await begin();
    await using _verb = verb;
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await stage.finish(backend);
    await ends(verb, uri, /its disk is not served any more|its storage daemon|is gone/);
  }
  assertEquals([...Deno.readDirSync(stage.folder)].filter(({ name }) => name.includes("xenblk-export")), []);
}, MISSING);

/** The scratch file that the daemon has, by its mounts. */
async function exportNodes(pid: number): Promise<string> {
  const mounts = await Deno.readTextFile(`/proc/${pid}/mountinfo`);
  return mounts.split("\n").filter((line) => line.includes("xenblk-export")).join("\n");
}

nativeTest(
  "a raw disk enters a daemon for its export, which a full scratch file ends alone, and leaves it",
  async () => {
    await using stage = await FormatStage.open("raw");
    const backend = stage.serve();
    await stage.disk.connect();
    await stage.disk.startLoad(UNTIL_STOPPED);
    await using verb = new Verb(stage, "export", "7", "xvda", "--scratch-dir", stage.folder, "--scratch-size", "1M");
    const uri = await verb.uri();
    assertEquals(await verb.status(), 1, verb.stderr);
    assertMatch(verb.stderr, /its scratch file is full \(its limit is 1\.0 MiB\), or failed; .*more --scratch-size/);
    await isGone(uri);
    for (const did of ["entered", "left"]) {
      assertMatch(verb.stderr, new RegExp(`xvda has ${did} its storage daemon; its requests waited for \\d+ ms`));
    }
    await backend.says(/it has left its storage daemon: requests waited for/);
    await assertProgress(stage.disk, 100);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    assertEquals(await stage.daemons(), []);
    await detach(stage.xen, stage.device);
    assertEquals(await backend.stop(), 0, backend.messages);
  },
  MISSING,
);
