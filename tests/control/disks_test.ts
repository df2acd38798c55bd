/**
 * Disks through the control socket: attached to a running service with their own settings, followed by events, resized,
 * limited and detached; what fails leaves nothing behind.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { Events, Rig } from "./rig.ts";

const DEVICE = /^vbd3\/1\/[0-9]+$/;

/** A machine under load takes its time. */
const PATIENT = { timeoutMs: 50_000 };

const NO_LIMITS = {
  iops: 0,
  iopsBurst: 0,
  bytesPerSecond: 0,
  bytesBurst: 0,
  readIops: 0,
  writeIops: 0,
  readBytesPerSecond: 0,
  writeBytesPerSecond: 0,
};

Deno.test("a disk is attached to a running service, grows, is limited and detached, and events tell of it", async () => {
  await using rig = await Rig.start();
  const before = rig.host.holdings();
  using client = await rig.client();
  using follower = await rig.client();
  const events = new Events();
  assertEquals(await follower.subscribe({}, events.take), { devices: [] });
  const progress: string[] = [];
  const image = rig.image();
  const limits = { iops: 100 };
  const attached = await client.call("attach", { domain: "web", image, limits, weight: 250 }, {
    ...PATIENT,
    progress: (text) => progress.push(text),
  });
  const { device, guest, vdev, params } = attached;
  assertEquals([guest.name, vdev, params.endsWith("disk.img")], ["web", "xvda", true]);
  assert(DEVICE.test(device) && progress.length > 0);

  await events.first("connected");
  const { devices: [report] } = await client.call("status", { device });
  assertEquals([report?.guest, report?.owned, report?.connected, report?.name], ["web", true, true, "xvda"]);
  const { devices: [figures] } = await client.call("stats", {});
  assertEquals([figures?.device, figures?.figures.in_flight], [device, 0]);

  const all = { ...NO_LIMITS, iops: 100 };
  assertEquals([await client.call("limit", { device }), report?.limits], [{ limits: all }, all]);
  const raised = await client.call("limit", { device, limits: { iops: 0, bytesPerSecond: "10M" } });
  assertEquals(raised.limits, { ...NO_LIMITS, bytesPerSecond: 10 * 2 ** 20 });
  assertEquals([report?.weight, (await client.call("weight", { device })).weight], [250, 250]);
  assertEquals(await client.call("weight", { device, weight: 40 }), { weight: 40 });
  assertEquals((await client.call("status", { device })).devices[0]?.weight, 40);
  for (const weight of [0, 1001, 1.5]) {
    await assertRejects(() => client.call("weight", { device, weight }), XenblkError, "from 1 to 1000");
  }
  assertEquals(await client.call("resize", { device, sizeBytes: 2 ** 21 }), { before: 2048, now: 4096 });

  assertEquals(await client.call("detach", { device }), {});
  await events.first("removed");
  const names = events.all.map(({ event }) => event);
  assertEquals(names.filter((name) => name !== "state"), ["added", "connected", "disconnected", "removed"]);
  assertEquals(rig.host.holdings(), before);
  const error = await assertRejects(() => client.call("detach", { device }), XenblkError);
  assertEquals(error.kind, "not-found");
});

Deno.test("a guest that takes no disk makes attach time out with the reason, and leaves nothing", async () => {
  await using rig = await Rig.start();
  await rig.host.startGuest({ name: "db", autoconnect: false });
  const before = rig.host.holdings();
  using client = await rig.client();
  const attach = { domain: "db", image: rig.image(), timeoutMs: 100 };
  const error = await assertRejects(() => client.call("attach", attach), XenblkError);
  assertEquals(error.kind, "timeout");
  assert(error.line.includes("frontend Initialising): no driver in the guest has taken the disk; check that"));
  assertEquals(rig.host.holdings(), before);
  // The client went away while it waited.
  using gone = await rig.client();
  const waiting = gone.call("attach", { ...attach, timeoutMs: 60_000 }).catch(() => {});
  const events = new Events();
  await client.subscribe({}, events.take);
  await events.first("added");
  gone[Symbol.dispose]();
  await waiting;
  await events.first("removed");
  assertEquals(rig.host.holdings(), before);
});

Deno.test("wrong requests are refused with what is allowed", async () => {
  await using rig = await Rig.start();
  const before = rig.host.holdings();
  using client = await rig.client();
  const image = rig.image();
  for (
    const [params, kind, text] of [
      [{ domain: "nobody", image }, "not-found", "Cannot find domain nobody"],
      [{ domain: "web", image: "/none.img" }, "failed", "there is no such file"],
      [{ domain: "web", image, grants: "fast" }, "usage", "grants takes one of auto, copy"],
      [{ domain: "web", image, filters: ["throttle,iops=x"] }, "usage", "iops takes"],
      [{ domain: "web", image, limits: { iops: 1.5 } }, "usage", "limits takes"],
      [{ domain: "web", image, limits: { bytesBurst: "x" } }, "usage", "Cannot use limits: bytesBurst takes a size"],
      [{ domain: "web", image, workers: 3 }, "usage", 'there is no parameter "workers"'],
      [{ domain: "web" }, "usage", "it needs image: a text"],
    ] as const
  ) {
    const error = await assertRejects(() => client.call("attach", params as never, PATIENT), XenblkError, text);
    assertEquals(error.kind, kind);
  }
  const { device } = await client.call("attach", { domain: "web", image }, PATIENT);
  const limits = { bytesPerSecond: "fast" };
  await assertRejects(() => client.call("limit", { device, limits }), XenblkError, "Cannot use limits: bytesPerSecond");
  await client.call("detach", { device });
  assertEquals(rig.host.holdings(), before);
});

Deno.test("the level of the log changes while the process serves, and a follower gets lines of its own level", async () => {
  const logged: string[] = [];
  await using rig = await Rig.start((line) => logged.push(line));
  const { createLogger } = await import("../../lib/log.ts");
  const logger = createLogger("test");
  using client = await rig.client();
  const events = new Events();
  await client.subscribe({ log: "warning" }, events.take);
  logger.debug("one");
  assertEquals(await client.call("logLevel", { level: "debug" }), { level: "debug" });
  logger.debug("two");
  assertEquals(await client.call("logLevel", { level: "error" }), { level: "error" });
  logger.warning("three");
  assertEquals(logged, ["debug: two"]);
  const line = await events.first("log");
  assertEquals(line.event === "log" && [line.level, line.line], ["warning", "three"]);
});
