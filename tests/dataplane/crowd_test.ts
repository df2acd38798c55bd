/**
 * What idle rings cost a busy one on the same reactor: nothing. Counted are looks at their queues, calls of their channels,
 * and asking their guests for events, while one ring has requests.
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { Queue } from "../../lib/dataplane/queue.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { DomId, EventChannels, Parker, Platform, Wakeable } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import { nullAttachment, openChannel as openNull } from "../../lib/storage/engine/null.ts";
import { assertNoAllocation } from "../heap.ts";

const BACKEND = 0 as DomId;
const IDLE_RINGS = 500;
const RINGS_PER_GUEST = 5;
/** The busy ring is that of the last guest. */
const GUESTS = IDLE_RINGS / RINGS_PER_GUEST + 1;
/** The busy ring's number. */
const BUSY = IDLE_RINGS;
/** Until light rings that had requests are not looked at any more, and rings that were polled. */
const SETTLING = 2000;
const MEASURED = 200;

/** A guest's ring. */
interface Ring {
  readonly front: FrontRing;
  readonly page: number;
  readonly notify: () => void;
}

/** Counts all uses of queues while it is there. */
class QueueLooks implements Disposable {
  readonly byQueue = new Map<Queue, number>();
  readonly #owned = new DisposableStack();

  constructor() {
    for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(Queue.prototype))) {
      const count = (queue: Queue): void => void this.byQueue.set(queue, (this.byQueue.get(queue) ?? 0) + 1);
      const { get, value } = property;
      if (name === "constructor" || (get === undefined && typeof value !== "function")) continue;
      const counting: PropertyDescriptor = { ...property };
      if (get !== undefined) {
        counting.get = function (this: Queue): unknown {
          count(this);
          return get.call(this);
        };
      } else {
        counting.value = function (this: Queue, ...parameters: unknown[]): unknown {
          count(this);
          return value.apply(this, parameters);
        };
      }
      Object.defineProperty(Queue.prototype, name, counting);
      this.#owned.defer(() => Object.defineProperty(Queue.prototype, name, property));
    }
  }

  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/** Many rings on one reactor, over disks that do nothing, with a parker that reports events as io_uring's does. */
class Crowd implements Disposable {
  readonly reactor: Reactor;
  readonly rings: Ring[] = [];
  /** By ring: calls of its channel. */
  readonly channelCalls: number[] = [];
  /** By domain: how often it was asked for events. */
  readonly takes: number[] = [];
  closed = 0;
  /** Virtual time. In a reactor that polls each look at the clock takes some. */
  #nowMs = 1;
  /** So many of these are to be reported. */
  readonly #fired: Wakeable[] = [];
  #firedCount = 0;
  readonly #sources = new Map<number, Wakeable>();
  readonly #fds: number[] = [];
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  readonly #owned = new DisposableStack();

