/**
 * A storage daemon that is stopped (SIGSTOP) under load and goes on: its disk says so and waits, `serve` ends in bounded
 * time all the same, the next one finds the same daemon, and nothing is lost, or served by a second daemon.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { endsWithin } from "../../../lib/within.ts";
import { nativeTest } from "../harness.ts";
import { detach, nodeValue } from "./backend.ts";
import { FormatStage, untilNothingIsLeft } from "./format_stage.ts";
import { assertClean, assertProgress, received, UNTIL_STOPPED } from "./scenes.ts";

/** How long `serve` may take to end, on a busy machine. */
const END_MS = 30_000;
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

nativeTest(
  "a daemon is stopped under load for longer than the limit: its disk says so, and goes on with it",
  async () => {
    await using stage = await FormatStage.open("qcow2");
    const backend = stage.serve();
    const daemons = await stopDaemon(stage);
    const error = await nodeValue(stage.xen, `${backendPath(stage.device)}/error`);
    assertMatch(error, /^Cannot complete [0-9]+ requests? of the guest on .*qcow2.*: no answer within 10 s/);
    await stage.killDaemon("SIGCONT");
    await assertProgress(stage.disk, 500);
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    assertEquals(await stage.daemons(), daemons);
    await stage.finish(backend);
  },
);

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  nativeTest(`a daemon is stopped, and serve ends by ${signal}: the next one waits for the same daemon`, async () => {
    await using stage = await FormatStage.open("qcow2");
    const first = stage.serve();
    const daemons = await stopDaemon(stage);
    const beganMs = performance.now();
    await first.stop(signal);
    const tookMs = performance.now() - beganMs;
    assert(tookMs < END_MS, `it took ${tookMs} ms: ${first.messages}`);
    if (signal === "SIGTERM") assertMatch(first.messages, /Cannot release vbd3.* requests in flight/);
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
}

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
