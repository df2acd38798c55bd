/**
 * What happens when a storage daemon dies, hangs or is busy: the loss is noticed, operations wait and then fail or are
 * carried out by the next daemon, and the main thread goes on meanwhile.
 */

import { assert, assertEquals, assertGreater, assertLess, assertRejects } from "@std/assert";
import { EIO } from "../../../lib/errno.ts";
import { XenblkError } from "../../../lib/errors.ts";
import type { VhostDevice } from "../../../lib/storage/vhost.ts";
import { type ChannelRig, eventually, Folder } from "../../storage/rig.ts";
import { HAS_DAEMON, StorageDaemon, VhostRig } from "./daemon.ts";
import { FakeServer } from "./fake_server.ts";

const DEPTH = 32;

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `vhost: ${name}`, ignore: !HAS_DAEMON, fn });
}

/** Starts writes of 4 KiB, one per tag, each filled with `value`. */
function startWrites(rig: ChannelRig, value: number): void {
  for (let tag = 0; tag < DEPTH; tag++) {
    rig.buffer(tag).subarray(0, 4096).fill(value);
    rig.write(tag, tag * 4096, [4096]);
  }
  rig.channel.submit();
}

/** Whether something is lost by now: a promise that has resolved. */
async function isLost(device: VhostDevice): Promise<boolean> {
  return await Promise.race([
    device.lost.then(() => true),
    new Promise<false>((resolve) => setTimeout(resolve, 0, false)),
  ]);
}

test("a killed daemon is lost, operations wait, and after fail() all of them end with EIO", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig({ withIo: true });
  await using device = await rig.connect(daemon.socket);
  using one = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
  using other = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
  assertEquals(one.writeNow(0, 4096), 0);
  assert(!await isLost(device));
  daemon.signal("SIGSTOP");
  startWrites(one, 1);
  await daemon.kill();
  assertEquals(await device.lost, "the storage daemon of image disk: it closed the connection");
  startWrites(other, 2);
  for (const { channel } of [one, other]) assertEquals([channel.reap(), channel.inFlight], [0, DEPTH]);
  await assertRejects(
    () => device.attachment(0),
    XenblkError,
    "Cannot use image disk: the storage daemon: it closed the connection",
  );
  await assertRejects(
    () => device.refresh(),
    XenblkError,
    "Cannot read the size of image disk: the storage daemon: it closed the connection",
  );
  device.fail();
  for (const channel of [one, other]) {
    assertEquals([...channel.finish().values()], new Array(DEPTH).fill(-EIO));
    assertEquals([channel.readNow(0, 4096), channel.writeNow(0, 512)], [-EIO, -EIO]);
  }
});

test("after a reconnect the operations in flight are carried out again, and those that came since", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig({ withIo: true });
  await using device = await rig.connect(daemon.socket);
  using busy = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
  using idle = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
  let before = daemon;
  const daemons = new AsyncDisposableStack();
  for (let round = 1; round <= 5; round++) {
    before.signal("SIGSTOP");
    startWrites(busy, round);
    await before.kill();
    await device.lost;
    const next = daemons.use(await StorageDaemon.start({ image: daemon.image }, daemon.folder));
    await rig.turningOver([busy, idle], device.paused());
    const reconnected = device.reconnect(next.socket);
    assertEquals(busy.channel.reap(), 0);
    await reconnected;
    assert(!await isLost(device));
    assertEquals([...busy.finish().values()], new Array(DEPTH).fill(0));
    for (let tag = 0; tag < DEPTH; tag++) idle.read(tag, tag * 4096, [4096]);
    assertEquals([...idle.finish().values()], new Array(DEPTH).fill(0));
    for (let tag = 0; tag < DEPTH; tag++) assertEquals(idle.buffer(tag)[tag], round);
    before = next;
  }
  await daemons.disposeAsync();
});

