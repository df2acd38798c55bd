/**
 * How a reactor takes the events of a guest that has several rings, shown with a driver that reports its queue only
 * when an event finds it empty, as Linux's does; and what a guest with very many rings or events may use.
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields } from "../../lib/blkif/front_ring.ts";
import type { OpenRequest } from "../../lib/dataplane/connection.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type {
  DomId,
  EventChannels,
  EvtchnPort,
  GrantTable,
  OwnedMemory,
  Parker,
  Platform,
} from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ChannelOpener } from "../../lib/storage/disk.ts";
import { nullAttachment, openChannel as openNull } from "../../lib/storage/engine/null.ts";

const openChannel: ChannelOpener = (_, options) => openNull(nullAttachment(), options);

const GUEST = 5 as DomId;
const DOM0 = 0 as DomId;

/** A guest with some rings, and a driver of event channels that hands out one port at each read. */
class Rig implements Disposable {
  readonly reactor: Reactor;
  parks = 0;
  /** The guest fires as fast as its ports are unmasked. */
  endless = false;
  takes = 0;
  /** By grant-table handle: the rings that were mapped with it. */
  readonly mappedRings: number[] = [];
  readonly #bound: EvtchnPort[] = [];
  /** Ports that fired. */
  readonly #fired: EvtchnPort[] = [];
  readonly #fronts: FrontRing[];
  readonly #page: number;
  readonly #resources = new DisposableStack();

  constructor(rings = 2) {
    const machine = createMachine({ memoryBytes: 128 * 2 ** 20 });
    const guest = openSimulatedPlatform(machine, GUEST);
    const shares = this.#resources.use(guest.openGrantShares());
    const events = this.#resources.use(guest.openEventChannels(DOM0));
    this.#page = shares.share(DOM0, 1, true).refs[0]!;
    const fail = (text: unknown): never => {
      throw new Error(String(text));
    };
    const parker: Parker = {
      watch: () => {},
      unwatch: () => {},
      park: () => void this.parks++,
      [Symbol.dispose]: () => {},
    };
    const host = { closed: fail, stopped: fail, warn: fail, debug: fail };
    this.reactor = new Reactor(this.#platform(openSimulatedPlatform(machine, 0)), parker, host, { openChannel });
    this.#fronts = Array.from({ length: rings }, (_, id) => {
      const ring = shares.share(DOM0, 1, true);
      const front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
      this.reactor.open(id, requestOf(id, ring.refs, events.bindUnbound(DOM0)));
      return front;
    });
    while (this.reactor.turn()) { /* until there is nothing to do */ }
  }

  /** Each ring gets a request, and its event fires. */
  request(): void {
    const fields = new RequestFields();
    fields.operation = OP_READ;
    fields.segmentCount = 1;
    fields.grefs[0] = this.#page;
    fields.lastSectors[0] = 7;
    for (const front of this.#fronts) {
      front.putRequest(fields);
      front.push();
    }
    this.#fired.push(...this.#bound);
  }

  get responses(): number[] {
    return this.#fronts.map((front) => front.unconsumedResponses());
  }

  #platform(platform: Platform): Platform {
    const open = platform.openEventChannels.bind(platform);
    platform.openEventChannels = (domain): EventChannels => {
      const channels = open(domain);
      const bind = channels.bindInterdomain.bind(channels);
      channels.bindInterdomain = (remote, port): EvtchnPort => {
        this.#bound.push(bind(remote, port));
        return this.#bound.at(-1)!;
      };
      channels.take = (ports): number => {
        // Without a bound this would never end.
        if (++this.takes > 100_000) throw new Error("the reactor takes events for ever");
        const port = this.endless ? this.#bound[this.takes % 2] : this.#fired.shift();
        if (port === undefined) return 0;
        ports[0] = port;
        return 1;
      };
      return channels;
    };
    const openTable = platform.openGrantTable.bind(platform);
    platform.openGrantTable = (domain): GrantTable => {
      const table = openTable(domain);
      const number = this.mappedRings.push(0) - 1;
      const mapPages = table.mapPages.bind(table);
      table.mapPages = (refs, writable): OwnedMemory => {
        this.mappedRings[number]!++;
        return mapPages(refs, writable);
      };
      return table;
    };
    return platform;
  }

  [Symbol.dispose](): void {
    this.reactor[Symbol.dispose]();
    this.#resources.dispose();
  }
}

function requestOf(id: number, ringRefs: OpenRequest["ringRefs"], eventChannel: EvtchnPort): OpenRequest {
  return {
    label: `ring ${id}`,
    guest: GUEST,
    ringRefs,
    eventChannel,
    abi: "x86_64-abi",
    attachment: nullAttachment(),
    properties: { sectors: 1024, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
    grants: "copy",
    stats: createStats(),
  };
}

Deno.test("an event that comes while another ring's is taken is taken with it: nothing will tell of it", () => {
  using rig = new Rig();
  rig.reactor.sleep(-1);
  assertEquals(rig.parks, 1);
  rig.request();
  // The one look at events that a wake is followed by.
  for (let turns = 0; rig.reactor.turn() && turns < 3; turns++) { /* its rings have work */ }
  assertEquals(rig.responses, [1, 1]);
});

Deno.test("a guest that fires as fast as its events are taken does not keep a turn, and is seen again before a sleep", () => {
  using rig = new Rig();
  rig.reactor.sleep(-1);
  rig.endless = true;
  rig.request();
  for (let turn = 0; turn < 20; turn++) {
    const before = rig.takes;
    assert(rig.reactor.turn(), "there may be more events: the reactor must not sleep");
    assertLess(rig.takes - before, 10);
  }
  assertEquals(rig.responses, [1, 1]);
  rig.endless = false;
  while (rig.reactor.turn()) { /* until its event queue was seen empty */ }
  const { takes } = rig;
  rig.reactor.sleep(-1);
  assertEquals([rig.parks, rig.takes], [2, takes]);
});

Deno.test("a guest's rings use as many grant-table handles as the limit of one requires", () => {
  using rig = new Rig(40);
  assertEquals(rig.mappedRings, [16, 16, 8]);
  rig.reactor.sleep(-1);
  rig.request();
  while (rig.reactor.turn()) { /* until all are answered */ }
  assertEquals(rig.responses, Array(40).fill(1));
});
