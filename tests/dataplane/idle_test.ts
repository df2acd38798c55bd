/**
 * How a reactor treats kept mappings, with a clock and a parker of the test's: when they are released, and
 * how long the reactor sleeps meanwhile.
 */

import { assertEquals } from "@std/assert";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields } from "../../lib/blkif/front_ring.ts";
import type { OpenRequest } from "../../lib/dataplane/connection.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats, readStats } from "../../lib/dataplane/stats.ts";
import type { DomId, OwnedMemory, Parker } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOpener } from "../../lib/storage/disk.ts";
import { nullAttachment, openChannel as openNull } from "../../lib/storage/engine/null.ts";

const openChannel: ChannelOpener = (_, options) => openNull(nullAttachment(), options);

const GUEST = 5 as DomId;
const PAGES = 300;

/** A reactor with one queue, on the test's own clock. */
class Rig implements Disposable {
  nowMs = 1000;
  /** How long the reactor wanted to sleep each time. */
  readonly parks: number[] = [];
  readonly reactor: Reactor;
  readonly stats = createStats();
  /** How often memory was given back. */
  discards = 0;
  readonly #front: FrontRing;
  readonly #notify: () => void;
  readonly #refs: readonly number[];
  readonly #resources = new DisposableStack();

  constructor(grants: OpenRequest["grants"]) {
    const machine = createMachine({ memoryBytes: 16 * 2 ** 20 });
    const guest = openSimulatedPlatform(machine, GUEST);
    const shares = this.#resources.use(guest.openGrantShares());
    const events = this.#resources.use(guest.openEventChannels(0 as DomId));
    const ring = shares.share(0 as DomId, 1, true);
    this.#front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
    this.#refs = shares.share(0 as DomId, PAGES, true).refs;
    const platform = openSimulatedPlatform(machine, 0);
    platform.now = (): number => this.nowMs;
    const { memory } = platform;
    const allocate = (lengthBytes: number): OwnedMemory =>
      Object.assign(memory.allocate(lengthBytes), { discard: () => void this.discards++ });
    Object.defineProperty(platform, "memory", { value: { allocate, view: memory.view.bind(memory) } });
    const parker: Parker = {
      watch: () => {},
      unwatch: () => {},
      park: (timeoutMs) => void this.parks.push(timeoutMs),
      [Symbol.dispose]: () => {},
    };
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const host = { closed: (): void => {}, stopped: fail, warn: fail, debug: fail };
    this.reactor = new Reactor(platform, parker, host, { openChannel });
    const eventChannel = events.bindUnbound(0 as DomId);
    this.#notify = () => events.notify(eventChannel);
    this.reactor.open(1, {
      label: "test",
      guest: GUEST,
      ringRefs: ring.refs,
      eventChannel,
      abi: "x86_64-abi",
      attachment: nullAttachment(),
      properties: { sectors: 1024, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
      grants,
      stats: this.stats,
    });
  }

  get mapped(): number {
    return readStats(this.stats).persistentGrants;
  }

  /** Reads into some of the guest's pages, one request a page, so many at a time. */
  read(first: number, count: number, together = 16): void {
    const fields = new RequestFields();
    for (let page = first; page < first + count; page++) {
      fields.operation = OP_READ;
      fields.segmentCount = 1;
      fields.grefs[0] = this.#refs[page]!;
      fields.lastSectors[0] = 7;
      this.#front.putRequest(fields);
      if (this.#front.push()) this.#notify();
      if (page % together === together - 1 || page === first + count - 1) this.#serve();
    }
  }

  /** Turns until the reactor sleeps, once. Returns how long it wanted to. */
  sleep(): number {
    const before = this.parks.length;
    while (this.parks.length === before) {
      this.#serve();
      this.reactor.sleep(-1);
    }
    return this.parks.at(-1)!;
  }

  #serve(): void {
    // Events are looked for every few turns.
    for (let turn = 0; turn < 8; turn++) this.reactor.turn();
    const count = this.#front.unconsumedResponses();
    for (let i = 0; i < count; i++) this.#front.takeResponse({ idLow: 0, idHigh: 0, operation: 0, status: 0 });
  }

  [Symbol.dispose](): void {
    this.reactor[Symbol.dispose]();
    this.#resources.dispose();
  }
}

Deno.test("unused pages are released within two rounds; then nothing ends a sleep", () => {
  using rig = new Rig("persistent");
  rig.read(0, PAGES);
  assertEquals(rig.mapped, PAGES);
  assertEquals(rig.sleep(), 30_000);
  rig.nowMs += 12_345.5;
  assertEquals(rig.sleep(), 17_655, "woken early by something else");
  rig.nowMs += 17_655;
  assertEquals([rig.sleep(), rig.mapped], [30_000, PAGES], "the first round: all were used in it");
  rig.read(0, 10);
  rig.nowMs += 30_000;
  assertEquals([rig.sleep(), rig.mapped], [30_000, 10], "the second: what was used since is kept");
  rig.nowMs += 30_000;
  assertEquals([rig.sleep(), rig.mapped], [-1, 0]);
  assertEquals(rig.sleep(), -1);
  rig.read(0, 3);
  assertEquals([rig.sleep(), rig.mapped], [30_000, 3], "and again from the start");
});

Deno.test("a reactor that never sleeps gives idle pages back as well", () => {
  using rig = new Rig("persistent");
  rig.read(0, 100);
  for (let round = 0; round < 3; round++) {
    rig.nowMs += 30_000;
    for (let turn = 0; turn < 3000; turn++) rig.reactor.turn();
  }
  assertEquals(rig.mapped, 0);
});

Deno.test("buffers of a ring that was loaded are given back when it was idle for two rounds, once", () => {
  for (const grants of ["copy", "persistent"] as const) {
    using rig = new Rig(grants);
    rig.read(0, 32, 32);
    assertEquals(rig.sleep(), 30_000);
    rig.nowMs += 30_000;
    assertEquals([rig.sleep(), rig.discards], [30_000, 0], "the first round: they were used in it");
    rig.read(0, 1);
    rig.nowMs += 30_000;
    assertEquals([rig.sleep(), rig.discards], [30_000, 0], "the second: they were used since");
    rig.nowMs += 30_000;
    // In mode persistent nothing was copied: only mappings are released.
    assertEquals([rig.sleep(), rig.discards], [-1, grants === "copy" ? 1 : 0]);
    rig.read(0, 16);
    assertEquals(rig.sleep(), grants === "copy" ? -1 : 30_000, "a few pages are kept");
    rig.read(0, 32, 32);
    assertEquals(rig.sleep(), 30_000, "and again from the start");
  }
});

Deno.test("where no pages are kept, a sleep lasts as long as it may", () => {
  for (const grants of ["copy", "map"] as const) {
    using rig = new Rig(grants);
    rig.read(0, 20);
    assertEquals(rig.sleep(), -1);
    rig.reactor.sleep(70);
    assertEquals(rig.parks.at(-1), 70);
  }
});
