/**
 * Two guests whose requests fill one reactor, while another one idles: the data plane moves one of them, once, and both
 * go on. The same from the outside: the service does so by itself, and tells who listens.
 */

import { assert, assertEquals } from "@std/assert";
import { changes } from "../../lib/control/events.ts";
import type { DeviceReport } from "../../lib/backend/status.ts";
import { OP_READ } from "../../lib/blkif/abi.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { spinningAttachment } from "./modules/spinning_disk.ts";
import { Bench, Guest, openMemoryDisk } from "./worker_rig.ts";

const REQUEST_MS = 5;
const LOOK_MS = 100;
const MOST_LOOKS = 100;

Deno.test("two guests that fill a reactor are parted, once, and a guest that fills one alone stays", async () => {
  await using bench = new Bench(2);
  await using memory = await openMemoryDisk();
  const disk: Disk = {
    properties: memory.properties,
    description: "spinning",
    attachment: () => Promise.resolve(spinningAttachment(REQUEST_MS)),
    reattach: (attachment) => attachment,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const guests = [3, 4].map((domain) => new Guest(bench.machine, domain as DomId));
  const queues = await Promise.all(guests.map((guest) => bench.plane.openQueue(guest.spec(disk))));
  for (const queue of queues) if (queue.reactor !== 0) assertEquals((await bench.plane.move(queue, 0)).moved, true);
  let over = false;
  const loads = guests.map(async (guest) => {
    while (!over) assertEquals(await guest.request(OP_READ, 0), 0);
  });
  const moves = [];
  for (let look = 0; look < MOST_LOOKS && moves.length === 0; look++) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    const move = await bench.plane.balance();
    if (move !== undefined) moves.push(move);
  }
  assertEquals(moves.map(({ from, to, moved }) => [from, to, moved]), [[0, 1, true]]);
  assertEquals(queues.map(({ reactor }) => reactor).toSorted(), [0, 1]);
  for (let look = 0; look < 10; look++) {
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    assertEquals(await bench.plane.balance(), undefined);
  }
  over = true;
  await Promise.all(loads);
  await Promise.all(queues.map((queue) => queue.close()));
  guests.forEach((guest) => guest[Symbol.dispose]());
});

Deno.test("nothing is looked at where there is one reactor", async () => {
  await using bench = new Bench(1);
  await using disk = await openMemoryDisk();
  using guest = new Guest(bench.machine, 3 as DomId);
  await bench.plane.openQueue(guest.spec(disk));
  assertEquals(await bench.plane.balance(), undefined);
});

Deno.test("an event says which ring has moved; rings that were opened anew have not", () => {
  const report = (reactors?: number[]): DeviceReport => ({
    label: "vbd3/3/51712",
    backendPath: "backend/vbd3/3/51712",
    kind: "vbd3",
    domain: 3 as DomId,
    vdev: 51712,
    name: "xvda",
    backendState: "Connected",
    frontendState: "Connected",
    owned: true,
    weight: 100,
    connected: true,
    latched: false,
    ...(reactors && { reactors }),
  });
  const told = (before?: number[], now?: number[]) =>
    changes(report(before), report(now)).map(({ time: _, ...event }) => event);
  assertEquals(told([0, 0], [0, 2]), [{ event: "moved", device: "vbd3/3/51712", queue: 1, from: 0, to: 2 }]);
  assertEquals([told([0], [0]), told([0], [0, 1]), told(undefined, [1]), told([1], undefined)], [[], [], [], []]);
  assert(changes(undefined, report([1])).every(({ event }) => event !== "moved"));
});
