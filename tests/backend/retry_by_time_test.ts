/**
 * What is retried although no node changes: an image that was missing, a takeover that was refused, a device's lock that
 * cannot be tested. And the opposite: a removal does not wait until it is time to retry something else.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { JournalStore } from "../../lib/hypervisor.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { faultyStore, type Judge } from "./faulty_store.ts";
import { DOM0, Rig, RING_NODES, turn, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;

Deno.test("a missing image is looked for again after 100 ms, then ever later, at most every 5 s, and served when it is there", async () => {
  await using rig = new Rig();
  const clock = new SimulatedClock();
  let tries = 0;
  let missing = true;
  rig.beforeOpen = () => {
    tries++;
    return missing ? Promise.reject(new Error("it is missing")) : Promise.resolve();
  };
  const device = rig.attach();
  rig.serve({}, { clock });
  await turn();
  // The first event of the frontend's watch came during the first try, and may have announced a change: one more.
  for (const [index, ms] of [100, 400, 800, 1600, 3200, 5000, 5000].entries()) {
    assertEquals(tries, index + 2);
    clock.advance(ms - 1);
    await turn();
    assertEquals(tries, index + 2, `not before ${ms} ms`);
    clock.advance(1);
    await turn();
  }
  assertEquals(rig.lines.filter((line) => line.startsWith("error")).length, 1, "said once");
  missing = false;
  clock.advance(5000);
  await turn();
  assertEquals([rig.backend(device, "state"), rig.backend(device, "error")], ["2", undefined]);
});

/** What a takeover needs, and a way to let it fail. */
const TAKEOVERS: Readonly<Record<string, (rig: Rig, broken: () => boolean) => JournalStore>> = {
  "its image": (rig, broken) => {
    rig.beforeOpen = () => broken() ? Promise.reject(new Error("no such image")) : Promise.resolve();
    return rig.platform.journals;
  },
  "the directory of its journals": ({ platform: { journals } }, broken) => ({
    open: (name, lengthBytes) => {
      if (broken()) throw new Error("no space");
      return journals.open(name, lengthBytes);
    },
    names: () => journals.names(),
    remove: (name) => journals.remove(name),
    lock: (name) => journals.lock(name),
  }),
  "its lock": ({ platform: { journals } }, broken) => ({
    open: (name, lengthBytes) => journals.open(name, lengthBytes),
    names: () => journals.names(),
    remove: (name) => journals.remove(name),
    lock: (name) => {
      if (broken()) throw new Error("read-only file system");
      return journals.lock(name);
    },
  }),
};

for (const [what, breakIt] of Object.entries(TAKEOVERS)) {
  Deno.test(`a takeover that ${what} prevents is tried again by itself`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const first = rig.serve();
    await rig.frontend(device).connect();
    await first.close(STAY, 30_000);
    let broken = true;
    const clock = new SimulatedClock();
    rig.serve({}, { clock, keepJournals: true, journals: breakIt(rig, () => broken) });
    await turn();
    assertEquals([rig.plane.open.length, rig.backend(device, "state")], [0, "4"]);
    assert(rig.backend(device, "error") !== undefined);
    broken = false;
    clock.advance(100);
    await until("its ring is served", () => rig.plane.open.length === 1);
    assertEquals([rig.backend(device, "state"), rig.backend(device, "error")], ["4", undefined]);
  });
}

/** A device that has failed so often to write Connected that it waits for 5 s. */
async function inBackoff(rig: Rig, judge: Judge, clock: SimulatedClock): Promise<DeviceAddress> {
  const device = rig.attach();
  rig.serve({}, { clock, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  for (const ms of [0, 100, 200, 400, 800, 1600, 3200]) {
    await turn();
    clock.advance(ms);
  }
  await turn();
  return device;
}

const connects: Judge = ({ what, value }) => what === "commit" && /\/state=4/.test(value!) ? "ENOSPC" : undefined;

Deno.test("a device that waits to retry something is removed at once", async () => {
  await using rig = new Rig();
  const device = await inBackoff(rig, connects, new SimulatedClock());
  requestRemoval(rig.toolstack, backendPath(device));
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("a device that waits to retry something and vanishes, or whose guest ends, is released at once", async () => {
  for (const end of ["nodes", "guest"] as const) {
    await using rig = new Rig();
    const device = await inBackoff(rig, connects, new SimulatedClock());
    if (end === "nodes") removeDevice(rig.toolstack, device);
    else rig.simulated.releaseDomain(device.frontendDomain);
    await until(`released after its ${end} went`, () => rig.plane.open.length === 0 && rig.openDisks === 0);
  }
});

Deno.test("a guest that flaps its state does not make a failing device retry more often", async () => {
  await using rig = new Rig();
  const clock = new SimulatedClock();
  let tries = 0;
  const counting: Judge = (call) => {
    const errno = connects(call);
    if (errno !== undefined) tries++;
    return errno;
  };
  const device = await inBackoff(rig, counting, clock);
  const before = tries;
  for (let round = 0; round < 50; round++) {
    rig.guestWrites(device, { state: round % 2 === 0 ? "1" : "3" });
    clock.advance(50);
    await turn();
  }
  assert(tries - before <= 1, `${tries - before} tries in 2.5 s`);
});

Deno.test("a device with a lock that cannot be tested is not detached, and the log says so", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const { journals } = rig.platform;
  const kind = rig.serve({}, {
    journals: {
      open: (name, lengthBytes) => journals.open(name, lengthBytes),
      names: () => journals.names(),
      remove: (name) => journals.remove(name),
      lock: () => {
        throw new Error("read-only file system");
      },
    },
  });
  await until("it says so", () => rig.backend(device, "error") !== undefined);
  assert(await kind.close({ leave: "detached", timeoutMs: 30_000 }, 30_000));
  const lines = rig.lines.filter((line) => line.includes("Cannot detach it"));
  assertEquals(lines.length, 1);
  assertMatch(lines[0]!, /its lock cannot be tested: read-only file system; it is left as it is/);
  assertEquals(rig.backend(device, "online"), "1");
});
