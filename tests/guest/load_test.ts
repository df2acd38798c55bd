/**
 * The load driver finds every wrong byte and reports none where all are right; it follows its spec, and it ends.
 * Backends here are in-process and can be given faults.
 */

import { assert, assertEquals, assertGreater, assertMatch, assertRejects, assertThrows } from "@std/assert";
import type { AbiName } from "../../lib/blkif/abi.ts";
import { SYSTEM_CLOCK } from "../../lib/clock.ts";
import { XenblkError } from "../../lib/errors.ts";
import { DiskModel } from "../../lib/guest/disk_model.ts";
import { Frontend, type FrontendOptions } from "../../lib/guest/frontend.ts";
import { LoadDriver } from "../../lib/guest/load.ts";
import { LoadThread } from "../../lib/guest/load_thread.ts";
import { type LoadOutcome, LoadProgress, type LoadSpec, loadTarget, MIXED_LOAD } from "../../lib/guest/load_types.ts";
import { machineUsage } from "../../lib/sim/platform.ts";
import { rememberImage, verifyImage, verifyImageFile } from "../../lib/guest/verify_image.ts";
import { Host, type Mischief, type TinyBackend } from "./rig.ts";

const SECTORS = 4096;

interface Bench {
  readonly host: Host;
  readonly front: Frontend;
  readonly backend: TinyBackend;
  readonly disk: Uint8Array;
}

async function connect(
  options: Partial<FrontendOptions> = {},
  nodes: Readonly<Record<string, string>> = {},
  disk = new Uint8Array(SECTORS * 512),
): Promise<Bench> {
  const host = new Host();
  const path = "device/vbd/51712";
  const front = new Frontend({ platform: host.front, store: host.guest, path, ...options });
  const [, backend] = await Promise.all([front.connect(), host.serve(disk, nodes)]);
  return { host, front, backend, disk };
}

function driverOf({ host, front }: Bench, spec: Partial<LoadSpec>, model?: DiskModel): LoadDriver {
  return new LoadDriver({
    target: loadTarget(front.connection!),
    spec: { ...MIXED_LOAD, ...spec },
    platform: host.front,
    events: front.events,
    ...(model === undefined ? {} : { model }),
    progress: new LoadProgress(),
  });
}

/** Runs a load and its backend in this thread, in turns. */
function drive(bench: Bench, spec: Partial<LoadSpec>, model?: DiskModel): LoadOutcome {
  const driver = driverOf(bench, spec, model);
  for (let turn = 0; !driver.finished; turn++) {
    assert(turn < 1_000_000, "the load never ends");
    const busy = driver.step();
    bench.backend.step();
    if (!busy) driver.prepareToSleep();
  }
  return driver.outcome();
}

const reader = (disk: Uint8Array) => ({
  read(offset: number, into: Uint8Array): number {
    const bytes = disk.subarray(offset, offset + Math.min(into.length, 100_000));
    into.set(bytes);
    return bytes.length;
  },
});

const PATIENCE_MS = 30_000;

/** Waits for what the Worker of a load brings about. */
async function until(what: string, isSo: () => boolean): Promise<void> {
  for (const start = performance.now(); !isSo(); await SYSTEM_CLOCK.sleep(1)) {
    assert(performance.now() - start < PATIENCE_MS, `waited in vain until ${what}`);
  }
}

/** Serves the requests of a load in a Worker by stepping the current backend, if there is one, until `ended`. */
async function keepServing(current: () => TinyBackend | undefined, ended: () => boolean): Promise<void> {
  while (!ended()) {
    const served = current()?.step() ?? false;
    await SYSTEM_CLOCK.sleep(served ? 0 : 1);
  }
}

