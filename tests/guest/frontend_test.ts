/**
 * The frontend follows blkfront's handshake, closes when its backend closes or by itself, reconnects, reports what it
 * waited for in vain, and leaves no grant and no port behind.
 */

import { assert, assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { Frontend, type FrontendOptions } from "../../lib/guest/frontend.ts";
import { machineUsage } from "../../lib/sim/platform.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { BACK_PATH, FRONT_PATH, Host, settled } from "./rig.ts";

function frontend(host: Host, options: Partial<FrontendOptions> = {}): Frontend {
  return new Frontend({
    platform: host.front,
    store: host.guest,
    path: "device/vbd/51712",
    timeoutMs: 30_000,
    ...options,
  });
}

/** The error of a connection attempt after its time limit. */
async function timesOut(connecting: Promise<unknown>, clock: SimulatedClock, ms: number): Promise<XenblkError> {
  const rejected = assertRejects(() => connecting, XenblkError);
  await settled();
  clock.advance(ms);
  return await rejected;
}

const disk = (): Uint8Array => new Uint8Array(64 * 512);

Deno.test("the handshake: nothing is published before InitWait, then Connected, and the disk's properties are read", async () => {
  const host = new Host();
  using front = frontend(host);
  const connecting = front.connect();
  await settled();
  assertEquals(host.dom0.list(FRONT_PATH)!.sort(), ["backend", "backend-id", "state"]);
  const [connection, backend] = await Promise.all([
    connecting,
    host.serve(disk(), { info: "4", "physical-sector-size": "4096", "feature-persistent": "1" }),
  ]);
  using _backend = backend;
  const published = ["protocol", "feature-persistent", "state"].map((name) => host.dom0.read(`${FRONT_PATH}/${name}`));
  assertEquals(published, ["x86_64-abi", "1", "4"]);
  assertEquals(connection.disk, {
    sectors: 64,
    logicalSectorBytes: 512,
    physicalSectorBytes: 4096,
    info: 4,
    readOnly: true,
    barrier: true,
    flush: true,
    discard: false,
    persistent: true,
    maxIndirectSegments: 0,
  });
  assertEquals([connection.requests, connection.dataPages.refs.length, connection.ring.free()], [32, 352, 32]);
});

Deno.test("a ring has no more pages than the backend offers", async () => {
  for (const [offered, refs, slots] of [["1", ["ring-ref0", "ring-ref1"], 64], ["0", ["ring-ref"], 32]] as const) {
    const host = new Host();
    using front = frontend(host, { ringPages: 4, abi: "x86_32-abi" });
    const serving = host.serve(disk(), { "max-ring-page-order": offered });
    const [connection, backend] = await Promise.all([front.connect(), serving]);
    using _backend = backend;
    assertEquals(host.dom0.list(FRONT_PATH)!.filter((name) => name.startsWith("ring-ref")), [...refs]);
    assertEquals([connection.ring.slots, backend.ring.slots], [slots, slots]);
  }
});

Deno.test("the backend closes: the frontend quiesces, goes to Closed, and releases all grants and ports", async () => {
  const host = new Host();
  const before = machineUsage(host.machine);
  const order: string[] = [];
  using front = frontend(host, { quiesce: () => Promise.resolve(void order.push("quiesced")) });
  const [, backend] = await Promise.all([front.connect(), host.serve(disk())]);
  host.backState(5);
  await host.frontState(6);
  order.push("closed");
  assert(machineUsage(host.machine).grants > 0, "grants are kept until the backend is Closed");
  backend[Symbol.dispose]();
  host.backState(6);
  await front.closed;
  assertEquals(order, ["quiesced", "closed"]);
  assertEquals(front.connection, undefined);
  assertEquals(machineUsage(host.machine), before);
});

Deno.test("the frontend disconnects and reconnects, fifty times, and nothing is left", async () => {
  const host = new Host();
  const before = machineUsage(host.machine);
  using front = frontend(host);
  let connecting = front.connect();
  for (let i = 0; i < 50; i++) {
    const [connection, backend] = await Promise.all([connecting, host.serve(disk())]);
    assertEquals(connection.disk.sectors, 64);
    const disconnecting = front.disconnect();
    await host.frontState(5);
    host.backState(5);
    await host.frontState(6);
    backend[Symbol.dispose]();
    host.backState(6);
    await disconnecting;
    assertEquals(machineUsage(host.machine), before);
    connecting = front.reconnect();
    await host.frontState(1);
  }
  connecting.catch(() => {});
});

Deno.test("the frontend closes when the backend's directory is removed", async () => {
  const host = new Host();
  using front = frontend(host);
  const [, backend] = await Promise.all([front.connect(), host.serve(disk())]);
  backend[Symbol.dispose]();
  host.dom0.remove(BACK_PATH);
  await front.closed;
  assertEquals(host.dom0.read(`${FRONT_PATH}/state`), "6");
});

Deno.test("a frontend does not bring back its removed directory", async () => {
  const host = new Host();
  using front = frontend(host);
  const [, backend] = await Promise.all([front.connect(), host.serve(disk())]);
  host.dom0.remove(FRONT_PATH);
  host.backState(5);
  backend[Symbol.dispose]();
  host.backState(6);
  await front.closed;
  assertEquals(host.dom0.read(`${FRONT_PATH}/state`), undefined);
});

Deno.test("a timeout names the device, the backend, its state and its error; nothing is left behind", async () => {
  const host = new Host();
  const before = machineUsage(host.machine);
  const clock = new SimulatedClock();
  using front = frontend(host, { timeoutMs: 30, clock });
  const connectInVain = (): Promise<XenblkError> => timesOut(front.connect(), clock, 30);
  host.dom0.write(`${BACK_PATH}/error`, "Cannot open image /x.img: there is no such file");
  const early = await connectInVain();
  assertEquals(
    early.message,
    `Cannot connect device/vbd/51712: backend ${BACK_PATH} stayed at state 1 (Initialising) for 30 ms, ` +
      "and says: Cannot open image /x.img: there is no such file",
  );
  assertEquals(early.kind, "timeout");
  host.offer();
  assertStringIncludes((await connectInVain()).message, "stayed at state 2 (InitWait)");
  assertEquals(machineUsage(host.machine), before);
  assertEquals(host.dom0.read(`${FRONT_PATH}/state`), "6");
});

Deno.test("a backend that closes during the handshake fails the connection with its error", async () => {
  const host = new Host();
  using front = frontend(host);
  const connecting = front.connect();
  host.offer();
  await host.frontState(3);
  host.dom0.write(`${BACK_PATH}/error`, "no such image");
  host.backState(5);
  await assertRejects(() => connecting, XenblkError, "the backend closed (no such image)");
});

Deno.test("missing and invalid nodes are named", async () => {
  const host = new Host();
  using front = frontend(host);
  host.dom0.write(`${FRONT_PATH}/backend-id`, "zero");
  await assertRejects(() => front.connect(), XenblkError, 'node backend-id says "zero"');
  host.dom0.remove(`${FRONT_PATH}/backend`);
  await assertRejects(() => front.connect(), XenblkError, "it has no node backend");
  host.dom0.write(`${FRONT_PATH}/backend`, BACK_PATH);
  host.dom0.write(`${FRONT_PATH}/backend-id`, "0");
  const connecting = front.connect();
  host.offer();
  await host.frontState(3);
  host.present({ sectors: "many" });
  await assertRejects(() => connecting, XenblkError, "node sectors says many");
  assertThrows(() => front.events, XenblkError, "none are open");
});

Deno.test("losing xenstore leaves the connection; over a new one the frontend follows its backend again", async () => {
  const host = new Host();
  using front = frontend(host);
  const [, backend] = await Promise.all([front.connect(), host.serve(disk())]);
  host.store.disconnect(3 as never, "restarted");
  await settled();
  assert(front.connection !== undefined);
  front.useStore(host.store.connect(3 as never));
  host.backState(5);
  await host.frontState(6);
  backend[Symbol.dispose]();
  host.backState(6);
  await front.closed;
  assertEquals(front.connection, undefined);
});

Deno.test("nodes can be overridden with wrong values", async () => {
  const host = new Host();
  const clock = new SimulatedClock();
  using front = frontend(host, { override: { "ring-ref": "abc" }, timeoutMs: 30, clock });
  const connecting = front.connect();
  host.offer();
  await host.frontState(3);
  assertEquals(host.dom0.read(`${FRONT_PATH}/ring-ref`), "abc");
  assertStringIncludes((await timesOut(connecting, clock, 30)).message, "stayed at state 2");
});