test("a connection that is lost before a reactor has used it does not stay lost", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig({ withIo: true });
  await using device = await rig.connect(daemon.socket);
  using busy = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
  using idle = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
  // If it does, the operations in flight end all the same.
  using _end = { [Symbol.dispose]: (): void => (device.fail(), void busy.finish()) };
  await using daemons = new AsyncDisposableStack();
  daemon.signal("SIGSTOP");
  startWrites(busy, 7);
  await daemon.kill();
  await device.lost;
  for (let round = 0; round < 3; round++) {
    const next = daemons.use(await StorageDaemon.start({ image: daemon.image }, daemon.folder));
    await rig.turningOver([busy, idle], device.paused());
    await device.reconnect(next.socket);
    await next.kill();
    await device.lost;
  }
  const last = daemons.use(await StorageDaemon.start({ image: daemon.image }, daemon.folder));
  await rig.turningOver([busy, idle], device.paused());
  await device.reconnect(last.socket);
  assertEquals([...busy.finish().values()], new Array(DEPTH).fill(0));
  assertEquals([idle.readNow(0, 4096), idle.buffer(0)[0]], [0, 7]);
});

test("a reconnect to a daemon that lives is possible after its connection was given up by it", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  using channel = await rig.channel(device);
  await assertRejects(() => device.reconnect(daemon.socket), XenblkError, "its connection is not lost");
  await daemon.command("block-export-del", { id: "export", mode: "hard" });
  await device.lost;
  await assertRejects(
    () => device.reconnect(`${daemon.socket}.gone`),
    XenblkError,
    "Cannot connect again to image disk: the storage daemon:",
  );
  await daemon.command("block-export-add", {
    type: "vhost-user-blk",
    id: "export",
    "node-name": "disk",
    "num-queues": 2,
    writable: true,
    addr: { type: "unix", path: daemon.socket },
  });
  channel.write(0, 0, [4096]);
  channel.channel.submit();
  assertEquals(channel.channel.reap(), 0);
  await rig.turningOver([channel], device.reconnect(daemon.socket));
  assertEquals(channel.finish().get(0), 0);
});

test("a signal ends a reconnect that waits for a socket nobody listens at", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  await daemon.kill();
  await device.lost;
  const ending = new AbortController();
  const reconnecting = device.reconnect(daemon.socket, ending.signal);
  ending.abort(new Error("the daemon died"));
  await assertRejects(() => reconnecting, Error, "the daemon died");
});

test("a hundred losses leave as many descriptors and mappings as one", async () => {
  using folder = new Folder();
  using rig = new VhostRig();
  const counts = (): number[] => [
    [...Deno.readDirSync("/proc/self/fd")].length,
    Deno.readTextFileSync("/proc/self/maps").split("\n").filter((line) => line.includes("xenblk-vhost")).length,
  ];
  let server = new FakeServer(`${folder.path}/0`);
  await using device = await rig.connect(server.socket);
  const found: number[][] = [];
  for (let death = 1; death <= 100; death++) {
    await server[Symbol.asyncDispose]();
    await device.lost;
    server = new FakeServer(`${folder.path}/${death}`);
    await device.reconnect(server.socket);
    if (death % 99 === 1) found.push(counts());
  }
  assertEquals(found[1], found[0]);
  await server[Symbol.asyncDispose]();
});

test("a daemon that hangs during the handshake is given up in time, and timers run meanwhile", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig({ patience: { answerMs: 400, busyMs: 100 } });
  daemon.signal("SIGSTOP");
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  const begun = performance.now();
  const error = await assertRejects(() => rig.connect(daemon.socket), XenblkError);
  clearInterval(timer);
  assertEquals(
    error.line,
    `Cannot connect to the storage daemon of image disk at ${daemon.socket}: it has not answered getFeatures for 0.4 s; ` +
      "check that qemu-storage-daemon runs (ps) and that no other program is connected to this export",
  );
  assertLess(performance.now() - begun, 5000);
  assertGreater(ticks, 10);
  daemon.signal("SIGCONT");
});

test("a daemon that hangs while a virtqueue is set up loses nothing: it goes on when it answers", async () => {
  await using daemon = await StorageDaemon.start({ queues: 1 });
  using rig = new VhostRig({ patience: { answerMs: 200 } });
  await using device = await rig.connect(daemon.socket, { queues: 1 });
  daemon.signal("SIGSTOP");
  await assertRejects(() => device.attachment(0), XenblkError, "it has not answered setVringNum for 0.2 s");
  // The virtqueue may be half set up: it is stopped before it is used again, and until then it is not.
  await assertRejects(() => device.attachment(0), XenblkError, "it has not answered getVringBase for 0.2 s");
  daemon.signal("SIGCONT");
  using channel = await rig.channel(device);
  assertEquals(channel.writeNow(0, 4096), 0);
});