for (const abi of ["x86_64-abi", "x86_32-abi", "arm-abi"] satisfies AbiName[]) {
  Deno.test(`with a correct backend everything verifies, during the load and in the image afterwards (${abi})`, async () => {
    const bench = await connect({ abi });
    const model = DiskModel.create(SECTORS, 7, "zeroes");
    const outcome = drive(bench, { requests: 5000, flushEvery: 100, barrierEvery: 50, seed: 3 }, model);
    assertEquals([outcome.errors, outcome.miscompares, outcome.protocolErrors, outcome.unanswered], [0, 0, 0, 0]);
    assertEquals(outcome.reads + outcome.writes + outcome.barriers + outcome.flushes, 5000);
    assertEquals(outcome.flushes, bench.backend.flushes);
    assertEquals(outcome.flushes, 49);
    assertGreater(outcome.barriers, 20);
    assertEquals(outcome.verifiedSectors * 512, outcome.bytesRead);
    assertEquals(outcome.uncheckedSectors, 0);
    assertEquals(outcome.latency.count, 5000);
    const verdict = verifyImage(reader(bench.disk), model);
    assertEquals([verdict.verifiedSectors, verdict.uncheckedSectors, verdict.miscompares], [SECTORS, 0, 0]);
  });
}

Deno.test("one wrong bit in one read is found and reported with its write and byte", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  drive(bench, { requests: 4000, readShare: 0, blockBytes: [45056] }, model);
  bench.backend.mischief = { corruptRead: (request) => request === 4700 };
  const outcome = drive(bench, { requests: 1000, readShare: 1, blockBytes: [512] }, model);
  assertEquals([outcome.miscompares, outcome.errors], [1, 0]);
  assertMatch(outcome.firstMiscompare!.expected, /^write \d+$/);
  assertMatch(outcome.firstMiscompare!.got, /^[0-9a-f]{8} in place of [0-9a-f]{8} at byte 508$/);
  assertEquals(outcome.verifiedSectors, 999);
});

Deno.test("a dropped write is found by reading and in the image", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  bench.backend.mischief = { dropWrite: (request) => request === 900 };
  const spec = { requests: 1000, readShare: 0, blockBytes: [4096], pattern: "sequential" } as const;
  assertEquals(drive(bench, spec, model).miscompares, 0);
  const verdict = verifyImage(reader(bench.disk), model);
  assertEquals(verdict.miscompares, 8);
  assertMatch(verdict.firstMiscompare!.got, /^write \d+$/, "it holds an earlier write");
  const reading = drive(bench, { requests: 512, readShare: 1, blockBytes: [4096], pattern: "sequential" }, model);
  assertEquals([reading.miscompares, reading.verifiedSectors], [8, SECTORS - 8]);
  assertEquals(reading.firstMiscompare, verdict.firstMiscompare);
});

Deno.test("data of another sector is recognised", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  drive(bench, { requests: 512, readShare: 0, blockBytes: [4096], pattern: "sequential" }, model);
  bench.disk.copyWithin(1000 * 512, 77 * 512, 78 * 512);
  bench.disk.fill(0, 2000 * 512, 2001 * 512);
  const verdict = verifyImage(reader(bench.disk), model);
  assertEquals(verdict.miscompares, 2);
  assertEquals(verdict.firstMiscompare, { sector: 1000, expected: "write 126", got: "write 10 of sector 77" });
});

Deno.test("sectors of a failed write are unknown until they are written again; errors are counted by kind", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  const sequential = { readShare: 0, blockBytes: [4096], pattern: "sequential", depth: 8 } as const;
  bench.backend.mischief = { status: (request) => request % 10 === 0 ? -1 : 0 };
  const writing = drive(bench, { ...sequential, requests: 512 }, model);
  assertEquals([writing.errors, writing.errorsByKind], [52, { "write -1": 52 }]);
  bench.backend.mischief = {};
  const reading = drive(bench, { ...sequential, requests: 512, readShare: 1 }, model);
  assertEquals([reading.miscompares, reading.uncheckedSectors], [0, 52 * 8]);
  assertEquals(drive(bench, { ...sequential, requests: 512 }, model).errors, 0);
  assertEquals(verifyImage(reader(bench.disk), model).verifiedSectors, SECTORS);
  bench.backend.mischief = { status: () => -2 };
  const refused = drive(bench, { ...sequential, requests: 20, readShare: 1, flushEvery: 9 }, model);
  assertEquals(refused.errorsByKind, { "read -2": 18, "flush -2": 2 });
});

