/**
 * The data plane in real Workers over a simulated machine: opening and closing queues, spreading them, and what is said
 * when a ring cannot be opened or breaks.
 */

import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { createStats, readStats } from "../../lib/dataplane/stats.ts";
import type { QueueHandle, QueueSpec } from "../../lib/dataplane/types.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, EvtchnPort, GrantRef } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { Disk, DiskAttachment } from "../../lib/storage/disk.ts";
import { BACKEND, Bench, Guest, openMemoryDisk } from "./worker_rig.ts";

Deno.test("a queue in a Worker serves, is closed without a trace, and its ring is taken up where it was left", async () => {
  await using bench = new Bench();
  await using disk = await openMemoryDisk();
  using guest = new Guest(bench.machine, 3 as DomId);
  const stats = createStats();
  const before = machineUsage(bench.machine);
  for (let round = 1; round <= 3; round++) {
    const queue = await bench.plane.openQueue(guest.spec(disk, stats));
    guest.data.view.fill(round, 0, 4096);
    assertEquals(await guest.request(OP_WRITE, 0), 0);
    assertEquals(await guest.request(OP_READ, 1), 0);
    assertEquals(guest.data.view.subarray(4096).every((byte) => byte === round), true);
    await queue.close();
    await queue.close();
    assertEquals(machineUsage(bench.machine).mappedPages, before.mappedPages);
  }
  assertEquals([readStats(stats).reads, readStats(stats).writes, readStats(stats).inFlight], [3, 3, 0]);
});

Deno.test("a disk that has grown takes requests up to its new end", async () => {
  await using bench = new Bench();
  await using disk = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
  using guest = new Guest(bench.machine, 3 as DomId);
  const queue = await bench.plane.openQueue(guest.spec(disk));
  assertEquals([await guest.request(OP_READ, 0, 2040), await guest.request(OP_READ, 0, 2048)], [0, -1]);
  await queue.grow(2056);
  assertEquals([await guest.request(OP_READ, 0, 2048), await guest.request(OP_READ, 0, 2056)], [0, -1]);
  await queue.close();
});

Deno.test("requests that were queued before the ring was connected are served at once", async () => {
  await using bench = new Bench();
  await using disk = await openMemoryDisk();
  using guest = new Guest(bench.machine, 3 as DomId);
  const answered = guest.request(OP_READ, 0);
  const queue = await bench.plane.openQueue(guest.spec(disk));
  assertEquals(await answered, 0);
  await queue.close();
});

Deno.test("queues are spread over reactors, no more of which start than are needed", async () => {
  await using bench = new Bench(2);
  await using disk = await openMemoryDisk();
  const guests = [1, 2, 3, 4].map((domain) => new Guest(bench.machine, domain as DomId));
  for (const guest of guests) await bench.plane.openQueue(guest.spec(disk));
  assertEquals(bench.lanes, [0, 1]);
  assertEquals(await Promise.all(guests.map((guest) => guest.request(OP_READ, 0))), [0, 0, 0, 0]);
});

Deno.test("a reactor that was started before there was any queue is the one that serves the first", async () => {
  await using bench = new Bench(2);
  await bench.plane.start();
  assertEquals(bench.lanes, [0]);
  await using disk = await openMemoryDisk();
  using guest = new Guest(bench.machine, 1 as DomId);
  await bench.plane.openQueue(guest.spec(disk));
  assertEquals(await guest.request(OP_READ, 0), 0);
  assertEquals(bench.lanes, [0]);
});

