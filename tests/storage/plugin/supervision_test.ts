/**
 * Who starts another process for a disk in TypeScript, and when it gives up: with processes that a test plays, and a clock
 * that runs by itself.
 */

import { assertEquals, assertMatch } from "@std/assert";
import type { Clock } from "../../../lib/clock.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { SILENT } from "../../../lib/log.ts";
import type { Disk } from "../../../lib/storage/disk.ts";
import { DEFAULT_PLUGIN_SETTINGS } from "../../../lib/storage/plugin/settings.ts";
import type { PluginProcess } from "../../../lib/storage/plugin/types.ts";
import { openPluginDisk } from "../../../lib/storage/plugin_disk.ts";
import { eventually } from "../rig.ts";

/** A disk whose processes a test plays. */
class Stage {
  nowMs = 0;
  readonly sleepsMs: number[] = [];
  /** What becomes of each start. */
  start: () => Promise<void> = () => Promise.resolve();
  isUnflushed = false;
  loses: PluginProcess["loses"];
  hasFailed = false;
  isClosed = false;
  starts = 0;
  #lost = Promise.withResolvers<string>();

  readonly clock: Clock = {
    now: () => this.nowMs,
    sleep: async (ms) => {
      this.sleepsMs.push(ms);
      this.nowMs += ms;
      await new Promise((resolve) => setTimeout(resolve, 0));
    },
  };

  open(): Promise<Disk> {
    const { clock } = this;
    const services = {
      plugins: { start: () => Promise.resolve(this.#process()) },
      settings: DEFAULT_PLUGIN_SETTINGS,
      clock,
      log: SILENT,
    };
    const target = new URL(import.meta.url).pathname;
    return openPluginDisk({ format: "plugin", target, readOnly: false, engine: "auto" }, services);
  }

  /** The process that runs ends. */
  die(reason: string): void {
    const lost = this.#lost;
    this.#lost = Promise.withResolvers();
    lost.resolve(reason);
  }

  #process(): PluginProcess {
    // deno-lint-ignore no-this-alias -- its getters look at the stage
    const stage = this;
    return {
      properties: { sectors: 8, logicalSectorBytes: 512, physicalSectorBytes: 4096, readOnly: false },
      loses: this.loses,
      pid: 1,
      get lost() {
        return stage.#lost.promise;
      },
      attachment: () => Promise.reject(new Error("no channel is opened")),
      refresh: () => Promise.resolve(),
      unflushed: () => Promise.resolve(stage.isUnflushed),
      restart: async () => {
        stage.starts++;
        await stage.start();
      },
      fail: () => void (stage.hasFailed = true),
      [Symbol.asyncDispose]: () => Promise.resolve(void (stage.isClosed = true)),
    };
  }
}

const CANNOT = (): Promise<void> => Promise.reject(new XenblkError("Cannot open it: the store is away"));

Deno.test("another process is tried after 0.1 s, then ever more seldom, and after a minute the disk is given up", async () => {
  const stage = new Stage();
  await using disk = await stage.open();
  stage.start = CANNOT;
  stage.die("it crashed");
  assertMatch(await disk.failed!, /^it crashed; and no other serves it: Cannot open it: the store is away$/);
  assertEquals(stage.sleepsMs.slice(0, 8), [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
  assertEquals([stage.hasFailed, disk.trouble, stage.nowMs > 60_000 && stage.nowMs < 70_000], [true, undefined, true]);
});

Deno.test("a process that crashes soon again is started ever more seldom; one that was well is not", async () => {
  const stage = new Stage();
  await using disk = await stage.open();
  const crash = async (): Promise<void> => {
    const { starts } = stage;
    stage.die("it crashed");
    await eventually(() => stage.starts > starts && disk.trouble === undefined, "another process serves");
  };
  for (let i = 0; i < 4; i++) await crash();
  assertEquals(stage.sleepsMs, [100, 200, 400, 800]);
  stage.nowMs += 20_000;
  await crash();
  assertEquals(stage.sleepsMs.at(-1), 100);
  assertEquals(stage.hasFailed, false);
});

Deno.test("a disk that has been served in between is not given up for one start that fails", async () => {
  const stage = new Stage();
  await using disk = await stage.open();
  for (let i = 0; i < 20; i++) {
    stage.nowMs += 5000; // less than it takes to be well
    const { starts } = stage;
    stage.start = () => stage.starts === starts + 1 && i > 15 ? CANNOT() : Promise.resolve();
    stage.die("it crashed");
    await eventually(() => stage.starts > starts && (disk.trouble === undefined || stage.hasFailed), "it is served");
    assertEquals([stage.hasFailed, i], [false, i]);
  }
});

Deno.test("with answered writes that were not flushed no other process is started", async () => {
  const stage = new Stage();
  await using disk = await stage.open();
  stage.isUnflushed = true;
  stage.die("it crashed");
  assertEquals(await disk.failed!, "it crashed, with writes that it had not flushed");
  assertEquals([stage.starts, stage.hasFailed], [0, true]);
});

Deno.test("a disk that was given up starts no other process, and has no trouble that could end", async () => {
  for (const isWaiting of [false, true]) {
    const stage = new Stage();
    stage.loses = "all";
    await using disk = await stage.open();
    stage.start = CANNOT;
    if (isWaiting) {
      stage.die("it crashed");
      await eventually(() => stage.starts > 0, "another process is tried");
    }
    disk.volatile!.giveUp("an earlier process has lost writes");
    assertEquals(await disk.failed!, "an earlier process has lost writes");
    const { starts } = stage;
    if (!isWaiting) stage.die("it crashed");
    await disk[Symbol.asyncDispose]();
    assertEquals([stage.starts, disk.trouble, stage.hasFailed], [starts, undefined, true]);
  }
});

Deno.test("closing a disk that waits for another process ends the wait", async () => {
  const stage = new Stage();
  const disk = await stage.open();
  stage.start = CANNOT;
  stage.die("it crashed");
  await eventually(() => stage.starts > 0, "another process is tried");
  assertMatch(disk.trouble!, /^Cannot carry out requests on image plugin:.*: it crashed; its requests wait/);
  await disk[Symbol.asyncDispose]();
  assertEquals([stage.hasFailed, stage.isClosed], [true, true]);
});