test("connecting waits for the export's other client to end", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig();
  for (let round = 0; round < 10; round++) {
    const first = await rig.connect(daemon.socket);
    const second = rig.connect(daemon.socket);
    const waited = await Promise.race([second.then(() => false), first.refresh().then(() => true)]);
    assert(waited);
    await first[Symbol.asyncDispose]();
    await using device = await second;
    assertEquals(device.properties.readOnly, false);
  }
});

test("after the death of another process that had the export, a connect succeeds at once", async () => {
  await using daemon = await StorageDaemon.start();
  const program = new URL("./client_child.ts", import.meta.url).pathname;
  for (let round = 0; round < 3; round++) {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", program, daemon.socket],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const output = child.stdout.getReader();
    assertEquals((await output.read()).done, false);
    child.kill("SIGKILL");
    using rig = new VhostRig();
    await using device = await rig.connect(daemon.socket);
    using channel = await rig.channel(device);
    assertEquals(channel.writeNow(0, 4096), 0);
    await output.cancel();
    await child.status;
  }
});

test("connecting can be aborted, and says what is wrong with the socket", async () => {
  await using daemon = await StorageDaemon.start({ queues: 1 });
  using rig = new VhostRig({ patience: { busyMs: 50 } });
  daemon.signal("SIGSTOP");
  const aborter = new AbortController();
  const connecting = rig.connect(daemon.socket, { queues: 1, signal: aborter.signal });
  aborter.abort();
  await assertRejects(() => connecting, DOMException, "aborted");
  daemon.signal("SIGCONT");
  await assertRejects(() => rig.connect(daemon.socket), XenblkError, "it has 1 virtqueues, and 2 are needed");
  await assertRejects(
    () => rig.connect(`${daemon.folder.path}/none`),
    XenblkError,
    `${daemon.folder.path}/none: No such file or directory (ENOENT)`,
  );
  await daemon.kill();
  await assertRejects(() => rig.connect(daemon.socket), XenblkError, "Connection refused (ECONNREFUSED)");
});

test("a link in place of a daemon's socket is not followed to another daemon's", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig({ patience: { busyMs: 50 } });
  const link = `${daemon.folder.path}/link`;
  await Deno.symlink(daemon.socket, link);
  await assertRejects(() => rig.connect(link), XenblkError, "Connection refused (ECONNREFUSED)");
  await using _device = await rig.connect(daemon.socket);
});

test("a disk that is lost before it is closed, or while it is, does not keep its operations waiting", async () => {
  for (const closedFirst of [false, true]) {
    await using daemon = await StorageDaemon.start();
    using rig = new VhostRig();
    await using device = await rig.connect(daemon.socket);
    using channel = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096 });
    daemon.signal("SIGSTOP");
    startWrites(channel, 1);
    const closing = closedFirst ? device[Symbol.asyncDispose]() : undefined;
    await daemon.kill();
    await device.lost;
    void (closing ?? device[Symbol.asyncDispose]());
    assertEquals([...channel.finish().values()], new Array(DEPTH).fill(-EIO));
  }
});

test("a disk that is closed waits for its channels, and leaves no descriptor and no memory behind", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig();
  const before = [...Deno.readDirSync("/proc/self/fd")].length;
  const device = await rig.connect(daemon.socket);
  const channel = await rig.channel(device);
  const unopened = await device.attachment(0);
  let closed = false;
  const closing = device[Symbol.asyncDispose]().then(() => closed = true);
  assertEquals(channel.writeNow(0, 4096), 0);
  assert(!closed);
  await assertRejects(() => device.attachment(0), XenblkError, "it is closed");
  channel[Symbol.dispose]();
  await closing;
  await assertRejects(
    async () => void await Promise.resolve(rig.openMemory(unopened)),
    XenblkError,
    "the disk is closed",
  );
  await eventually(() => [...Deno.readDirSync("/proc/self/fd")].length === before, "its descriptors are closed");
  assert(!Deno.readTextFileSync("/proc/self/maps").includes("xenblk-vhost"));
  assert(!await isLost(device));
});
