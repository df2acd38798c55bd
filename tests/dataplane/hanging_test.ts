/**
 * The data plane beside what hangs or dies: a disk that completes nothing, one that is not reached, a reactor that cannot
 * be started or dies. Other rings are opened, served and closed meanwhile, and every wait has an end.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { OP_READ } from "../../lib/blkif/abi.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { Disk, DiskAttachment } from "../../lib/storage/disk.ts";
import { heldAttachment } from "./modules/held_disk.ts";
import { BACKEND, Guest, openMemoryDisk } from "./worker_rig.ts";

/** A disk of 1 MiB that an attachment names. */
function diskOf(attachment: () => Promise<DiskAttachment>): Disk {
  return {
    properties: { sectors: 2048, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
    description: "a disk of the test's own",
    attachment,
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** A data plane on a machine of its own, where starting a reactor fails as often as the test says. */
class Rig {
  readonly machine = createMachine({ memoryBytes: 64 * 2 ** 20 });
  readonly lanes: number[] = [];
  readonly warnings: string[] = [];
  /** How many of the next reactors cannot be started. */
  failing = 0;
  readonly plane: WorkerDataPlane;

  constructor(workers: number, entry?: URL) {
    this.plane = new WorkerDataPlane({
      platform: openSimulatedPlatform(this.machine, BACKEND),
      workers,
      addLane: (lane) => {
        this.lanes.push(lane);
        return this.failing-- > 0 ? Promise.reject(new XenblkError("no descriptors are left")) : Promise.resolve();
      },
      warn: (message) => this.warnings.push(message),
      ...(entry && { entry }),
    });
  }
}

async function until(what: string, done: () => boolean): Promise<void> {
  for (const end = performance.now() + 10_000; !done();) {
    assert(performance.now() < end, `this never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

Deno.test("a disk that hangs keeps its own ring open: others close, and the data plane says which is left", async () => {
  const rig = new Rig(1);
  const held = new SharedArrayBuffer(4);
  new Int32Array(held)[0] = 1;
  await using good = await openMemoryDisk();
  using bad = new Guest(rig.machine, 3 as DomId);
  using first = new Guest(rig.machine, 4 as DomId);
  using second = new Guest(rig.machine, 4 as DomId);
  const hanging = await rig.plane.openQueue(bad.spec(diskOf(() => Promise.resolve(heldAttachment(held)))));
  const neighbour = await rig.plane.openQueue(first.spec(good));
  const answer = bad.request(OP_READ, 0);
  await until("the request is in flight", () => hanging.inFlight === 1);
  const closing = hanging.close();
  await rig.plane.openQueue(second.spec(good));
  assertEquals([await first.request(OP_READ, 0), await second.request(OP_READ, 0)], [0, 0]);
  await neighbour.close();
  assertEquals(await rig.plane.disposeWithin(50), ["domain 3"]);
  assertEquals([hanging.inFlight, machineUsage(rig.machine).mappedPages], [1, 1], "its own ring");
  await assertRejects(() => rig.plane.openQueue(first.spec(good)), XenblkError, "the data plane is closed");
  Atomics.store(new Int32Array(held), 0, 0);
  await closing;
  assertEquals([await answer, hanging.inFlight, machineUsage(rig.machine).mappedPages], [0, 0, 0]);
});

Deno.test("a disk that cannot be reached holds up no other ring, and the wait for it can be aborted", async () => {
  const rig = new Rig(1);
  await using good = await openMemoryDisk();
  using bad = new Guest(rig.machine, 3 as DomId);
  using guest = new Guest(rig.machine, 4 as DomId);
  const end = new AbortController();
  const unreachable = rig.plane.openQueue(bad.spec(diskOf(() => new Promise(() => {}))), end.signal);
  await rig.plane.openQueue(guest.spec(good));
  assertEquals(await guest.request(OP_READ, 0), 0);
  end.abort();
  await assertRejects(() => unreachable, DOMException);
  assertEquals(await rig.plane.disposeWithin(60_000), []);
});

Deno.test("a reactor that cannot be started is tried again with the next ring, or another one serves it", async () => {
  const rig = new Rig(2);
  await using disk = await openMemoryDisk();
  const guests = [1, 2, 3].map((domain) => new Guest(rig.machine, domain as DomId));
  rig.failing = 1;
  await assertRejects(() => rig.plane.openQueue(guests[0]!.spec(disk)), XenblkError, "no descriptors are left");
  await rig.plane.openQueue(guests[0]!.spec(disk));
  rig.failing = 1;
  await rig.plane.openQueue(guests[1]!.spec(disk));
  assertEquals([rig.lanes, rig.warnings.length], [[0, 1, 2], 1]);
  assertMatch(rig.warnings[0]!, /could not be started, another one serves .*: no descriptors are left/);
  await rig.plane.openQueue(guests[2]!.spec(disk));
  assertEquals(rig.lanes, [0, 1, 2, 3]);
  assertEquals(await Promise.all(guests.map((guest) => guest.request(OP_READ, 0))), [0, 0, 0]);
  await rig.plane[Symbol.asyncDispose]();
});

Deno.test("a reactor that died gets no more rings: a new one takes its place", async () => {
  const rig = new Rig(1, new URL("./dying_worker.ts", import.meta.url));
  await using disk = await openMemoryDisk();
  using guest = new Guest(rig.machine, 3 as DomId);
  for (let round = 0; round < 3; round++) {
    const queue = await rig.plane.openQueue(guest.spec(disk));
    assertMatch(await queue.stopped, /the reactor's Worker failed: .*a defect/);
    await queue.close();
  }
  assertEquals(rig.lanes, [0, 1, 2]);
  await rig.plane[Symbol.asyncDispose]();
});
