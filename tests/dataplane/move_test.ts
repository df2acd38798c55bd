/**
 * A queue moves to another reactor while its guest goes on: what the guest sees, what stays behind, and what happens if
 * the old reactor cannot finish, the new one cannot open or dies, or the queue is closed or grows meanwhile.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { createStats, readStats } from "../../lib/dataplane/stats.ts";
import type { MoveResult } from "../../lib/dataplane/placed_queue.ts";
import type { QueueHandle } from "../../lib/dataplane/types.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { machineUsage } from "../../lib/sim/platform.ts";
import { openDisk } from "../../lib/storage/open.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { heldAttachment } from "./modules/held_disk.ts";
import { Bench, Guest, openMemoryDisk } from "./worker_rig.ts";

/** A bench with two reactors, each of which serves a guest of its own. */
class TwoReactors implements AsyncDisposable {
  readonly bench: Bench;
  readonly stats = createStats();
  readonly guest: Guest;
  readonly other: Guest;
  queue!: QueueHandle;
  readonly #disks = new AsyncDisposableStack();

  static async open(bench = new Bench(2), disk?: Disk, label = "the queue"): Promise<TwoReactors> {
    const rig = new TwoReactors(bench);
    const memory = rig.#disks.use(await openMemoryDisk());
    rig.queue = await bench.plane.openQueue({ ...rig.guest.spec(disk ?? memory, rig.stats), label });
    await bench.plane.openQueue(rig.other.spec(memory));
    return rig;
  }

  private constructor(bench: Bench) {
    this.bench = bench;
    this.guest = new Guest(bench.machine, 3 as DomId);
    this.other = new Guest(bench.machine, 4 as DomId);
  }

  move(to: number): Promise<MoveResult> {
    return this.bench.plane.move(this.queue, to);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.bench[Symbol.asyncDispose]();
    await this.#disks[Symbol.asyncDispose]();
    this.guest[Symbol.dispose]();
    this.other[Symbol.dispose]();
  }
}

function assertStayed(result: MoveResult, reason: RegExp): void {
  assert(!result.moved);
  assertMatch(result.reason, reason);
}

Deno.test("a queue moves between reactors fifty times while its guest writes and reads, and nothing is left behind", async () => {
  await using rig = await TwoReactors.open();
  const before = machineUsage(rig.bench.machine);
  let over = false;
  const moving = (async () => {
    for (let moves = 1; moves <= 50; moves++) {
      assertEquals((await rig.move(moves % 2)).moved, true);
      assertEquals(rig.queue.reactor, moves % 2);
    }
    over = true;
  })();
  let rounds = 0;
  for (; !over; rounds++) {
    rig.guest.data.view.fill(rounds, 0, 4096);
    assertEquals([await rig.guest.request(OP_WRITE, 0), await rig.guest.request(OP_READ, 1)], [0, 0]);
    assertEquals(rig.guest.data.view.subarray(4096).every((byte) => byte === (rounds & 0xff)), true);
  }
  await moving;
  const { reads, writes, errors, inFlight, flushes } = readStats(rig.stats);
  assertEquals([reads, writes, errors, inFlight, flushes], [rounds, rounds, 0, 0, 0]);
  const { mappedPages, ports, channelSets } = machineUsage(rig.bench.machine);
  assertEquals([mappedPages, ports, channelSets], [before.mappedPages, before.ports, before.channelSets]);
  await rig.queue.close();
});

