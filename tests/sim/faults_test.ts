/**
 * Injected faults strike the calls that the plan chooses, with the result that it chooses, and leave all other calls as
 * they are.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { type DomId, EVENTS_OVERFLOWED, GrantError, type Platform } from "../../lib/hypervisor.ts";
import { withFaults } from "../../lib/sim/faults.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";

const BACKEND = 0 as DomId;
const GUEST = 3 as DomId;

function open(): { machine: SharedArrayBuffer; back: Platform; front: Platform } {
  const machine = createMachine({ memoryBytes: 1 << 20, domains: 4, grantsPerDomain: 64, portsPerDomain: 8 });
  return { machine, back: openSimulatedPlatform(machine, BACKEND), front: openSimulatedPlatform(machine, GUEST) };
}

Deno.test("chosen map and unmap calls fail with the chosen errno, the others succeed", () => {
  const { machine, back, front } = open();
  using pages = front.openGrantShares().share(BACKEND, 2, true);
  const faulty = withFaults(back, { map: (call) => call === 1 ? -12 : 0, unmap: (call) => call === 0 ? -22 : 0 });
  using table = faulty.openGrantTable(GUEST);
  const refs = Uint32Array.from(pages.refs);
  const addresses = new Float64Array(2);
  assertEquals(table.map(refs, 0, 2, true, addresses), 0);
  assertEquals(table.map(refs, 0, 2, true, addresses), -12);
  assertEquals(machineUsage(machine).mappedPages, 2);
  assertEquals([table.unmap(addresses[0]!, 2), table.unmap(addresses[0]!, 2)], [-22, 0]);
  assertEquals(machineUsage(machine).mappedPages, 0);
  using refusing = withFaults(back, { map: () => -1 }).openGrantTable(GUEST);
  assertEquals(assertThrows(() => refusing.mapPages(pages.refs, true), GrantError).status, -1);
});

Deno.test("chosen segments of a copy fail, also with a positive status, and are not copied; so does a chosen call", () => {
  const { back, front } = open();
  using pages = front.openGrantShares().share(BACKEND, 1, true);
  pages.view.forEach((_, i) => pages.view[i] = 1 + (i >> 9));
  const plan = {
    copySegment: (segment: number) => segment === 1 ? 3 : segment === 5 ? -12 : 0,
    copyCall: (call: number) => call === 2 ? -14 : 0,
  };
  using table = withFaults(back, plan).openGrantTable(GUEST);
  using local = back.memory.allocate(4096);
  using batch = table.createCopyBatch(3);
  const statuses = (): number[] => {
    local.view.fill(0);
    batch.clear();
    for (let i = 0; i < 3; i++) batch.addFromGuest(pages.refs[0]!, 512 * i, local.address + 512 * i, 512);
    return [batch.run(), batch.status(0), batch.status(1), batch.status(2)];
  };
  assertEquals([batch.capacity, statuses(), batch.length], [3, [0, 0, 3, 0], 3]);
  assertEquals([local.view[0], local.view[512], local.view[1024]], [1, 0, 3]);
  assertEquals(statuses(), [0, 0, 0, -12]);
  assertEquals(statuses(), [-14, -1, -1, -1]);
  assertEquals(statuses(), [0, 0, 0, 0]);
});

Deno.test("an overflow is reported in place of ports, and parking works through the wrapper", () => {
  const { back, front } = open();
  const faulty = withFaults(back, { overflow: (call) => call === 1 });
  using frontEvents = front.openEventChannels(BACKEND);
  using events = faulty.openEventChannels(GUEST);
  using token = faulty.createWakeToken();
  using parker = faulty.openParker(token);
  parker.watch(events);
  const port = frontEvents.bindUnbound(BACKEND);
  const local = events.bindInterdomain(GUEST, port);
  const ports = new Uint32Array(4);
  assertEquals([events.take(ports), ports[0]], [1, local]);
  frontEvents.notify(port);
  parker.park(-1);
  assertEquals([events.take(ports), events.take(ports)], [EVENTS_OVERFLOWED, 0]);
  frontEvents.notify(port);
  assertEquals(events.take(ports), 1);
});