Deno.test("responses that make Linux disable the disk are protocol errors", async () => {
  const rows: [string, Mischief["answer"], RegExp][] = [
    [
      "operation",
      (n, id, operation) => ({ id, operation: n === 5 ? 2 : operation }),
      /a read was answered as operation 2/,
    ],
    ["unknown id", (n, id, operation) => ({ id: n === 5 ? 999 : id, operation }), /id \d+:999, which is not in flight/],
  ];
  for (const [name, answer, text] of rows) {
    const bench = await connect();
    bench.backend.mischief = { answer: answer! };
    const driver = driverOf(bench, { requests: 64, readShare: 1 }, DiskModel.create(SECTORS, 1, "zeroes"));
    for (let turn = 0; turn < 50; turn++) {
      driver.step();
      bench.backend.step();
    }
    const outcome = driver.outcome();
    assertEquals(outcome.protocolErrors, 1, name);
    assertMatch(outcome.firstProtocolError!, text);
    assertEquals(outcome.unanswered, name === "operation" ? 0 : 1);
  }
});

Deno.test("an image of unknown contents: the first read is remembered and a change is found; or it is read beforehand", async () => {
  const disk = new Uint8Array(SECTORS * 512);
  crypto.getRandomValues(disk.subarray(0, 65536));
  const bench = await connect({}, {}, disk);
  const reads = { readShare: 1, blockBytes: [4096], pattern: "sequential", requests: 512 } as const;
  const model = DiskModel.create(SECTORS, 7, "anything");
  assertEquals(drive(bench, reads, model).uncheckedSectors, SECTORS);
  assertEquals(drive(bench, reads, model).verifiedSectors, SECTORS);
  disk[70_000]! ^= 1;
  const changed = drive(bench, reads, model);
  assertEquals([changed.miscompares, changed.firstMiscompare!.sector], [1, Math.floor(70_000 / 512)]);
  const known = DiskModel.create(SECTORS, 7, "anything");
  rememberImage(reader(disk), known);
  assertEquals(drive(bench, reads, known).verifiedSectors, SECTORS);
  assertThrows(() => rememberImage(reader(disk), DiskModel.create(SECTORS, 7, "zeroes")), TypeError);
  assertThrows(() => verifyImage(reader(disk.subarray(0, 5000)), known), XenblkError, "it ends at byte 5000");
});

Deno.test("a load follows its depth, area, sizes and mix; a read-only disk is only read", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  const area = { firstSector: 1000, sectors: 500 };
  const outcome = drive(bench, { requests: 2000, area, depth: 5, blockBytes: { min: 1024, max: 4096 } }, model);
  assertEquals([outcome.errors, outcome.miscompares], [0, 0]);
  assertEquals(bench.backend.mostAtOnce, 5);
  assertGreater(outcome.reads, 800);
  assertGreater(outcome.writes, 800);
  assert(outcome.bytesWritten / outcome.writes > 2200 && outcome.bytesWritten / outcome.writes < 2900);
  assert(bench.disk.subarray(0, 1000 * 512).every((byte) => byte === 0));
  assert(bench.disk.subarray(1500 * 512).every((byte) => byte === 0));
  const readOnly = await connect({}, { info: "4" });
  const reading = drive(
    readOnly,
    { requests: 300, readShare: 0, flushEvery: 100 },
    DiskModel.create(SECTORS, 1, "zeroes"),
  );
  assertEquals([reading.reads, reading.flushes, reading.writes], [298, 2, 0]);
});