  constructor(mostPollMs = 0) {
    const machine = createMachine({ domains: GUESTS + 1, grantsPerDomain: 2048, memoryBytes: IDLE_RINGS * 2 ** 21 });
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const host = { closed: () => void this.closed++, stopped: fail, warn: fail, debug: fail };
    const openChannel = (_: unknown, options: ChannelOptions): IoChannel => this.#counting(options);
    const platform = this.#platform(machine, mostPollMs === 0 ? () => 1 : () => this.#nowMs += 0.001);
    this.reactor = new Reactor(platform, this.#parker(), host, { openChannel, mostPollMs });
    for (let guest = 1; guest < GUESTS; guest++) this.#connect(machine, guest as DomId, RINGS_PER_GUEST);
    this.#connect(machine, GUESTS as DomId, 1);
    this.settle();
  }

  /** Turns until there is nothing to do, and the reactor sleeps. */
  settle(): void {
    for (let round = 0; round < 4; round++) {
      while (this.reactor.turn()) { /* there is more */ }
      this.reactor.sleep(-1);
    }
  }

  /** A request that comes when there is nothing to do, and its answer. */
  exchange(ring: number): void {
    while (this.reactor.turn()) { /* there is more */ }
    this.request(ring, 1, 1);
    this.reactor.sleep(-1);
    while (this.answers(ring) === 0) if (!this.reactor.turn()) this.reactor.sleep(-1);
    this.takeAnswers(ring);
  }

  request(ring: number, segments: number, count: number): void {
    const { front, page, notify } = this.rings[ring]!;
    const fields = this.#fields;
    fields.operation = OP_READ;
    fields.segmentCount = segments;
    fields.grefs.fill(page);
    fields.lastSectors.fill(7);
    for (let i = 0; i < count; i++) front.putRequest(fields);
    if (front.push()) notify();
  }

  answers(ring: number): number {
    return this.rings[ring]!.front.unconsumedResponses();
  }

  takeAnswers(ring: number): void {
    const { front } = this.rings[ring]!;
    for (let count = front.unconsumedResponses(); count > 0; count--) front.takeResponse(this.#response);
    front.finalCheck();
  }

  #platform(machine: SharedArrayBuffer, now: () => number): Platform {
    const platform = openSimulatedPlatform(machine, BACKEND);
    platform.now = now;
    platform.readClock = (into, index): void => void (into[index] = 1);
    const open = platform.openEventChannels.bind(platform);
    platform.openEventChannels = (domain): EventChannels => {
      const channels = open(domain);
      const take = channels.take.bind(channels);
      this.takes[domain] = 0;
      this.#fds[domain] = channels.fd;
      channels.take = (ports): number => {
        this.takes[domain]!++;
        return take(ports);
      };
      channels.setWatched = (): void => {};
      return channels;
    };
    return platform;
  }

  #parker(): Parker {
    const report = (): void => {
      while (this.#firedCount > 0) this.#fired[--this.#firedCount]!.fired();
    };
    return {
      watch: (source) => {
        this.#sources.set(source.fd, source);
        source.setWatched?.(true);
      },
      unwatch: (source) => void this.#sources.delete(source.fd),
      park: report,
      submit: report,
      [Symbol.dispose]: () => {},
    };
  }

  #counting(options: ChannelOptions): IoChannel {
    const ring = this.channelCalls.push(0) - 1;
    const channel = openNull(nullAttachment(), options);
    const reap = channel.reap.bind(channel);
    const submit = channel.submit.bind(channel);
    channel.reap = (): number => {
      this.channelCalls[ring]!++;
      return reap();
    };
    channel.submit = (): void => {
      this.channelCalls[ring]!++;
      submit();
    };
    return channel;
  }

  #connect(machine: SharedArrayBuffer, domain: DomId, rings: number): void {
    const guest = openSimulatedPlatform(machine, domain);
    const shares = this.#owned.use(guest.openGrantShares());
    const events = this.#owned.use(guest.openEventChannels(BACKEND));
    const page = shares.share(BACKEND, 1, true).refs[0]!;
    for (let i = 0; i < rings; i++) {
      const ring = shares.share(BACKEND, 1, true);
      const eventChannel = events.bindUnbound(BACKEND);
      const notify = (): void => {
        events.notify(eventChannel);
        this.#fired[this.#firedCount++] = this.#sources.get(this.#fds[domain]!)!;
      };
      const id = this.rings.push({ front: FrontRing.initialise(ring.view, ABIS["x86_64-abi"]), page, notify }) - 1;
      this.reactor.open(id, {
        label: `domain ${domain}`,
        guest: domain,
        ringRefs: ring.refs,
        eventChannel,
        abi: "x86_64-abi",
        attachment: nullAttachment(),
        properties: { sectors: 1024, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
        grants: "copy",
        stats: createStats(),
      });
    }
  }

  [Symbol.dispose](): void {
    this.reactor[Symbol.dispose]();
    this.#owned.dispose();
  }
}

