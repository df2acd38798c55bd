/**
 * What serves the disks of storage daemons is loaded with the first such disk, or where an earlier process has left one.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { JournalFiles } from "../../ffi/linux/journal_files.ts";
import type { DiskRequest } from "../../lib/storage/disk.ts";
import { LazyDaemonDisks, type LoadedDaemonDisks } from "../../lib/storage/lazy_daemon_disks.ts";
import { writeLogName } from "../../lib/storage/write_log/name.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

const REQUEST: DiskRequest = { format: "qcow2", target: "/a.qcow2", readOnly: true, engine: "qemu" };
const OPENED = new Error("it was opened");

/** The disks of a process, and what it asked of the loaded module. */
class Stage implements AsyncDisposable {
  readonly platform = openSimulatedPlatform(createMachine(), 0);
  readonly directory = Deno.makeTempDirSync();
  readonly calls: string[] = [];
  /** The module is there once it is resolved. */
  readonly loading = Promise.withResolvers<void>();
  readonly disks: LazyDaemonDisks;

  /** `keptInFiles`: its journals and locks are files of its directory. */
  constructor(keptInFiles = false) {
    const options = {
      directory: this.directory,
      journals: keptInFiles ? new JournalFiles(this.directory) : this.platform.journals,
      vhost: { connect: () => Promise.reject(new Error("there is no daemon")) },
      platform: this.platform.descriptor,
      writeLog: true,
      warn: () => {},
    };
    this.disks = new LazyDaemonDisks(options, () => this.#load());
  }

  async #load(): Promise<LoadedDaemonDisks> {
    this.calls.push("load");
    await this.loading.promise;
    const call = (name: string): void => void this.calls.push(name);
    return {
      open: () => (call("open"), Promise.reject(OPENED)),
      prepare: () => (call("prepare"), Promise.reject(OPENED)),
      endLeftovers: () => (call("endLeftovers"), Promise.resolve(["a line"])),
      discard: () => (call("discard"), Promise.resolve()),
      [Symbol.asyncDispose]: () => (call("dispose"), Promise.resolve()),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.loading.resolve();
    await this.disks[Symbol.asyncDispose]();
    Deno.removeSync(this.directory, { recursive: true });
  }
}

Deno.test("without a daemon nothing is loaded, with no directory and with an empty one", async () => {
  await using stage = new Stage();
  assertEquals(await stage.disks.endLeftovers(() => true), []);
  Deno.mkdirSync(`${stage.directory}/daemons`);
  stage.platform.journals.open("vbd3-1-51712-0", 4096);
  assertEquals(await stage.disks.endLeftovers(() => true), []);
  assertEquals(stage.calls, []);
});

Deno.test("the lock of a daemon that never had a directory is removed, unless somebody has it", async () => {
  await using stage = new Stage(true);
  const { directory } = stage;
  const journals = new JournalFiles(directory);
  using _held = journals.lock("daemon.8.lock");
  for (const name of ["daemon.7.lock", "daemon.9.lock", "other.7.lock"]) {
    Deno.writeTextFileSync(`${directory}/${name}`, "");
  }
  Deno.mkdirSync(`${directory}/daemons/9`, { recursive: true });
  stage.loading.resolve();
  await stage.disks.endLeftovers(() => true);
  assertEquals(journals.names().toSorted(), ["daemon.8.lock", "daemon.9.lock", "other.7.lock"]);
});

Deno.test("the first disk loads it, once, and it is disposed", async () => {
  await using stage = new Stage();
  stage.loading.resolve();
  for (let time = 0; time < 2; time++) await assertRejects(() => stage.disks.open(REQUEST), Error, OPENED.message);
  assertEquals(await stage.disks.endLeftovers(() => true), ["a line"]);
  await stage.disks[Symbol.asyncDispose]();
  assertEquals(stage.calls, ["load", "open", "open", "endLeftovers", "dispose"]);
  await assertRejects(() => stage.disks.open(REQUEST), Error, "this process ends");
});

Deno.test("what an earlier process left is looked at before a disk is opened", async () => {
  const leave: Record<string, (stage: Stage) => void> = {
    "a daemon": ({ directory }) => Deno.mkdirSync(`${directory}/daemons/5`, { recursive: true }),
    "a write log": ({ platform }) => void platform.journals.open(writeLogName("vbd3/1/51712"), 4096),
    "what is no folder": ({ directory }) => Deno.writeTextFileSync(`${directory}/daemons`, ""),
  };
  for (const [what, act] of Object.entries(leave)) {
    await using stage = new Stage();
    act(stage);
    const ending = stage.disks.endLeftovers(() => true);
    const opening = assertRejects(() => stage.disks.open(REQUEST), Error, OPENED.message);
    stage.loading.resolve();
    await opening;
    assertEquals(await ending, ["a line"], what);
    assertEquals(stage.calls, ["load", "endLeftovers", "open"], what);
  }
});

Deno.test("a module that cannot be loaded refuses the disk, and is tried again", async () => {
  await using stage = new Stage();
  stage.loading.reject(new Error("no such file"));
  await assertRejects(() => stage.disks.open(REQUEST), Error, "no such file");
  await assertRejects(() => stage.disks.open(REQUEST), Error, "no such file");
  assertEquals(stage.calls, ["load", "load"]);
});

Deno.test("what a daemon still has of a device is ended before a disk is opened", async () => {
  await using stage = new Stage();
  const owner = { guest: 5, device: "vbd3/5/51712" };
  const open = (): Promise<unknown> =>
    stage.disks.open({ format: "qcow2", target: "/a", readOnly: false, engine: "auto" }).catch(() => {});
  stage.loading.resolve();
  stage.disks.discard(owner);
  await open();
  Deno.mkdirSync(`${stage.directory}/daemons/55`, { recursive: true });
  stage.disks.discard(owner);
  await open();
  Deno.mkdirSync(`${stage.directory}/daemons/5.vbd3-5-51712`);
  stage.disks.discard(owner);
  await open();
  assertEquals(stage.calls, ["load", "open", "open", "discard", "open"]);
});