Deno.test("a disk of 4096-byte sectors gets only requests of whole sectors in whole pages", async () => {
  const bench = await connect({}, { "sector-size": "4096" });
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  const outcome = drive(bench, { requests: 500 }, model);
  assertEquals([outcome.errors, outcome.miscompares, outcome.bytesWritten % 4096], [0, 0, 0]);
});

Deno.test("the same seed makes the same load; an impossible load is refused", async () => {
  const images: Uint8Array[] = [];
  for (const seed of [5, 5, 6]) {
    const bench = await connect();
    drive(bench, { requests: 500, seed }, DiskModel.create(SECTORS, 7, "zeroes"));
    images.push(bench.disk);
  }
  assertEquals(images[0], images[1]);
  assert(images[0]!.some((byte, i) => byte !== images[2]![i]));
  const bench = await connect();
  for (const blockBytes of [[], [45057], [0], { min: 512, max: 65536 }]) {
    assertThrows(() => driverOf(bench, { blockBytes }), XenblkError, "a request holds 512 to 45056");
  }
  const area = { firstSector: 4000, sectors: 50 };
  assertThrows(() => driverOf(bench, { area }), XenblkError, "Cannot load 50 sectors");
});

Deno.test("without a model data is neither filled in nor verified", async () => {
  const bench = await connect();
  const outcome = drive(bench, { requests: 2000, readShare: 0.5, blockBytes: [4096] });
  assertEquals([outcome.errors, outcome.verifiedSectors, outcome.uncheckedSectors], [0, 0, 0]);
  assert(bench.disk.every((byte) => byte === 0));
  assertGreater(outcome.notificationsSent, 0);
});

Deno.test("in a Worker a load verifies and can be watched, stopped and abandoned; nothing is left behind", async () => {
  const host = new Host();
  const before = machineUsage(host.machine);
  const disk = new Uint8Array(SECTORS * 512);
  {
    await using thread = await LoadThread.start(host.front);
    const path = "device/vbd/51712";
    using front = new Frontend({ platform: host.front, store: host.guest, path, endpoint: thread });
    const [connection, backend] = await Promise.all([front.connect(), host.serve(disk)]);
    let ended = false;
    const server = keepServing(() => backend, () => ended);
    const model = DiskModel.create(SECTORS, 7, "zeroes");
    const first = thread.run(loadTarget(connection), { ...MIXED_LOAD, requests: 3000 }, model);
    assertThrows(() => thread.run(loadTarget(connection), MIXED_LOAD), XenblkError, "another one runs");
    const outcome = await first.outcome;
    assertEquals([outcome.reads + outcome.writes, outcome.errors, outcome.miscompares], [3000, 0, 0]);
    assertEquals(first.progress.read().requests, 3000);
    const endless = thread.run(loadTarget(connection), { ...MIXED_LOAD, seed: 2 }, model);
    await until("500 requests were answered", () => endless.progress.read().requests >= 500);
    const stopped = await endless.stop();
    assertEquals([stopped.unanswered, stopped.miscompares, stopped.errors], [0, 0, 0]);
    const timed = await thread.run(loadTarget(connection), { ...MIXED_LOAD, durationMs: 60 }, model).outcome;
    assert(timed.elapsedMs >= 30 && timed.elapsedMs < 5000, `${timed.elapsedMs} ms`);
    ended = true;
    await server;
    const unserved = thread.run(loadTarget(connection), { ...MIXED_LOAD, depth: 4, readShare: 0 }, model);
    await until("requests are on the ring", () => backend.ring.finalCheck());
    assertEquals((await unserved.abandon()).unanswered, 4);
    const verdict = verifyImage(reader(disk), model);
    assertEquals(verdict.miscompares, 0);
    assertGreater(verdict.uncheckedSectors, 3, "sectors of unanswered writes may hold anything");
    backend[Symbol.dispose]();
  }
  assertEquals(machineUsage(host.machine), before);
});

