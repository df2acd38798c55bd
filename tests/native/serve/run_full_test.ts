/**
 * A run directory without room, before a disk is attached, while a daemon has to be replaced, and while `serve` starts
 * again: the error names the directory and the remedy, nothing that was answered is lost, and the disk is served as soon
 * as there is room.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { missingFuse } from "../hanging_fs.ts";
import { nativeTest } from "../harness.ts";
import { type BackendProcess, nodeValue } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";
import { SmallFileSystem } from "./small_fs.ts";

/** Room for a device's journals, its write log with one ring, and a daemon's files. */
const ROOM = "8m";
const NO_ROOM = /Cannot keep .*\/journals\/.*: No space left on device.*free space/;

function smallRun({ xen }: FormatStage): Promise<SmallFileSystem> {
  return SmallFileSystem.mount(`${xen.directory}/journals`, ROOM);
}

/** The disk under load. */
async function beginLoad({ disk }: FormatStage): Promise<void> {
  await disk.connect();
  await disk.startLoad(UNTIL_STOPPED);
  await assertProgress(disk, 200);
}

/** The load goes on, and the disk can be detached, with or without room. */
async function goesOnCleanly(stage: FormatStage, backend: BackendProcess, run: SmallFileSystem): Promise<void> {
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await stage.finish(backend, () => Promise.resolve(run.makeRoom()));
}

nativeTest("a run directory without room: the disk waits with an error, and is served once there is room", async () => {
  await using stage = await FormatStage.open("qcow2");
  await using run = await smallRun(stage);
  run.fill();
  const backend = stage.serve();
  assertMatch(await nodeValue(stage.xen, `${backendPath(stage.device)}/error`), NO_ROOM);
  run.makeRoom();
  await beginLoad(stage);
  await goesOnCleanly(stage, backend, run);
}, missingFuse());

nativeTest("a daemon that has no room for its own files says what it lacks", async () => {
  await using stage = await FormatStage.open("qcow2");
  await using run = await smallRun(stage);
  run.fill(1);
  const backend = stage.serve();
  assertMatch(await nodeValue(stage.xen, `${backendPath(stage.device)}/error`), NO_ROOM);
  assertEquals(await backend.stop(), 0, backend.messages);
}, missingFuse());

nativeTest("a daemon dies and the run directory has no room for another: its disk waits for room", async () => {
  await using stage = await FormatStage.open("qcow2");
  await using run = await smallRun(stage);
  const backend = stage.serve();
  await beginLoad(stage);
  run.fill();
  await stage.killDaemon();
  await backend.says(/Cannot keep .*No space left on device.*; trying again/);
  assertMatch(backend.messages, NO_ROOM);
  run.makeRoom();
  await backend.says(/served again after/);
  await goesOnCleanly(stage, backend, run);
}, missingFuse());

for (const both of [false, true]) {
  const who = both ? "serve and its daemon are" : "serve is";
  nativeTest(`${who} killed, and the next one finds the run directory full: nothing is lost`, async () => {
    await using stage = await FormatStage.open("qcow2");
    await using run = await smallRun(stage);
    const first = stage.serve();
    await beginLoad(stage);
    run.fill();
    await Promise.all([first.stop("SIGKILL"), ...(both ? [stage.killDaemon()] : [])]);
    const backend = stage.serve();
    if (both) {
      await backend.says(NO_ROOM);
      run.makeRoom();
      await backend.says(/operations of its log were written again/);
    }
    await backend.says(/connected:/);
    await goesOnCleanly(stage, backend, run);
  }, missingFuse());
}
