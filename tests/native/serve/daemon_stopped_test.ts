/**
 * A storage daemon that is stopped (SIGSTOP) under load and goes on, while `serve` is killed or the disk is detached: the
 * next `serve` finds the same daemon, and nothing is lost, or served by a second one. format_test.ts has the rest.
 */

import { assertEquals, assertMatch } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { endsWithin } from "../../../lib/within.ts";
import { nativeTest } from "../harness.ts";
import { detach, nodeValue } from "./backend.ts";
import { FormatStage, untilNothingIsLeft } from "./format_stage.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";

/** A detach that waits has not ended by then. */
const WAITS_MS = 2_000;

/** Puts a disk under load, then stops its daemon. Returns the daemon's process. */
async function stopDaemon(stage: FormatStage): Promise<number[]> {
  await stage.disk.connect();
  await stage.disk.startLoad(UNTIL_STOPPED);
  await assertProgress(stage.disk, 200);
  const daemons = await stage.daemons();
  await stage.killDaemon("SIGSTOP");
  return daemons;
}

nativeTest("a daemon is stopped, and serve is killed: the next one waits for the same daemon", async () => {
  await using stage = await FormatStage.open("qcow2");
  const first = stage.serve();
  const daemons = await stopDaemon(stage);
  await first.stop("SIGKILL");
  const backend = stage.serve();
  const error = await nodeValue(stage.xen, `${backendPath(stage.device)}/error`);
  assertMatch(error, /^Cannot open image qcow2:.*: no answer within 10 s/);
  assertEquals(await stage.daemons(), daemons);
  await stage.killDaemon("SIGCONT");
  await backend.says(/found again[^]*connected:/);
  await assertProgress(stage.disk, 200);
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  assertEquals(await stage.daemons(), daemons);
  await stage.finish(backend);
});

nativeTest("a daemon is stopped, and its disk is detached: that waits until the daemon goes on", async () => {
  await using stage = await FormatStage.open("qcow2");
  const backend = stage.serve();
  await stopDaemon(stage);
  const detached = detach(stage.xen, stage.device);
  assertEquals(await endsWithin(detached, WAITS_MS), false, backend.messages);
  await stage.killDaemon("SIGCONT");
  await detached;
  assertClean(received(await stage.disk.stopLoad()), backend.messages);
  await untilNothingIsLeft(stage.xen);
  await stage.verify();
  assertEquals(await backend.stop(), 0, backend.messages);
});