Deno.test("a load's Worker can be terminated while it sleeps; pending promises reject", async () => {
  const host = new Host();
  const thread = await LoadThread.start(host.front);
  using front = new Frontend({
    platform: host.front,
    store: host.guest,
    path: "device/vbd/51712",
    endpoint: thread,
  });
  const [connection, backend] = await Promise.all([front.connect(), host.serve(new Uint8Array(SECTORS * 512))]);
  const run = thread.run(loadTarget(connection), MIXED_LOAD);
  await until("requests are on the ring", () => backend.ring.finalCheck());
  thread.terminate();
  await assertRejects(() => run.outcome, XenblkError, "its Worker was ended");
  await assertRejects(() => thread.bind(0 as never), XenblkError, "its Worker was ended");
  await thread[Symbol.asyncDispose]();
  backend[Symbol.dispose]();
});

Deno.test("under load the backend closes, and the guest quiesces without an error, reconnects and finds its data", async () => {
  const host = new Host();
  const disk = new Uint8Array(SECTORS * 512);
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  await using thread = await LoadThread.start(host.front);
  using front = new Frontend({
    platform: host.front,
    store: host.guest,
    path: "device/vbd/51712",
    endpoint: thread,
    quiesce: () => thread.quiesce(),
  });
  let backend: TinyBackend | undefined;
  let ended = false;
  const server = keepServing(() => backend, () => ended);
  let connecting = front.connect();
  for (let round = 0; round < 4; round++) {
    const [connection, serving] = await Promise.all([connecting, host.serve(disk)]);
    backend = serving;
    const run = thread.run(loadTarget(connection), { ...MIXED_LOAD, seed: round }, model);
    await until("300 requests were answered", () => run.progress.read().requests >= 300);
    host.backState(5);
    await host.frontState(6);
    backend = undefined;
    serving[Symbol.dispose]();
    host.backState(6);
    await front.closed;
    const outcome = await run.outcome;
    assertEquals([outcome.errors, outcome.miscompares, outcome.unanswered], [0, 0, 0]);
    if (round < 3) connecting = front.reconnect();
    if (round < 3) await host.frontState(1);
  }
  ended = true;
  await server;
  assertEquals(verifyImage(reader(disk), model).verifiedSectors, SECTORS);
});

Deno.test("a load continues when its backend is replaced", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  const driver = driverOf(bench, { requests: 3000 }, model);
  let { backend } = bench;
  for (let turn = 0; !driver.finished; turn++) {
    assert(turn < 100_000);
    if (!driver.step()) driver.prepareToSleep();
    // The next backend attaches to the drained ring; requests may come while there is none.
    if (turn % 20 === 7) backend[Symbol.dispose]();
    else if (turn % 20 === 10) backend = bench.host.attach(bench.disk);
    else if (turn % 20 < 7 || turn % 20 > 10) backend.step();
  }
  const outcome = driver.outcome();
  assertEquals([outcome.errors, outcome.miscompares, outcome.protocolErrors], [0, 0, 0]);
  assertEquals(verifyImage(reader(bench.disk), model).verifiedSectors, SECTORS);
});

Deno.test("an image in a file is verified", async () => {
  const bench = await connect();
  const model = DiskModel.create(SECTORS, 7, "zeroes");
  assertEquals(drive(bench, { requests: 300 }, model).miscompares, 0);
  const path = await Deno.makeTempFile({ suffix: ".img" });
  try {
    await Deno.writeFile(path, bench.disk);
    assertEquals(verifyImageFile(path, model).miscompares, 0);
    bench.disk[999] = ~bench.disk[999]!;
    await Deno.writeFile(path, bench.disk);
    assertEquals(verifyImageFile(path, model).firstMiscompare!.sector, 1);
  } finally {
    await Deno.remove(path);
  }
});
