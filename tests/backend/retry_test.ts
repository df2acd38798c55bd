/**
 * Xenstore that fails without being lost: conflicts, quotas, I/O errors. Whatever call fails, the device logs it once and
 * retries after growing waits, without any event, until it succeeds.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Xenstore } from "../../lib/hypervisor.ts";
import { Random } from "../../lib/guest/random.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { faultyStore, type Judge, type StoreCall } from "./faulty_store.ts";
import { DOM0, FAST_CLOCK, GUEST, Rig, RING_NODES, turn, until } from "./rig.ts";

const BACKEND = "/local/domain/0/backend/vbd3/5/51712";

/** Writes of a state, and what else a device writes, by the end of the path. */
function writes(node: string, value?: string): (call: StoreCall) => boolean {
  return (call) =>
    call.what === "write" && call.path.endsWith(`/${node}`) && (value === undefined || call.value === value);
}

function commitsState(state: number): (call: StoreCall) => boolean {
  return (call) => call.what === "commit" && call.value!.includes(`${BACKEND}/state=${state}`);
}

/** A frontend that asks to be connected; no later event makes the device look. */
async function asked(rig: Rig, clock: SimulatedClock, judge: Judge): Promise<DeviceAddress> {
  const device = rig.attach();
  rig.serve({ grants: "persistent" }, { clock, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await turn();
  return device;
}

for (const errno of ["EAGAIN", "ENOSPC", "E2BIG", "EIO"]) {
  Deno.test(`Connected that cannot be written (${errno}) is tried again after 100 ms, then ever later, at most 5 s`, async () => {
    await using rig = new Rig();
    const clock = new SimulatedClock();
    const connects = commitsState(4);
    let tries = 0;
    let broken = true;
    const device = await asked(rig, clock, (call) => connects(call) && (tries++, broken) ? errno : undefined);
    for (const [index, ms] of [100, 200, 400, 800, 1600, 3200, 5000, 5000].entries()) {
      assertEquals(tries, index + 1);
      clock.advance(ms - 1);
      await turn();
      assertEquals(tries, index + 1, `not before ${ms} ms`);
      clock.advance(1);
      await turn();
    }
    assertEquals(rig.backend(device, "state"), "2");
    const errors = rig.lines.filter((line) => line.startsWith("error"));
    assertEquals(errors.length, 1, "said once");
    assertMatch(
      errors[0]!,
      /^error: vbd3\/5\/51712: cannot connect \S+\/backend\/vbd3\/5\/51712: .*; it will be retried$/,
    );
    broken = false;
    clock.advance(5000);
    await turn();
    assertEquals([rig.backend(device, "state"), rig.plane.open.length, rig.openDisks], ["4", 1, 1]);
    assertEquals(rig.lines.filter((line) => line.includes("grants copy in place of persistent")).length, 1);
  });
}

Deno.test("a guest that an earlier process served is served on while the nodes of the connection cannot be written", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const first = rig.serve();
  await rig.frontend(device).connect();
  await first.close({ leave: "connected", timeoutMs: 0 }, 30_000);
  const clock = new SimulatedClock();
  let broken = true;
  const judge: Judge = (call) => broken && call.what === "commit" && call.value !== "" ? "ENOSPC" : undefined;
  rig.serve({}, { clock, keepJournals: true, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  await until("its ring is served", () => rig.plane.open.length === 1);
  for (let tries = 0; tries < 10; tries++) {
    clock.advance(5000);
    await turn();
  }
  assertEquals([rig.plane.queues.length, rig.plane.open.length], [2, 1]);
  broken = false;
  clock.advance(5000);
  await turn();
  assertEquals(rig.backend(device, "connection-nonce")?.length, 32);
  assertEquals([rig.plane.queues.length, rig.plane.open.length], [2, 1]);
});

/** What a device writes at some time, how it comes to write that, and how it is seen that it did. */
const WRITES: Readonly<
  Record<string, {
    readonly call: (call: StoreCall) => boolean;
    readonly params?: string;
    readonly act: (rig: Rig, device: DeviceAddress) => void | Promise<void>;
    readonly done: (rig: Rig, device: DeviceAddress) => boolean;
  }>
> = {
  "an offer": {
    call: commitsState(2),
    act: () => {},
    done: (rig, device) => rig.backend(device, "state") === "2",
  },
  "the reason why there is no disk": {
    call: writes("error"),
    params: "/nonexistent/image",
    act: () => {},
    done: (rig, device) => rig.backend(device, "error") !== undefined,
  },
  "Closing": {
    call: commitsState(5),
    act: async (rig, device) => {
      await connected(rig, device);
      rig.guestWrites(device, { state: "5" });
    },
    done: (rig, device) => rig.backend(device, "state") === "5",
  },
  "Closed": {
    call: commitsState(6),
    act: async (rig, device) => {
      await connected(rig, device);
      rig.guestWrites(device, { state: "6" });
    },
    done: (rig, device) => rig.backend(device, "state") === "6" && rig.openDisks === 0,
  },
  "Closed, the frontend's directory gone": {
    call: commitsState(6),
    act: async (rig, device) => {
      await connected(rig, device);
      rig.toolstack.remove(`/local/domain/5/device/vbd/${device.vdev}`);
    },
    done: (rig, device) => rig.backend(device, "state") === "6" && rig.openDisks === 0,
  },
  "why a ring was stopped": {
    call: writes("error"),
    act: async (rig, device) => {
      await connected(rig, device);
      rig.plane.queues[0]!.stop("req_prod is 900 ahead of 32 slots");
    },
    done: (rig, device) => /req_prod/.test(rig.backend(device, "error") ?? "") && rig.backend(device, "state") === "5",
  },
  "the answer to a resize": {
    call: writes("resize"),
    act: async (rig, device) => {
      await connected(rig, device);
      rig.toolstack.write(`${backendPath(device)}/resize`, "request");
    },
    done: (rig, device) => /Cannot resize/.test(rig.backend(device, "resize") ?? ""),
  },
};

async function connected(rig: Rig, device: DeviceAddress): Promise<void> {
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
}

for (const [what, { call, params, act, done }] of Object.entries(WRITES)) {
  Deno.test(`what cannot be written is written later, without any event: ${what}`, async () => {
    await using rig = new Rig();
    const clock = new SimulatedClock();
    let failures = 0;
    const judge: Judge = (each) => failures < 3 && call(each) ? (failures++, "ENOSPC") : undefined;
    const device = rig.attach(params === undefined ? {} : { params });
    rig.serve({}, { clock, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
    await act(rig, device);
    for (const [index, ms] of [100, 200, 400].entries()) {
      await until(`it failed ${index + 1} times`, () => failures === index + 1);
      assertEquals(done(rig, device), false);
      clock.advance(ms);
    }
    await until("it is written", () => done(rig, device));
    await rig.idle(device);
    assertEquals(rig.lines.length, new Set(rig.lines).size, `no line twice: ${rig.lines.join("; ")}`);
  });
}

Deno.test("two devices that cannot be looked at are logged once each, and found when they can be", async () => {
  await using rig = new Rig();
  const clock = new SimulatedClock();
  for (const vdev of ["xvda", "xvdb"]) rig.attach({ vdev });
  let broken = true;
  const judge: Judge = ({ what, path }) => broken && what === "read" && path.endsWith("/state") ? "EIO" : undefined;
  const kind = rig.serve({}, { clock, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  for (let waits = 0; waits < 6; waits++) {
    await turn();
    clock.advance(5000);
  }
  assertEquals([kind.status().length, rig.lines.filter((line) => line.includes("cannot look at")).length], [0, 2]);
  broken = false;
  await turn();
  clock.advance(5000);
  await until("both are found", () => kind.status().length === 2);
});

/** A device's whole life: connecting, closing, connecting again, a guest's death or a removal. */
async function live(rig: Rig, device: DeviceAddress, removed: boolean): Promise<void> {
  for (let round = 0; round < 2; round++) {
    rig.guestWrites(device, { ...RING_NODES, state: "1" });
    await rig.backendReaches(device, 2);
    rig.guestWrites(device, { state: "3" });
    await rig.backendReaches(device, 4);
    rig.guestWrites(device, { state: "4" });
    if (round === 1 && !removed) rig.simulated.releaseDomain(GUEST);
    else {
      if (round === 1) requestRemoval(rig.toolstack, backendPath(device));
      rig.guestWrites(device, { state: "5" });
      await rig.backendReaches(device, 5);
      rig.guestWrites(device, { state: "6" });
    }
    await rig.backendReaches(device, 6);
  }
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
}

/** The same with a store on which calls fail; returns how many calls there were. */
async function liveWithFaults(what: string, fails: (call: number) => boolean, removed: boolean): Promise<number> {
  await using rig = new Rig();
  let calls = 0;
  const failed: StoreCall[] = [];
  const judge: Judge = (call) => {
    if (!fails(calls++)) return undefined;
    failed.push(call);
    return call.what === "commit" ? "EAGAIN" : "EIO";
  };
  let opened = 0;
  const openXenstore = (): Xenstore => {
    const store = rig.simulated.connect(DOM0);
    return opened++ === 0 ? store : faultyStore(store, judge);
  };
  const kind = rig.serve({}, { clock: FAST_CLOCK, openXenstore });
  rig.simulated.disconnect(DOM0, "the next connection is the one that fails");
  await rig.says("connected again");
  const device = rig.attach();
  try {
    await live(rig, device, removed);
    removeDevice(rig.toolstack, device);
    await until("it is gone", () => kind.status().length === 0);
  } catch (error) {
    throw new Error(`${what}, ${JSON.stringify(failed)}: ${error}\n${rig.lines.join("\n")}`);
  }
  return calls;
}

/** Runs so many lives, many at the same time: most of each is waiting. */
async function liveOften(count: number, live: (index: number) => Promise<unknown>): Promise<void> {
  const atOnce = 50;
  for (let first = 0; first < count; first += atOnce) {
    await Promise.all(Array.from({ length: Math.min(atOnce, count - first) }, (_, index) => live(first + index)));
  }
}

for (const removed of [true, false]) {
  const end = removed ? "a removal" : "its guest's death";
  Deno.test(`whichever call of xenstore fails once in the life of a device, it gets through to ${end}`, async () => {
    const total = await liveWithFaults("no call fails", () => false, removed);
    assert(total > 100, `${total} calls`);
    await liveOften(total, (failing) => liveWithFaults(`call ${failing}`, (call) => call === failing, removed));
  });

  Deno.test(`calls of xenstore that fail at random do not keep a device from getting through to ${end}`, async () => {
    await liveOften(50, (seed) => {
      const random = new Random(seed);
      return liveWithFaults(`seed ${seed}`, () => random.chance(0.005), removed);
    });
  });
}
