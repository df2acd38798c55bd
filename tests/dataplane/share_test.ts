/**
 * How the rings of one reactor share it: what one pass starts is bounded in bytes, and a ring with little to do is served
 * between the passes of rings with much.
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { ABIS, OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { DomId, Parker } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import { nullAttachment, openChannel as openNull } from "../../lib/storage/engine/null.ts";
import { assertNoAllocation } from "../heap.ts";
import { Rig, type TestRequest } from "./rig.ts";

const MOST_BYTES = 256 * 1024;
const whole = (segments: number): TestRequest["segments"] =>
  Array.from({ length: segments }, (_, page) => [page, 0, 7] as const);

for (const operation of [OP_READ, OP_WRITE]) {
  Deno.test(`a pass starts a bounded number of bytes, and the rest in order, operation ${operation}`, () => {
    using rig = new Rig({ maxIndirectSegments: 256, limits: { sectors: 2048 } });
    for (let i = 0; i < 6; i++) rig.send({ operation, segments: whole(256)!, indirectPage: 300 + i });
    for (let pass = 1; pass <= 6; pass++) {
      assert(rig.queue.step(), "what a pass started may be over already: a disk in memory announces nothing");
      assertEquals(rig.channel.started.length, pass, "one request of 1 MiB in a pass");
    }
    rig.run();
    assertEquals(rig.responses(), Array.from({ length: 6 }, (_, i) => [i + 1, operation, 0]));
  });
}

Deno.test("many small requests start in one pass", () => {
  using rig = new Rig();
  rig.send(...Array.from({ length: 32 }, () => ({ operation: OP_READ, segments: whole(1)! })));
  rig.queue.step();
  assertEquals(rig.channel.started.length, 32);
});

const LARGE_SEGMENTS = 11;
const BACKEND = 0 as DomId;

/** A guest's ring on a shared reactor. */
interface Ring {
  readonly front: FrontRing;
  readonly notify: () => void;
}

/** Rings of several guests on one reactor, over disks that do nothing. */
class Shared implements Disposable {
  readonly reactor: Reactor;
  readonly rings: Ring[] = [];
  /** Bytes that the disks were asked to read so far. */
  started = 0;
  readonly #page: number[] = [];
  readonly #fields = new RequestFields();
  readonly #response = new ResponseFields();
  readonly #owned = new DisposableStack();

  constructor(rings: number) {
    const machine = createMachine({ memoryBytes: 128 * 2 ** 20 });
    const parker: Parker = {
      watch: () => {},
      unwatch: () => {},
      park: () => {},
      submit: () => {},
      [Symbol.dispose]: () => {},
    };
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const host = { closed: fail, stopped: fail, warn: fail, debug: fail };
    const openChannel = (_: unknown, options: ChannelOptions): IoChannel => this.#counting(options);
    const platform = openSimulatedPlatform(machine, BACKEND);
    platform.readClock = (into, index): void => void (into[index] = 1); // a clock that is called returns a number
    this.reactor = new Reactor(platform, parker, host, { openChannel });
    for (let guest = 1; guest <= rings; guest++) this.#connect(machine, guest as DomId);
    while (this.reactor.turn()) { /* until there is nothing to do */ }
  }

  #counting({ vectors, ...rest }: ChannelOptions): IoChannel {
    const channel = openNull(nullAttachment(), { vectors, ...rest });
    const read = channel.read.bind(channel);
    channel.read = (tag, offsetBytes, first, count): void => {
      for (let i = first; i < first + count; i++) this.started += vectors.lengths[i]!;
      read(tag, offsetBytes, first, count);
    };
    return channel;
  }

  #connect(machine: SharedArrayBuffer, domain: DomId): void {
    const guest = openSimulatedPlatform(machine, domain);
    const shares = this.#owned.use(guest.openGrantShares());
    const events = this.#owned.use(guest.openEventChannels(BACKEND));
    const ring = shares.share(BACKEND, 1, true);
    this.#page[domain - 1] = shares.share(BACKEND, 1, true).refs[0]!;
    const eventChannel = events.bindUnbound(BACKEND);
    this.rings.push({
      front: FrontRing.initialise(ring.view, ABIS["x86_64-abi"]),
      notify: () => events.notify(eventChannel),
    });
    this.reactor.open(domain, {
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

  request(ring: number, segments: number, count: number): void {
    const fields = this.#fields;
    fields.operation = OP_READ;
    fields.segmentCount = segments;
    for (let i = 0; i < segments; i++) {
      fields.grefs[i] = this.#page[ring]!;
      fields.lastSectors[i] = 7;
    }
    const { front, notify } = this.rings[ring]!;
    for (let i = 0; i < count; i++) front.putRequest(fields);
    if (front.push()) notify();
  }

  /** Bytes of rings with large requests that were read or delivered so far. */
  get movedByHeavy(): number {
    const answered = this.rings.reduce((sum, _, ring) => ring === 0 ? sum : sum + this.answers(ring), 0);
    return this.started + answered * LARGE_SEGMENTS * 4096;
  }

  /** Takes all responses; the number of them. */
  takeAnswers(ring: number): number {
    const { front } = this.rings[ring]!;
    const count = front.unconsumedResponses();
    for (let i = 0; i < count; i++) front.takeResponse(this.#response);
    front.finalCheck();
    return count;
  }

  free(ring: number): number {
    return this.rings[ring]!.front.free();
  }

  answers(ring: number): number {
    return this.rings[ring]!.front.unconsumedResponses();
  }

  [Symbol.dispose](): void {
    this.reactor[Symbol.dispose]();
    this.#owned.dispose();
  }
}

Deno.test("a ring with one request does not wait for rings that are full of large ones", () => {
  using shared = new Shared(7);
  for (let ring = 1; ring <= 6; ring++) shared.request(ring, LARGE_SEGMENTS, 32); // 1.4 MiB each
  for (let turn = 0; turn < 5; turn++) shared.reactor.turn();
  const before = shared.movedByHeavy;
  shared.request(0, 1, 1);
  while (shared.answers(0) === 0) shared.reactor.turn();
  assertLess(shared.movedByHeavy - before, 3 * MOST_BYTES);
  while (shared.reactor.turn()) { /* until all are answered */ }
  assertEquals(shared.rings.map((_, ring) => shared.answers(ring)), [1, ...Array(6).fill(32)]);
});

Deno.test("rings that share a reactor allocate nothing per request", () => {
  using shared = new Shared(3);
  let answered = 0;
  assertNoAllocation(60_000, (requests) => {
    for (const end = answered + requests; answered < end;) {
      if (shared.free(0) > 0) shared.request(0, 1, 1);
      shared.request(1, 1, shared.free(1));
      shared.request(2, LARGE_SEGMENTS, shared.free(2));
      shared.reactor.turn();
      for (let ring = 0; ring < 3; ring++) answered += shared.takeAnswers(ring);
    }
  });
  while (shared.reactor.turn()) { /* until nothing is in flight */ }
});
