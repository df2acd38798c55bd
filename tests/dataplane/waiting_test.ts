/**
 * What a reactor sleeps for besides events and wakes: a descriptor that a channel watches, made readable by another
 * thread, and the time at which a channel is due. Neither costs anything where there is nothing to wait for.
 */

import "../ffi/libraries.ts";
import { assert, assertEquals, assertLess } from "@std/assert";
import { createEventfd, lowerEventfd, raiseEventfd } from "../../ffi/linux/eventfd.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { openNativePlatform } from "../../ffi/platform.ts";
import { UringEngine } from "../../ffi/uring/engine.ts";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import { sharedNow } from "../../lib/clock.ts";
import type { DomId, Parker, Platform, Wakeable, WakeToken } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import type { RaisingOrders } from "./raising_worker.ts";
import { assertNoAllocation } from "../heap.ts";

const GUEST = 5 as DomId;
const BACKEND = 0 as DomId;
/** A sleep that nothing ends lasts so long, and then the test fails. */
const PATIENCE_MS = 10_000;
const MIB = 2 ** 20;

/** A channel with operations that complete when the test's own rule says so. */
class WaitingChannel implements IoChannel {
  readonly tags: Uint32Array;
  readonly results: Int32Array;
  inFlight = 0;
  visits = 0;
  /** Called with the number of operations that wait, when they are submitted. */
  submitted = (_waiting: number): void => {};
  /** How many of them are done. */
  done = (): number => 0;

  constructor({ depth }: ChannelOptions) {
    this.tags = new Uint32Array(depth);
    this.results = new Int32Array(depth);
  }

  read(tag: number): void {
    this.tags[this.inFlight++] = tag;
  }

  write(tag: number): void {
    this.read(tag);
  }

  flush(tag: number): void {
    this.read(tag);
  }

  discard(tag: number): void {
    this.read(tag);
  }

  submit(): void {
    if (this.inFlight > 0) this.submitted(this.inFlight);
  }

  /** All or none. */
  reap(): number {
    this.visits++;
    const count = this.done();
    this.inFlight -= count;
    return count;
  }

  [Symbol.dispose](): void {}
}

/** One that names the time at which it is due. */
class TimedChannel extends WaitingChannel {
  dueMs = Infinity;
}

/** A guest's ring and the reactor that serves it, on one thread. */
class Rig<C extends WaitingChannel> implements Disposable {
  readonly reactor: Reactor;
  readonly channel: C;
  responses = 0;
  readonly #front: FrontRing;
  readonly #page: number;
  readonly #notify: () => void;
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  readonly #owned = new DisposableStack();

  constructor(
    open: (options: ChannelOptions) => C,
    sleeping: {
      parker: (platform: Platform) => Parker;
      now?: () => number;
      readClock?: Platform["readClock"];
      eventsFd?: number;
    },
  ) {
    const machine = createMachine({ memoryBytes: 16 * MIB });
    const guest = openSimulatedPlatform(machine, GUEST);
    const shares = this.#owned.use(guest.openGrantShares());
    const events = this.#owned.use(guest.openEventChannels(BACKEND));
    const ring = shares.share(BACKEND, 1, true);
    this.#front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
    this.#page = shares.share(BACKEND, 1, true).refs[0]!;
    const platform = openSimulatedPlatform(machine, BACKEND);
    const { now, readClock, eventsFd } = sleeping;
    Object.assign(platform, now && { now }, readClock && { readClock });
    if (eventsFd !== undefined) {
      const openEvents = platform.openEventChannels.bind(platform);
      platform.openEventChannels = (other) => Object.defineProperty(openEvents(other), "fd", { value: eventsFd });
    }
    const parker = this.#owned.use(sleeping.parker(platform));
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const host = { closed: fail, stopped: fail, warn: fail, debug: fail };
    let channel: C | undefined;
    const openChannel = (_: unknown, options: ChannelOptions): IoChannel => channel = open(options);
    this.reactor = this.#owned.use(new Reactor(platform, parker, host, { openChannel }));
    const eventChannel = events.bindUnbound(BACKEND);
    this.#notify = () => events.notify(eventChannel);
    this.reactor.open(1, {
      label: "test",
      guest: GUEST,
      ringRefs: ring.refs,
      eventChannel,
      abi: "x86_64-abi",
      attachment: { module: "the test's own" },
      properties: { sectors: 1024, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: true },
      grants: "copy",
      stats: createStats(),
    });
    this.channel = channel!;
    this.run();
  }

