/**
 * Limits of a disk behind a real `serve`: they hold for a guest's verified load over two rings, and they are found again
 * with the weight when the storage daemon, `serve` or both were killed.
 */

import { assert, assertEquals } from "@std/assert";
import { ControlClient } from "../../../lib/control/client.ts";
import { LIVE_NODE } from "../../../lib/backend/live_settings.ts";
import { backendPath } from "../../../lib/xenbus/paths.ts";
import { nativeTest } from "../harness.ts";
import { type BackendProcess, nodeValue } from "./backend.ts";
import { FormatStage } from "./format_stage.ts";
import { assertClean, assertProgress, GUEST, received, UNTIL_STOPPED } from "./scenes.ts";

const DEVICE = `vbd3/${GUEST}`;
const RINGS = { queues: 2, requests: 32 };
/** Requests in flight are answered, whatever is set meanwhile. */
const IN_FLIGHT = 64;
const IOPS = 400;
const LIMITS = {
  iops: IOPS,
  iopsBurst: 0,
  bytesPerSecond: 0,
  bytesBurst: 0,
  readIops: 0,
  writeIops: 0,
  readBytesPerSecond: 0,
  writeBytesPerSecond: 0,
};

/** A connection to a `serve` that has the disk. */
async function clientOf({ xen }: FormatStage, { pid }: BackendProcess): Promise<ControlClient> {
  return (await ControlClient.connect(`${xen.directory}/journals/control/${pid}.sock`))!;
}

/** The guest gets no more than the limit allows. A slow machine makes it less, so only the most is certain. */
async function assertLimited({ disk }: FormatStage): Promise<void> {
  const { answered } = await disk.pauses();
  const sinceMs = performance.now();
  await assertProgress(disk, IOPS);
  const requests = (await disk.pauses()).answered - answered - IN_FLIGHT;
  const elapsedMs = performance.now() - sinceMs;
  // Flushes, one of a hundred requests, are not limited; what the bucket can have saved up is a tenth of a second's.
  const most = IOPS * (elapsedMs / 1000 + 0.1) * 1.05;
  assert(requests <= most, `${requests} requests in ${elapsedMs} ms`);
}

/** What the process says of the disk. */
async function assertKept(stage: FormatStage, backend: BackendProcess): Promise<void> {
  using client = await clientOf(stage, backend);
  const { devices } = await client.call("status", {});
  assertEquals(devices.map(({ limits, weight }) => [limits, weight]), [[LIMITS, 300]]);
  await assertLimited(stage);
}

for (const format of ["raw", "qcow2"]) {
  const killed = format === "raw" ? "serve is" : "its daemon, serve and both are";
  nativeTest(`the limits of a ${format} disk that is under load hold, also after ${killed} killed`, async () => {
    await using stage = await FormatStage.open(format, [], RINGS);
    const args = ["--queues=2", "--workers=2", "--iops=1000000"];
    let backend = stage.serve(...args);
    await stage.disk.connect();
    await stage.disk.startLoad({ ...UNTIL_STOPPED, barrierEvery: 0 });
    await assertProgress(stage.disk, 500);
    {
      using client = await clientOf(stage, backend);
      const device = `${DEVICE}/${stage.device.vdev}`;
      assertEquals(await client.call("limit", { device, limits: { iops: IOPS } }), { limits: LIMITS });
      assertEquals(await client.call("weight", { device, weight: 300 }), { weight: 300 });
    }
    assertEquals(
      await nodeValue(stage.xen, `${backendPath(stage.device)}/${LIVE_NODE}`),
      JSON.stringify({ weight: 300, limits: LIMITS }),
    );
    await assertKept(stage, backend);
    for (const kills of format === "raw" ? ["serve"] : ["daemon", "serve", "serve and daemon"]) {
      if (kills.includes("serve")) await backend.stop("SIGKILL");
      if (kills.includes("daemon")) await stage.killDaemon();
      if (kills === "daemon") await backend.says(/served again after/);
      else backend = stage.serve(...args);
      await assertProgress(stage.disk, 50);
      await assertKept(stage, backend);
    }
    {
      using client = await clientOf(stage, backend);
      await client.call("limit", { device: `${DEVICE}/${stage.device.vdev}`, limits: { iops: 0 } });
    }
    assertClean(received(await stage.disk.stopLoad()), backend.messages);
    await stage.finish(backend);
  });
}