Deno.test("queues of one disk that are opened at once are spread over the reactors, whatever these serve already", async () => {
  await using bench = new Bench(2);
  const lanes = new Map<number, number>();
  await using others = await openMemoryDisk();
  await using real = await openMemoryDisk();
  const disk: Disk = {
    properties: real.properties,
    description: real.description,
    attachment: (lane) => (lanes.set(lane, (lanes.get(lane) ?? 0) + 1), real.attachment(lane)),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  using other = new Guest(bench.machine, 1 as DomId);
  const before = await bench.plane.openQueue(other.spec(others));
  const guests = [2, 3, 4, 5].map((domain) => new Guest(bench.machine, domain as DomId));
  const queues = await Promise.all(guests.map((guest) => bench.plane.openQueue(guest.spec(disk))));
  assertEquals([...lanes.values()], [2, 2]);
  await Promise.all([before, ...queues].map((queue) => queue.close()));
  lanes.clear();
  await Promise.all(guests.slice(0, 2).map((guest) => bench.plane.openQueue(guest.spec(disk))));
  assertEquals([...lanes.values()], [1, 1], "queues that were closed count no more");
});

Deno.test("disks whose calls may wait for different storage share no reactor, and others share none with them", async () => {
  await using bench = new Bench(1);
  await using real = await openMemoryDisk();
  const lanes = new Map<string, number>();
  const open = async (name: string, storage: string | undefined, domain: number): Promise<QueueHandle> => {
    const disk: Disk = {
      properties: real.properties,
      description: name,
      attachment: (lane) => (lanes.set(name, lane), real.attachment(lane)),
      waitsFor: () => storage,
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    return await bench.plane.openQueue(stack.use(new Guest(bench.machine, domain as DomId)).spec(disk));
  };
  using stack = new DisposableStack();
  const queues = [
    await open("frozen", "device 8", 1),
    await open("beside it", "device 8", 2),
    await open("on another", "device 9", 3),
    await open("waits for none", undefined, 4),
  ];
  assertEquals([...lanes.values()], [0, 0, 1, 2]);
  await Promise.all(queues.map((queue) => queue.close()));
  await open("later", "device 7", 5);
  assertEquals(lanes.get("later"), 0, "a reactor without queues serves any storage");
});

Deno.test("a ring that cannot be mapped or bound is refused with the reason, and nothing stays behind", async () => {
  await using bench = new Bench();
  await using disk = await openMemoryDisk();
  using guest = new Guest(bench.machine, 3 as DomId);
  const refused = async (change: Partial<QueueSpec>): Promise<string> =>
    (await assertRejects(() => bench.plane.openQueue({ ...guest.spec(disk), ...change }), XenblkError)).message;
  assertMatch(await refused({ ringRefs: [999 as GrantRef] }), /999/);
  assertMatch(await refused({ eventChannel: 77 as EvtchnPort }), /77/);
  new Int32Array(guest.ringPage.view.buffer, guest.ringPage.view.byteOffset, 1)[0] = 1000;
  assertMatch(await refused({}), /req_prod 1000/);
  const { mappedPages, ports, channelSets } = machineUsage(bench.machine);
  assertEquals({ mappedPages, ports, channelSets }, { mappedPages: 0, ports: 1, channelSets: 1 }, "the guest's own");
});

Deno.test("a broken ring is reported once and its neighbour goes on", async () => {
  await using bench = new Bench();
  await using disk = await openMemoryDisk();
  using bad = new Guest(bench.machine, 3 as DomId);
  using good = new Guest(bench.machine, 4 as DomId);
  const badQueue = await bench.plane.openQueue(bad.spec(disk));
  await bench.plane.openQueue(good.spec(disk));
  assertEquals(await bad.request(OP_READ, 0), 0);
  new Int32Array(bad.ringPage.view.buffer, bad.ringPage.view.byteOffset, 1)[0] = 1000;
  bad.kick();
  assertMatch(await badQueue.stopped, /impossible/);
  assertEquals(await good.request(OP_READ, 0), 0);
  await badQueue.close();
});

Deno.test("the death of a reactor is reported once, and its rings are not reported as stopped", async () => {
  const machine = createMachine({ memoryBytes: 64 * 2 ** 20 });
  const failures: string[] = [];
  const died = Promise.withResolvers<void>();
  const plane = new WorkerDataPlane({
    platform: openSimulatedPlatform(machine, BACKEND),
    workers: 1,
    addLane: () => Promise.resolve(),
    warn: () => {},
    failed: (reason) => {
      failures.push(reason);
      died.resolve();
    },
    entry: new URL("./dying_worker.ts", import.meta.url),
  });
  await using disk = await openMemoryDisk();
  using guest = new Guest(machine, 3 as DomId);
  const queue = await plane.openQueue(guest.spec(disk));
  await died.promise;
  assertMatch(failures.join(), /^the reactor's Worker failed: .*a defect$/);
  const stopped = queue.stopped.then(() => "stopped");
  assertEquals(await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, 20, "silent"))]), "silent");
  await plane[Symbol.asyncDispose]();
});

Deno.test("a queue whose disk is still opened for its reactor when the data plane ends is refused", async () => {
  await using bench = new Bench();
  using guest = new Guest(bench.machine, 3 as DomId);
  const disk = await openMemoryDisk();
  const asked = Promise.withResolvers<void>();
  const attachment = Promise.withResolvers<DiskAttachment>();
  const late: Disk = {
    properties: disk.properties,
    description: disk.description,
    attachment: (lane) => disk.attachment(lane),
    withoutUring: () => {
      asked.resolve();
      return attachment.promise;
    },
    [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
  };
  const refused = assertRejects(() => bench.plane.openQueue(guest.spec(late)), XenblkError, "the data plane is closed");
  await asked.promise;
  await bench.plane[Symbol.asyncDispose]();
  attachment.resolve(await disk.attachment(0));
  await refused;
  await late[Symbol.asyncDispose]();
});

Deno.test("a data plane that has ended opens no queue and starts no reactor", async () => {
  const bench = new Bench();
  using guest = new Guest(bench.machine, 3 as DomId);
  await using disk = await openMemoryDisk();
  await bench.plane[Symbol.asyncDispose]();
  const { wakeWords } = machineUsage(bench.machine);
  await assertRejects(() => bench.plane.openQueue(guest.spec(disk)), XenblkError, "the data plane is closed");
  await assertRejects(() => bench.plane.start(), XenblkError, "the data plane is closed");
  assertEquals([bench.lanes, machineUsage(bench.machine).wakeWords], [[], wakeWords]);
});

Deno.test("a data plane ends at once if its reactor has not started, and waiting for it can be aborted", async () => {
  const plane = new WorkerDataPlane({
    platform: openSimulatedPlatform(createMachine({ memoryBytes: 64 * 2 ** 20 }), BACKEND),
    workers: 1,
    addLane: () => Promise.resolve(),
    warn: () => {},
    entry: new URL("./silent_worker.ts", import.meta.url),
  });
  await using disk = await openMemoryDisk();
  using guest = new Guest(createMachine({ memoryBytes: 64 * 2 ** 20 }), 3 as DomId);
  const end = new AbortController();
  const impatient = plane.openQueue(guest.spec(disk), end.signal);
  const patient = plane.openQueue(guest.spec(disk));
  end.abort();
  await assertRejects(() => impatient, DOMException);
  const refused = assertRejects(() => patient, XenblkError, "the data plane is closed");
  await plane[Symbol.asyncDispose]();
  await refused;
});
