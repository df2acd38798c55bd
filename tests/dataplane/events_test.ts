/**
 * How a reactor takes the events of a guest that has several rings, shown with a driver that tells of its queue only
 * when an event finds it empty, as Linux's does.
 */

import { assertEquals } from "@std/assert";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields } from "../../lib/blkif/front_ring.ts";
import { Reactor } from "../../lib/dataplane/reactor.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { DomId, EvtchnPort, Parker } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

const GUEST = 5 as DomId;
const DOM0 = 0 as DomId;

Deno.test("an event that comes while another ring's is taken is taken with it: nothing will tell of it", () => {
  const machine = createMachine({ memoryBytes: 4 * 2 ** 20 });
  const guest = openSimulatedPlatform(machine, GUEST);
  using shares = guest.openGrantShares();
  using events = guest.openEventChannels(DOM0);
  const platform = openSimulatedPlatform(machine, 0);
  const open = platform.openEventChannels.bind(platform);
  /** Ports that fired, one of which each read of the driver finds. */
  const fired: EvtchnPort[] = [];
  platform.openEventChannels = (domain) => {
    const channels = open(domain);
    channels.take = (ports): number => {
      const port = fired.shift();
      if (port === undefined) return 0;
      ports[0] = port;
      return 1;
    };
    const bind = channels.bindInterdomain.bind(channels);
    channels.bindInterdomain = (remote, port): EvtchnPort => {
      bound.push(bind(remote, port));
      return bound.at(-1)!;
    };
    return channels;
  };
  const bound: EvtchnPort[] = [];
  const fail = (text: unknown): never => {
    throw new Error(String(text));
  };
  let parks = 0;
  const parker: Parker = { watch() {}, unwatch() {}, park: () => void parks++, [Symbol.dispose]() {} };
  using reactor = new Reactor(platform, parker, { closed: fail, stopped: fail, warn: fail, debug: fail });
  const page = shares.share(DOM0, 1, true).refs[0]!;
  const fronts = [1, 2].map((id) => {
    const ring = shares.share(DOM0, 1, true);
    const front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
    reactor.open(id, {
      label: `ring ${id}`,
      guest: GUEST,
      ringRefs: ring.refs,
      eventChannel: events.bindUnbound(DOM0),
      abi: "x86_64-abi",
      attachment: { engine: "null", readOnly: false },
      properties: { sectors: 1024, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
      grants: "copy",
      stats: createStats(),
    });
    return front;
  });
  while (reactor.turn()) { /* until there is nothing to do */ }
  for (const front of fronts) {
    const fields = new RequestFields();
    fields.operation = OP_READ;
    fields.segmentCount = 1;
    fields.grefs[0] = page;
    fields.lastSectors[0] = 7;
    front.putRequest(fields);
    front.push();
  }
  reactor.sleep(-1);
  assertEquals(parks, 1);
  fired.push(...bound);
  // The one look at events that a wake is followed by.
  for (let turns = 0; reactor.turn() && turns < 3; turns++) { /* its rings have work */ }
  assertEquals(fronts.map((front) => front.unconsumedResponses()), [1, 1]);
});
