/**
 * Limits of a disk that two guests' worth of requests wait for: how many are answered in each second after the limits were
 * set, over rings of two reactors that share the limits, on a clock of the test's own.
 */

import { assert, assertEquals, assertGreater } from "@std/assert";
import { ABIS, OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { DomId, Parker } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { nullAttachment, openChannel } from "../../lib/storage/engine/null.ts";
import { DiskLimits } from "../../lib/storage/filter/limits.ts";
import { assertNoAllocation } from "../heap.ts";

const BACKEND = 0 as DomId;
const GUEST = 5 as DomId;
const PAGE_BYTES = 4096;
const SECOND_MS = 1000;
/** Time that passes while there is always work. */
const WORK_MS = 0.5;
/** The reactor's, after the guest has filled its ring: it looks at events in one of four. */
const TURNS = 6;

/** One ring on a reactor of its own, kept full by its guest. */
class FullRing implements Disposable {
  readonly reactor: Reactor;
  answered = 0;
  /** The reactor has given it up. */
  isOver = false;
  /** What the reactor has asked for when it last wanted to sleep; -1: no end. */
  sleepMs = 0;
  readonly #front: FrontRing;
  readonly #notify: () => void;
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  readonly #owned = new DisposableStack();

  constructor(machine: SharedArrayBuffer, limits: DiskLimits, clock: { nowMs: number }, rings: number) {
    const guest = openSimulatedPlatform(machine, GUEST);
    const shares = this.#owned.use(guest.openGrantShares());
    const events = this.#owned.use(guest.openEventChannels(BACKEND));
    const ring = shares.share(BACKEND, 1, true);
    this.#front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
    this.#fields.operation = OP_READ;
    this.#fields.segmentCount = 1;
    this.#fields.grefs[0] = shares.share(BACKEND, 1, true).refs[0]!;
    this.#fields.lastSectors[0] = 7;
    const eventChannel = events.bindUnbound(BACKEND);
    this.#notify = () => events.notify(eventChannel);
    const platform = Object.assign(openSimulatedPlatform(machine, BACKEND), { now: () => clock.nowMs });
    platform.readClock = (into, index): void => void (into[index] = clock.nowMs);
    const parker: Parker = {
      watch: () => {},
      unwatch: () => {},
      park: (timeoutMs) => void (this.sleepMs = timeoutMs),
      submit: () => {},
      [Symbol.dispose]: () => {},
    };
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const over = (): void => void (this.isOver = true);
    const host = { closed: over, released: over, stopped: fail, warn: fail, debug: fail };
    const open = {
      openChannel: (_: unknown, options: Parameters<typeof openChannel>[1]) => openChannel(nullAttachment(), options),
    };
    this.reactor = this.#owned.use(new Reactor(platform, parker, host, open));
    this.reactor.open(1, {
      label: "test",
      guest: GUEST,
      ringRefs: ring.refs,
      eventChannel,
      abi: "x86_64-abi",
      attachment: nullAttachment(),
      properties: { sectors: 1024, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
      grants: "copy",
      stats: createStats(),
      throttle: limits.memory,
      busyQueues: rings,
    });
  }

  /** From now on the guest writes. */
  write(): void {
    this.#fields.operation = OP_WRITE;
  }

  /** The guest fills its ring, and takes what the reactor answers in a few turns. */
  work(fills = true): void {
    const free = fills ? this.#front.free() : 0;
    for (let i = 0; i < free; i++) this.#front.putRequest(this.#fields);
    if (free > 0 && this.#front.push()) this.#notify();
    this.sleepMs = 0;
    for (let turn = 0; turn < TURNS; turn++) if (!this.reactor.turn()) this.reactor.sleep(-1);
    const count = this.#front.unconsumedResponses();
    for (let i = 0; i < count; i++) this.#front.takeResponse(this.#response);
    this.#front.finalCheck();
    this.answered += count;
    if (count > 0) this.sleepMs = 0; // the guest has more to do
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/** A disk with several rings. */
class LimitedDisk implements Disposable {
  readonly limits = new DiskLimits();
  readonly rings: readonly FullRing[];
  /** Rings whose guest has nothing to do. */
  idle: ReadonlySet<FullRing> = new Set();
  readonly #clock = { nowMs: 5_000 };
  #steps = 0;

  constructor(rings = 2) {
    const machine = createMachine({ memoryBytes: 32 * 2 ** 20 });
    this.rings = Array.from({ length: rings }, () => new FullRing(machine, this.limits, this.#clock, rings));
  }

  /** What each ring is answered in the next second. */
  second(): number[] {
    const before = this.rings.map(({ answered }) => answered);
    for (const endMs = this.#clock.nowMs + SECOND_MS; this.#clock.nowMs < endMs;) {
      // Each has a thread of its own, so none is always the first.
      const first = ++this.#steps % this.rings.length;
      for (const ring of [...this.rings.slice(first), ...this.rings.slice(0, first)]) ring.work(!this.idle.has(ring));
      const sleepMs = Math.min(...this.rings.map(({ sleepMs }) => sleepMs));
      this.pass(Math.min(endMs - this.#clock.nowMs, Math.max(WORK_MS, sleepMs)));
    }
    return this.rings.map(({ answered }, i) => answered - before[i]!);
  }

  /** Time passes. */
  pass(ms: number): void {
    this.#clock.nowMs += ms;
  }

  [Symbol.dispose](): void {
    this.limits.end();
    for (const ring of this.rings) {
      ring.work(false);
      ring[Symbol.dispose]();
    }
  }
}

/** Within 5 %. */
function assertNearly(actual: number, expected: number, what: string): void {
  assert(Math.abs(actual - expected) <= expected / 20, `${what}: ${actual}, not ${expected}`);
}

const sum = (numbers: readonly number[]): number => numbers.reduce((one, other) => one + other, 0);

Deno.test("a limit of 500 requests per second holds within 5 % from the second on in which it is set, over two rings", () => {
  using disk = new LimitedDisk();
  assertGreater(sum(disk.second()), 20_000, "without limits");
  disk.limits.set({ iops: 500 });
  for (let second = 1; second <= 5; second++) {
    const answered = disk.second();
    assertNearly(sum(answered), 500, `second ${second}`);
    for (const ring of answered) assertGreater(ring, 150, "both rings get their turns");
  }
  disk.limits.set({ iops: 2000 });
  assertNearly(sum(disk.second()), 2000, "raised");
  disk.limits.set({ iops: 100 });
  assertNearly(sum(disk.second()), 100, "lowered");
  disk.limits.set({ iops: 0 });
  assertGreater(sum(disk.second()), 20_000, "without limits again");
});

Deno.test("four rings get a quarter each of what the disk may, also where limits are high and rings come and go", () => {
  using disk = new LimitedDisk(4);
  for (const iops of [500, 40_000]) {
    disk.limits.set({ iops });
    for (let second = 1; second <= 3; second++) {
      const answered = disk.second();
      assertNearly(sum(answered), iops, `second ${second}`);
      for (const ring of answered) assert(Math.abs(ring - iops / 4) <= iops / 20, `${answered} in second ${second}`);
    }
  }
  disk.limits.set({ iops: 500 });
  disk.second();
  disk.idle = new Set(disk.rings.slice(1));
  assertNearly(sum(disk.second()), 500, "one alone gets what the others leave");
  disk.idle = new Set();
  assertNearly(sum(disk.second()), 500, "and the others find their share again");
});

Deno.test("limits of reads and of writes hold for rings that read beside rings that write", () => {
  using disk = new LimitedDisk(4);
  disk.rings.slice(2).forEach((ring) => ring.write());
  disk.limits.set({ readIops: 700, writeBytesPerSecond: 300 * PAGE_BYTES });
  for (let second = 1; second <= 3; second++) {
    const answered = disk.second();
    assertNearly(sum(answered.slice(0, 2)), 700, `reads in second ${second}`);
    assertNearly(sum(answered.slice(2)), 300, `writes in second ${second}`);
  }
  disk.limits.set({ readIops: 0 });
  const answered = disk.second();
  assertGreater(sum(answered.slice(0, 2)), 20_000, "reads have no limit any more");
  assertNearly(sum(answered.slice(2)), 300, "writes");
});

Deno.test("what rings have in advance adds no more than a 32nd to a burst", () => {
  using disk = new LimitedDisk(4);
  const burst = 3200;
  disk.limits.set({ iops: 20_000, iopsBurst: burst });
  disk.second();
  disk.idle = new Set(disk.rings);
  disk.second();
  disk.idle = new Set();
  const before = sum(disk.rings.map(({ answered }) => answered));
  for (let i = 0; i < 100; i++) for (const ring of disk.rings) ring.work();
  const answered = sum(disk.rings.map(({ answered }) => answered)) - before;
  assert(answered >= burst && answered <= burst * (1 + 1 / 32) + 1, `${answered} at once`);
});

Deno.test("a limit of bytes holds likewise, alone and beside one of requests", () => {
  using disk = new LimitedDisk();
  disk.second();
  disk.limits.set({ bytesPerSecond: 800 * PAGE_BYTES });
  for (let second = 1; second <= 3; second++) assertNearly(sum(disk.second()), 800, `second ${second}`);
  disk.limits.set({ iops: 300 });
  assertNearly(sum(disk.second()), 300, "the lower one counts");
});

Deno.test("a ring that waits for its limits leaves its reactor, or is closed, without waiting", () => {
  for (const give of [(ring: FullRing) => ring.reactor.close(1), (ring: FullRing) => void ring.reactor.release(1)]) {
    using disk = new LimitedDisk();
    disk.limits.set({ iops: 1 });
    const [ring, other] = disk.rings as [FullRing, FullRing];
    for (const each of disk.rings) each.work();
    assertEquals([ring.answered, ring.isOver], [0, false]);
    give(ring);
    ring.work(false);
    assertEquals([ring.answered, ring.isOver, other.answered], [32, true, 0]);
    disk.pass(20 * SECOND_MS);
    other.work();
    assertEquals(other.answered, 1, "the other ring pays for that, but for the one that was in line before");
  }
});

Deno.test("rings whose disk has limits that are never reached allocate nothing per request", () => {
  using disk = new LimitedDisk();
  disk.limits.set({ iops: 1e9, bytesPerSecond: 2 ** 50 });
  const ring = disk.rings[0]!;
  assertNoAllocation(60_000, (requests) => {
    for (const end = ring.answered + requests; ring.answered < end; ring.work()) disk.pass(WORK_MS);
  });
});