Deno.test("what does not finish in time keeps its queue where it is, and it goes on", async () => {
  const held = new SharedArrayBuffer(4);
  new Int32Array(held)[0] = 1;
  await using memory = await openMemoryDisk();
  const disk: Disk = {
    properties: memory.properties,
    description: "held",
    attachment: () => Promise.resolve(heldAttachment(held)),
    reattach: (attachment) => attachment,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  await using rig = await TwoReactors.open(new Bench(2), disk);
  const answer = rig.guest.request(OP_READ, 0);
  while (rig.queue.inFlight === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  assertStayed(await rig.move(1), /in flight was not finished in time/);
  assertEquals([rig.queue.reactor, rig.queue.inFlight], [0, 1]);
  Atomics.store(new Int32Array(held), 0, 0);
  assertEquals(await answer, 0);
  assertEquals(await rig.guest.request(OP_READ, 0), 0);
  assertEquals((await rig.move(1)).moved, true);
  assertEquals(await rig.guest.request(OP_READ, 0), 0);
});

Deno.test("a disk that cannot be served by another reactor stays, and so does one whose new reactor cannot load it", async () => {
  await using memory = await openMemoryDisk();
  const still: Disk = {
    properties: memory.properties,
    description: "still",
    attachment: (lane) => memory.attachment(lane),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  await using rig = await TwoReactors.open(new Bench(2), still);
  assertStayed(await rig.move(1), /not alike/);
  assertStayed(await rig.move(0), /not alike/);
  assertStayed(await rig.move(7), /no such/);
  const broken: Disk = { ...still, reattach: () => ({ module: "file:///nowhere/engine.ts" }) };
  await using other = await TwoReactors.open(new Bench(2), broken);
  assertStayed(await other.move(1), /nowhere/);
  assertEquals([other.queue.reactor, await other.guest.request(OP_READ, 0)], [0, 0]);
});

Deno.test("a ring that the new reactor cannot open is taken back by the old one", async () => {
  await using memory = await openMemoryDisk();
  const refusing = new URL("./modules/refusing.ts", import.meta.url).href;
  const disk: Disk = {
    properties: memory.properties,
    description: "refused elsewhere",
    attachment: (lane) => memory.attachment(lane),
    reattach: () => ({ module: refusing }),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  await using rig = await TwoReactors.open(new Bench(2), disk);
  const stopped = rig.queue.stopped.then(() => "stopped");
  assertStayed(await rig.move(1), /./);
  assertEquals([rig.queue.reactor, await rig.guest.request(OP_READ, 0)], [0, 0]);
  assertEquals(await Promise.race([stopped, Promise.resolve("serving")]), "serving");
});

const HALF_MOVED = new URL("./half_moved_worker.ts", import.meta.url);

Deno.test("a ring that the new reactor has not begun to open when it dies is taken back by the old one", async () => {
  await using rig = await TwoReactors.open(new Bench(2, undefined, HALF_MOVED), undefined, "dies before");
  assertStayed(await rig.move(1), /a defect/);
  assertEquals([rig.queue.reactor, await rig.guest.request(OP_READ, 0)], [0, 0]);
  await rig.queue.close();
});

Deno.test("a ring that the new reactor may have served when it died is stopped like its other rings", async () => {
  await using rig = await TwoReactors.open(new Bench(2, undefined, HALF_MOVED), undefined, "dies begun");
  assertStayed(await rig.move(1), /a defect/);
  assertMatch(await rig.queue.stopped, /a defect/);
  await rig.queue.close();
});

Deno.test("a queue that is closed while it moves is closed wherever it is, and one that grows takes its new end along", async () => {
  const real = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
  let { properties } = real;
  const disk: Disk = {
    get properties() {
      return properties;
    },
    description: "growing",
    attachment: (lane) => real.attachment(lane),
    reattach: (attachment) => attachment,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  await using rig = await TwoReactors.open(new Bench(2), disk);
  assertEquals(await rig.guest.request(OP_READ, 0, 2048), -1);
  const moving = rig.move(1);
  await Promise.resolve();
  properties = { ...properties, sectors: 2056 };
  await Promise.all([moving, rig.queue.grow(2056)]);
  assertEquals([(await moving).moved, await rig.guest.request(OP_READ, 0, 2048)], [true, 0]);
  const before = machineUsage(rig.bench.machine).mappedPages;
  const [result] = await Promise.all([rig.move(0), rig.queue.close()]);
  assertEquals(typeof result.moved, "boolean");
  assertEquals(machineUsage(rig.bench.machine).mappedPages, before - 1);
  assertStayed(await rig.move(0), /no such/);
});

Deno.test("a data plane that ends while a queue moves releases it", async () => {
  const rig = await TwoReactors.open();
  const moving = rig.move(1);
  await rig[Symbol.asyncDispose]();
  await moving;
  assertEquals(machineUsage(rig.bench.machine).mappedPages, 0);
});

Deno.test("a queue does not move to a reactor that has not started, which then starts as ever", async () => {
  await using bench = new Bench(2);
  await using disk = await openMemoryDisk();
  using guest = new Guest(bench.machine, 3 as DomId);
  using other = new Guest(bench.machine, 4 as DomId);
  const queue = await bench.plane.openQueue(guest.spec(disk));
  const opening = bench.plane.openQueue(other.spec(disk));
  assertStayed(await bench.plane.move(queue, 1), /not alike/);
  assertEquals([(await opening).reactor, await other.request(OP_READ, 0)], [1, 0]);
  assertEquals((await bench.plane.move(queue, 1)).moved, true);
});

Deno.test("writes go on in the order of the ring across a move", async () => {
  await using rig = await TwoReactors.open();
  for (let round = 0; round < 20; round++) {
    rig.guest.data.view.fill(round, 0, 4096);
    const [status, result] = await Promise.all([rig.guest.request(OP_WRITE, 0), rig.move((round + 1) % 2)]);
    assertEquals([status, result.moved], [0, true]);
    assertEquals(await rig.guest.request(OP_READ, 1), 0);
    assertEquals(rig.guest.data.view[4096], round);
  }
});