  /** A read of one page. */
  request(): void {
    const fields = this.#fields;
    fields.operation = OP_READ;
    fields.segmentCount = 1;
    fields.grefs[0] = this.#page;
    fields.lastSectors[0] = 7;
    this.#front.putRequest(fields);
    if (this.#front.push()) this.#notify();
  }

  /** Turns until the reactor has looked at its events, and may sleep. */
  run(): void {
    for (let turns = 0; this.reactor.turn() || turns < 4; turns++) { /* there is more to do */ }
    for (let count = this.#front.unconsumedResponses(); count > 0; count--) {
      this.#front.takeResponse(this.#response);
      this.responses++;
    }
    this.#front.finalCheck();
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/** A reactor on a clock of the test's, which notes how long it wanted to sleep. */
function timedRig(open: (options: ChannelOptions) => TimedChannel): {
  readonly rig: Rig<TimedChannel>;
  readonly clock: { nowMs: number };
  readonly sleep: () => number;
} {
  const clock = { nowMs: 1000 };
  const parks: number[] = [];
  const parker: Parker = {
    watch: () => {},
    unwatch: () => {},
    park: (timeoutMs) => void parks.push(timeoutMs),
    [Symbol.dispose]: () => {},
  };
  const rig = new Rig(open, { parker: () => parker, now: () => clock.nowMs });
  const sleep = (): number => {
    rig.reactor.sleep(-1);
    return parks.pop() ?? 0;
  };
  return { rig, clock, sleep };
}

Deno.test("a channel that is due bounds the sleep, and is visited at its time and not before", () => {
  const { rig, clock, sleep } = timedRig((options) => new TimedChannel(options));
  using _ = rig;
  const { channel } = rig;
  channel.submitted = (): void => void (channel.dueMs = Math.min(channel.dueMs, clock.nowMs + 40));
  channel.done = (): number => {
    if (clock.nowMs < channel.dueMs) return 0;
    channel.dueMs = Infinity;
    return channel.inFlight;
  };
  assertEquals(sleep(), -1, "nothing is due");
  rig.request();
  rig.run();
  assertEquals([sleep(), rig.responses], [40, 0]);
  clock.nowMs += 15.5;
  rig.run();
  assertEquals([sleep(), rig.responses], [24.5, 0], "woken by something else");
  clock.nowMs += 24.5;
  assertEquals(sleep(), 0, "it is due: no sleep at all");
  rig.run();
  assertEquals([sleep(), rig.responses], [-1, 1]);
});

Deno.test("a channel that is due without any request is visited, too; one that is not due costs no visit", () => {
  const { rig, clock, sleep } = timedRig((options) => new TimedChannel(options));
  using _ = rig;
  const { channel } = rig;
  rig.run();
  const { visits } = channel;
  for (let round = 0; round < 10; round++) {
    rig.run();
    assertEquals(sleep(), -1);
  }
  assertEquals(channel.visits, visits);
  channel.dueMs = clock.nowMs + 5;
  assertEquals([sleep(), channel.visits], [5, visits]);
  clock.nowMs += 5;
  channel.done = (): number => {
    channel.dueMs = Infinity;
    return 0;
  };
  rig.run();
  assertEquals([sleep(), channel.visits > visits], [-1, true]);
});

Deno.test("a reactor that always has work visits a channel that is due as well", () => {
  const { rig, clock } = timedRig((options) => new TimedChannel(options));
  using _ = rig;
  rig.channel.dueMs = clock.nowMs;
  const { visits } = rig.channel;
  for (let turn = 0; turn < 4; turn++) rig.reactor.turn();
  assert(rig.channel.visits > visits);
});

Deno.test("a channel that names no number, or a time that stays in the past, does not keep its reactor awake", () => {
  const { rig, clock, sleep } = timedRig((options) => new TimedChannel(options));
  using _ = rig;
  for (const [dueMs, timeoutMs] of [[NaN, -1], [-Infinity, 1], [clock.nowMs - 5, 1]] as const) {
    rig.channel.dueMs = dueMs;
    const { visits } = rig.channel;
    rig.run();
    assertEquals([sleep(), rig.channel.visits > visits], [timeoutMs, timeoutMs > 0]);
    clock.nowMs += 1;
    if (timeoutMs > 0) assertEquals(sleep(), 0, "it is looked at again");
  }
});

Deno.test("a sleeping reactor wakes at the time at which a channel is due", () => {
  using undo = new DisposableStack();
  using rig = new Rig((options) => new TimedChannel(options), {
    parker: (platform) => platform.openParker(undo.use(platform.createWakeToken())),
  });
  const { channel } = rig;
  channel.dueMs = sharedNow() + 20;
  const { visits } = channel;
  let sleeps = 0;
  for (; channel.visits === visits; sleeps++) {
    rig.reactor.sleep(-1);
    rig.run();
  }
  assert(sharedNow() >= channel.dueMs);
  assertLess(sleeps, 5);
});

/** A reactor that sleeps as the real platform does, and a channel whose operations end with a readable descriptor. */
class DescriptorRig implements Disposable {
  readonly token: WakeToken & Disposable;
  readonly parker: Parker;
  readonly fd: number;
  readonly rig: Rig<WaitingChannel>;
  fired = 0;
  readonly #owned = new DisposableStack();

  constructor(withIo: boolean) {
    const native = openNativePlatform();
    this.token = this.#owned.use(native.createWakeToken());
    const descriptor = (): number => this.#owned.adopt(createEventfd(), (fd) => void libc().close(fd));
    const eventsFd = descriptor();
    this.fd = descriptor();
    this.parker = native.openParker(this.token, { withIo });
    assertEquals(this.parker instanceof UringEngine, withIo);
    this.rig = this.#owned.use(
      new Rig((options) => new WaitingChannel(options), {
        parker: () => this.parker,
        readClock: native.readClock.bind(native),
        eventsFd,
      }),
    );
    const { channel } = this.rig;
    let done = 0;
    const source: Wakeable = {
      fd: this.fd,
      fired: () => {
        lowerEventfd(this.fd);
        this.fired++;
        done = channel.inFlight;
      },
    };
    channel.done = (): number => {
      const count = done;
      done = 0;
      return count;
    };
    this.parker.watch(source);
    this.#owned.defer(() => this.parker.unwatch(source));
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

for (const [way, withIo] of [["poll", false], ["io_uring", true]] as const) {
  Deno.test(`${way}: a channel whose I/O ends with a descriptor, raised by another thread, wakes its reactor`, async () => {
    using bench = new DescriptorRig(withIo);
    const { rig, fd, token } = bench;
    const asked = new Int32Array(new SharedArrayBuffer(4));
    // Once per request, however often the reactor submits meanwhile.
    rig.channel.submitted = (): void => {
      Atomics.store(asked, 0, rig.responses + 1);
      Atomics.notify(asked, 0);
    };
    const worker = new Worker(new URL("./raising_worker.ts", import.meta.url), { type: "module" });
    await new Promise((resolve) => worker.onmessage = resolve);
    worker.postMessage({ fd, asked: asked.buffer as SharedArrayBuffer, sleeper: token.word } satisfies RaisingOrders);
    await new Promise((resolve) => setTimeout(resolve, 0)); // the message leaves
    for (let round = 1; round <= 20; round++) {
      rig.request();
      const began = performance.now();
      for (rig.run(); rig.responses < round; rig.run()) rig.reactor.sleep(PATIENCE_MS);
      assertLess(performance.now() - began, PATIENCE_MS / 2);
      assertEquals(bench.fired, round);
    }
    worker.terminate();
  });

  Deno.test(`${way}: waiting for a descriptor allocates nothing per request`, () => {
    using bench = new DescriptorRig(withIo);
    const { rig, fd } = bench;
    rig.channel.submitted = (): void => raiseEventfd(fd);
    assertNoAllocation(5000, (rounds) => {
      for (let round = 0; round < rounds; round++) {
        rig.request();
        rig.run();
        rig.reactor.sleep(PATIENCE_MS);
      }
    });
    assert(rig.responses > 5000);
  });
}

Deno.test("a channel that names times allocates nothing while it is not due, nor does it cost looks at the clock", () => {
  const parker: Parker = { watch: () => {}, unwatch: () => {}, park: () => {}, [Symbol.dispose]: () => {} };
  let looks = 0;
  const now = (): number => ++looks;
  using rig = new Rig((options) => new TimedChannel(options), { parker: () => parker, now });
  rig.channel.done = (): number => rig.channel.inFlight;
  looks = 0;
  const before = rig.responses;
  assertNoAllocation(5000, (rounds) => {
    for (let round = 0; round < rounds; round++) {
      rig.request();
      rig.run();
      rig.reactor.sleep(-1);
    }
  });
  assertEquals(looks, 2 * (rig.responses - before), "only those that measure each request");
});