/** Asserts that `run` costs the rings other than `busy`, and their guests, nothing. */
function assertIdleCostNothing(crowd: Crowd, busy: readonly number[], run: () => void): void {
  const calls = [...crowd.channelCalls];
  const takes = [...crowd.takes];
  using looks = new QueueLooks();
  run();
  const guests = new Set(busy.map((ring) => Math.floor(ring / RINGS_PER_GUEST) + 1));
  const sum = (counts: readonly number[]): number => counts.reduce((total, count) => total + count, 0);
  assertEquals({
    looksAtQueues: sum([...looks.byQueue.values()].toSorted((one, other) => other - one).slice(busy.length)),
    callsOfChannels: sum(crowd.channelCalls.map((count, ring) => busy.includes(ring) ? 0 : count - calls[ring]!)),
    takesOfEvents: sum(crowd.takes.map((count, domain) => guests.has(domain) ? 0 : count - takes[domain]!)),
  }, { looksAtQueues: 0, callsOfChannels: 0, takesOfEvents: 0 });
}

for (const [name, mostPollMs] of [["that sleeps", 0], ["that polls", 0.02]] as const) {
  Deno.test(`500 idle rings cost a ring with a request at a time nothing, in a reactor ${name}`, () => {
    using crowd = new Crowd(mostPollMs);
    // All of them have had requests before.
    for (let ring = 0; ring <= BUSY; ring++) crowd.exchange(ring);
    for (let request = 0; request < SETTLING; request++) crowd.exchange(BUSY);
    assertIdleCostNothing(crowd, [BUSY], () => {
      for (let request = 0; request < MEASURED; request++) crowd.exchange(BUSY);
    });
  });
}

Deno.test("500 idle rings cost a full ring of large requests, and a light one beside it, nothing", () => {
  using crowd = new Crowd();
  for (let ring = 0; ring <= BUSY; ring++) crowd.exchange(ring);
  const light = BUSY - 1;
  const run = (rounds: number): void => {
    for (let round = 0; round < rounds; round++) {
      crowd.request(BUSY, 11, crowd.rings[BUSY]!.front.free());
      if (crowd.rings[light]!.front.free() > 30) crowd.request(light, 1, 1);
      for (let turn = 0; turn < 4; turn++) crowd.reactor.turn();
      crowd.takeAnswers(BUSY);
      crowd.takeAnswers(light);
    }
  };
  run(SETTLING);
  assertIdleCostNothing(crowd, [light, BUSY], () => run(MEASURED));
  crowd.settle();
});

Deno.test("a ring that was idle is served as soon as it has an event, wherever it stands among 500", () => {
  using crowd = new Crowd();
  for (const ring of [0, 31, 32, 255, 256, 499, BUSY]) {
    crowd.exchange(ring);
    // While another one is busy, too.
    crowd.request(BUSY, 11, crowd.rings[BUSY]!.front.free());
    crowd.request(ring, 1, ring === BUSY ? 0 : 1);
    for (let turns = 0; crowd.answers(ring) === 0; turns++) {
      crowd.reactor.turn();
      assertLess(turns, 20);
    }
    crowd.settle();
    crowd.takeAnswers(BUSY);
    crowd.takeAnswers(ring);
  }
});

Deno.test("idle rings are closed and let go, and the others keep their places", () => {
  using crowd = new Crowd();
  for (let ring = 0; ring < BUSY; ring += 3) crowd.reactor.close(ring);
  crowd.settle();
  const { closed } = crowd;
  assertEquals([closed, crowd.reactor.queues], [Math.ceil(BUSY / 3), crowd.rings.length - closed]);
  for (let ring = 1; ring < BUSY; ring += 3) {
    assert(crowd.reactor.release(ring));
    assert(crowd.reactor.keep(ring));
  }
  for (let ring = 0; ring <= BUSY; ring++) if (ring % 3 !== 0 || ring === BUSY) crowd.exchange(ring);
});

Deno.test("a busy ring beside 500 idle ones allocates nothing per request", () => {
  using crowd = new Crowd();
  assertNoAllocation(5000, (requests) => {
    for (let request = 0; request < requests; request++) crowd.exchange(BUSY);
  });
});
