/**
 * The devices of a kind together: found as they come and go, kept over a lost xenstore and over a restart of the
 * backend, and closed at the end.
 */

import { assert, assertEquals } from "@std/assert";
import type { QueueHandle } from "../../lib/dataplane/types.ts";
import { type DomId, type JournalStore, type Xenstore, XenstoreError } from "../../lib/hypervisor.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath, frontendPath } from "../../lib/xenbus/paths.ts";
import { DOM0, FAST_CLOCK, GUEST, Rig, RING_NODES, steps, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;

Deno.test("devices of several guests are found, whether they exist before the backend or come later", async () => {
  await using rig = new Rig();
  const guests = [GUEST, 6 as DomId, 7 as DomId];
  for (const domain of guests.slice(1)) rig.simulated.createGuest(domain);
  const before = guests.map((domain) => rig.attach({ domain }));
  const kind = rig.serve();
  const later = guests.flatMap((domain) => [rig.attach({ domain }), rig.attach({ domain })]);
  const other = rig.attach({ kind: "qdisk" });
  for (const device of [...before, ...later]) await rig.frontend(device).connect();
  assertEquals(kind.status().length, 9);
  assertEquals(rig.plane.open.length, 9);
  assertEquals(new Set(rig.plane.open.map((queue) => queue.spec.label)).size, 9);
  assertEquals(rig.backend(other, "state"), "1");

  rig.simulated.releaseDomain(6 as DomId);
  await until("the dead guest's disks are closed", () => rig.plane.open.length === 6);
  rig.toolstack.remove("/local/domain/0/backend/vbd3/6");
  await until("they are gone", () => kind.status().length === 6);
  rig.toolstack.remove("/local/domain/0/backend/vbd3");
  await until("all are gone", () => kind.status().length === 0);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("a slow xenstored keeps the thread from signals and timers for no longer than a few of its answers take", async () => {
  await using rig = new Rig();
  const domains = Array.from({ length: 8 }, (_, index) => (100 + index) as DomId);
  for (const domain of domains) rig.simulated.createGuest(domain);
  const devices = domains.map((domain) => rig.attach({ domain }));
  const openXenstore = (): Xenstore => {
    const store = rig.simulated.connect(DOM0);
    const { read } = store;
    store.read = (path): string | undefined => {
      for (const endMs = performance.now() + 1; performance.now() < endMs;);
      return read.call(store, path);
    };
    return store;
  };
  let longestMs = 0;
  let last = performance.now();
  const turns = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - last);
    last = performance.now();
  }, 0);
  const startMs = performance.now();
  rig.serve({}, { openXenstore });
  const offered = (): number => rig.lines.filter((line) => line.includes("offering")).length;
  await until("all are offered", () => offered() === devices.length);
  clearInterval(turns);
  const tookMs = performance.now() - startMs;
  assert(longestMs < tookMs / 4, `${longestMs} ms of ${tookMs} without a turn of the event loop`);
});

Deno.test("a device that cannot be read does not keep the others of its kind from being served", async () => {
  await using rig = new Rig();
  const guests = [GUEST, 6 as DomId, 7 as DomId];
  for (const domain of guests.slice(1)) rig.simulated.createGuest(domain);
  const devices = guests.map((domain) => rig.attach({ domain }));
  const unreadable = `${backendPath(devices[0]!)}/state`;
  let broken = true;
  const refuse = (path: string): void => {
    if (broken) throw new XenstoreError(`Cannot look at ${path}: Input/output error`, "EIO", path);
  };
  const openXenstore = (): Xenstore => {
    const store = rig.simulated.connect(DOM0);
    const { read, isDomainIntroduced } = store;
    store.read = (path): string | undefined => {
      if (path === unreadable) refuse(path);
      return read.call(store, path);
    };
    store.isDomainIntroduced = (domain): boolean => {
      if (domain === GUEST) refuse("domain 5");
      return isDomainIntroduced.call(store, domain);
    };
    return store;
  };
  const kind = rig.serve({}, { openXenstore });
  for (const device of devices.slice(1)) await rig.frontend(device).connect();
  assertEquals(kind.status().map(({ domain }) => domain), guests.slice(1));
  assertEquals(rig.lines.filter((line) => line.includes(`cannot look at ${backendPath(devices[0]!)}: `)).length, 1);

  broken = false;
  rig.toolstack.write(unreadable, "1");
  await rig.frontend(devices[0]!).connect();
  broken = true;
  rig.simulated.releaseDomain(7 as DomId);
  await until("the dead guest's disk is closed", () => rig.plane.open.length === 2);
  const complaint = `error: vbd3/5/${devices[0]!.vdev}: cannot look at ${backendPath(devices[0]!)}: `;
  assert(rig.lines.some((line) => line.startsWith(complaint)), rig.lines.join("\n"));
  broken = false;
});

Deno.test("directories that are no device are left alone, and one becomes a device when it gets a state", async () => {
  await using rig = new Rig();
  const root = "/local/domain/0/backend/vbd3";
  rig.toolstack.write(`${root}/nonsense/51712/state`, "1");
  rig.toolstack.write(`${root}/5/xvda/state`, "1");
  rig.toolstack.write(`${root}/5/51712/params`, "null:1M");
  const kind = rig.serve();
  const real = rig.attach({ vdev: "xvdb" });
  await rig.idle(real);
  assertEquals(kind.status().map(({ name }) => name), ["xvdb"]);
  assertEquals(rig.lines.filter((line) => !line.includes(`/${real.vdev}: `)), []);
  rig.toolstack.remove(`${root}/5/51712`);
  rig.toolstack.remove(`${root}/5/xvda`);
  const device = rig.attach({ vdev: "51712" });
  await rig.backendReaches(device, 2);
});

Deno.test("serving one device leaves the others of its kind alone", async () => {
  await using rig = new Rig();
  const [one, other] = [rig.attach(), rig.attach()];
  const kind = rig.serve({}, { only: one });
  await rig.frontend(one).connect();
  await rig.idle(one);
  assertEquals([kind.status().length, rig.backend(other, "state")], [1, "1"]);
});

Deno.test("a backend in a driver domain finds its devices by its own domid", async () => {
  await using rig = new Rig();
  const driver = 3 as DomId;
  rig.simulated.createGuest(driver);
  rig.toolstack.makeDirectory(`/local/domain/${driver}/backend`);
  rig.toolstack.setPermissions(`/local/domain/${driver}/backend`, [{ domain: driver, read: false, write: false }]);
  rig.toolstack.makeDirectory(`/local/domain/${driver}/error`);
  const device = rig.attach({ backendDomain: driver });
  rig.serve({}, { openXenstore: () => rig.simulated.connect(driver) });
  await rig.backendReaches(device, 2);

  // The guest owns its nodes: hiding its state from the driver domain must not keep the disk from being removed.
  using guest = rig.simulated.connect(GUEST);
  guest.setPermissions(`${frontendPath(device)}/state`, [{ domain: GUEST, read: false, write: false }]);
  requestRemoval(rig.toolstack, backendPath(device));
  await rig.backendReaches(device, 6);
});

Deno.test("closing leaves devices Connected, and the next backend takes over without writing a node", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const first = rig.serve();
  const frontend = rig.frontend(device);
  const { ringPages, port } = await frontend.connect();
  assert(await first.close(STAY, 30_000));
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
  assertEquals(rig.backend(device, "state"), "4");

  rig.writes.length = 0;
  const second = rig.serve();
  await until("the ring is served again", () => rig.plane.open.length === 1);
  await rig.idle(device);
  const { spec } = rig.plane.open[0]!;
  assertEquals([spec.ringRefs, spec.eventChannel], [ringPages.refs, port]);
  assertEquals(rig.writes, []);
  assertEquals(second.status()[0]!.connected, true);
  await frontend.disconnect();
  assertEquals(rig.backend(device, "state"), "6");
});

Deno.test("a frontend that came to Initialised while no backend ran is connected by the next one", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  rig.serve();
  await until("the ring is served", () => rig.plane.open.length === 1);
  await rig.idle(device);
  assertEquals(rig.statesWritten(device), ["4"]);
});

Deno.test("the new size of an image that grew over a restart is published to the guest", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "null:1M" });
  const first = rig.serve();
  await rig.frontend(device).connect();
  await first.close(STAY, 30_000);
  rig.toolstack.write(`${backendPath(device)}/params`, "null:2M");
  rig.writes.length = 0;
  rig.serve();
  await until("the ring is served again", () => rig.plane.open.length === 1);
  await rig.idle(device);
  assertEquals(rig.writes.map(({ path, value }) => [path.split("/").at(-1), value]), [
    ["sectors", "4096"],
    ["state", "4"],
  ]);
});

Deno.test("an image that is missing after a restart costs the guest nothing: it is served once it can be", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "/nonexistent/image" });
  rig.toolstack.write(`${backendPath(device)}/state`, "4");
  rig.guestWrites(device, { ...RING_NODES, state: "4" });
  const first = rig.serve();
  await until("there is an error", () => rig.backend(device, "error") !== undefined);
  await rig.idle(device);
  assertEquals([rig.backend(device, "state"), rig.lines.length], ["4", 1]);
  await first.close(STAY, 30_000);
  rig.toolstack.write(`${backendPath(device)}/params`, "null:1M");
  rig.serve();
  await until("the ring is served", () => rig.plane.open.length === 1);
  await until("the error is gone", () => rig.backend(device, "error") === undefined);
  assertEquals(rig.backend(device, "hotplug-status"), "connected");
});

Deno.test("a device whose removal was requested while no backend ran is served until the guest closes it", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  const first = rig.serve();
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await first.close(STAY, 30_000);
  requestRemoval(rig.toolstack, backendPath(device));
  rig.serve();
  await until("the ring is served again", () => rig.plane.open.length === 1);
  await rig.idle(device);
  assertEquals(rig.backend(device, "state"), "5");
  rig.guestWrites(device, { state: "5" });
  await rig.idle(device);
  assertEquals(rig.plane.open.length, 1);
  rig.guestWrites(device, { state: "6" });
  await rig.backendReaches(device, 6);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("detaching at the end asks the guest, and ends Closed", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  const frontend = rig.frontend(device);
  await frontend.connect();
  assert(await kind.close({ leave: "detached", timeoutMs: 5000 }, 30_000));
  await frontend.closed;
  assertEquals(rig.statesWritten(device), ["2", "4", "5", "6"]);
  assertEquals(rig.backend(device, "online"), "0");
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("detaching from a guest that does not close ends in time nevertheless", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  const start = performance.now();
  assert(await kind.close({ leave: "detached", timeoutMs: 100 }, 30_000));
  const tookMs = performance.now() - start;
  assert(tookMs >= 90 && tookMs < 20_000, `${tookMs} ms`);
  assertEquals(rig.backend(device, "state"), "6");
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("closing waits for a limited time for a ring that does not drain, and names it", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  await rig.frontend(device).connect();
  const drained = Promise.withResolvers<void>();
  rig.plane.queues[0]!.close = () => drained.promise;
  assertEquals(await kind.close(STAY, 50), false);
  assertEquals(rig.lines.filter((line) => line.startsWith(`error: vbd3/5/${device.vdev}: given up: `)).length, 1);
  drained.resolve();
});

Deno.test("a latch that cannot be removed with its device is logged, and harms no other device", async () => {
  await using rig = new Rig();
  const [device, other] = [rig.attach(), rig.attach()];
  const { journals } = rig.platform;
  const stubborn: JournalStore = {
    open: (name, lengthBytes) => journals.open(name, lengthBytes),
    names: () => journals.names(),
    lock: (name) => journals.lock(name),
    remove: (name) => {
      if (name.endsWith("-latch")) throw new Error("the file system is read-only");
      journals.remove(name);
    },
  };
  const kind = rig.serve({}, { journals: stubborn });
  await rig.frontend(device).connect();
  removeDevice(rig.toolstack, device);
  await until("the device is gone", () => kind.status().length === 1);
  await rig.says("the file system is read-only");
  rig.attach();
  await rig.backendReaches(device, 2);
  await rig.frontend(other).connect();
});

for (const empty of [false, true]) {
  const how = empty ? "comes back empty" : "comes back";
  Deno.test(`disks go on being served when xenstored ends and ${how}`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const kind = rig.serve();
    await rig.frontend(device).connect();
    await rig.idle(device);
    rig.simulated.stop();
    await until("reconnecting fails", () => rig.debugLines.some((line) => line.includes("cannot reconnect yet")));
    const since = rig.debugLines.length;
    rig.simulated.start({ empty });
    await rig.idle(device, { since });
    assertEquals([rig.plane.queues.length, rig.plane.open.length, rig.openDisks], [1, 1, 1]);
    assertEquals(kind.status().length, 1);
    if (empty) {
      assertEquals(rig.toolstack.list("/local/domain/0/backend"), undefined, "nothing is created in an empty store");
      rig.simulated.createGuest(6 as DomId);
      const another = rig.attach({ domain: 6 as DomId });
      await rig.backendReaches(another, 2);
      assertEquals(rig.plane.open.length, 1);
      rig.simulated.createGuest(GUEST);
      rig.attach();
      rig.toolstack.write(`${backendPath(device)}/state`, "4");
      await rig.idle(device);
    }
    rig.guestWrites(device, { state: "6" });
    await rig.backendReaches(device, 6);
    assertEquals(rig.plane.open.length, 0);
  });
}

for (const empty of [false, true]) {
  const how = empty ? "is not given up for a store that came back empty" : "is noticed when the store is back";
  Deno.test(`a guest that ended while xenstored was away ${how}`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const kind = rig.serve({}, { only: device });
    let noticed = false;
    void kind.guestGone.then(() => noticed = true);
    await rig.frontend(device).connect();
    await rig.idle(device);
    rig.simulated.stop();
    await rig.says("connection lost");
    if (!empty) rig.simulated.releaseDomain(GUEST);
    const since = rig.debugLines.length;
    rig.simulated.start({ empty });
    if (empty) await rig.idle(device, { since });
    else await kind.guestGone.then(() => until("its ring is closed", () => rig.plane.open.length === 0));
    assertEquals([noticed, rig.plane.open.length], empty ? [false, 1] : [true, 0]);
  });
}

Deno.test("a disk that was removed while xenstored was away is closed when xenstored is back with its other nodes", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  await rig.frontend(device).connect();
  const toolstack = rig.toolstack;
  await rig.idle(device);
  // Only the backend's connection breaks; the toolstack's goes on.
  const lost = rig.lines.length;
  rig.simulated.disconnect(0 as DomId, "broken pipe");
  toolstack[Symbol.dispose]();
  removeDevice(rig.toolstack, device);
  await rig.says("connected again", lost);
  await until("the device is gone", () => kind.status().length === 0);
  assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
});

Deno.test("a store that is lost at any moment of a handshake leaves no ring, image or node behind", async () => {
  for (let moment = 0; moment < 60; moment += 2) {
    await using rig = new Rig();
    const device = rig.attach();
    const kind = rig.serve({}, { clock: FAST_CLOCK });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    await steps(moment);
    rig.simulated.stop();
    await rig.says("connection lost");
    rig.simulated.start();
    await rig.backendReaches(device, 4);
    await until("one ring is served", () => rig.plane.open.length === 1 && rig.openDisks === 1);
    rig.toolstack.remove(frontendPath(device));
    await rig.backendReaches(device, 6);
    removeDevice(rig.toolstack, device);
    await until("the device is gone", () => kind.status().length === 0);
    assertEquals([rig.plane.open.length, rig.openDisks], [0, 0]);
  }
});

/** A connection that breaks when Connected has been committed: before the answer to that, or after it. */
function breakingOnceConnected(rig: Rig, answered: boolean): Xenstore {
  const store = rig.simulated.connect(DOM0);
  const transaction: Xenstore["transaction"] = (body) => {
    let connecting = false;
    const result = store.transaction((inner) => {
      connecting = false;
      const write = (path: string, value: string): void => {
        if (path.endsWith("/51712/state") && value === "4") connecting = true;
        inner.write(path, value);
      };
      return body(forwardedTo(inner, { write }));
    });
    if (!connecting) return result;
    rig.simulated.stop();
    if (answered) return result;
    throw new XenstoreError("the answer is lost", "EDISCONNECTED", "");
  };
  return forwardedTo(store, { transaction });
}

/** The object, but for some of its methods. */
function forwardedTo<T extends object>(object: T, instead: Partial<T>): T {
  return new Proxy(object, {
    get: (target, name) => {
      const value = Reflect.get(name in instead ? instead : target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

for (const answered of [true, false]) {
  for (const empty of [true, false]) {
    const moment = answered ? "right after" : "with the answer to";
    Deno.test(`a store lost ${moment} the connecting, its nodes ${empty ? "too" : "kept"}, costs no ring`, async () => {
      await using rig = new Rig();
      const device = rig.attach();
      let broken = false;
      rig.serve({}, {
        openXenstore: () => {
          if (broken) return rig.simulated.connect(DOM0);
          broken = true;
          return breakingOnceConnected(rig, answered);
        },
      });
      rig.guestWrites(device, { ...RING_NODES, state: "3" });
      await rig.says("connection lost");
      const since = rig.debugLines.length;
      rig.simulated.start({ empty });
      await rig.idle(device, { since });
      assertEquals([rig.plane.queues.length, rig.plane.open.length, rig.openDisks], [1, 1, 1]);
      if (!empty) assertEquals(rig.backend(device, "state"), "4");
    });
  }
}

/** A backend takes a connected device over; its new rings open only after the store was lost and came back. */
async function takeOver(rig: Rig, empty: boolean): Promise<void> {
  const device = rig.attach();
  const first = rig.serve();
  await rig.frontend(device).connect();
  assert(await first.close(STAY, 30_000));
  const [begun, proceed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const open = rig.plane.openQueue.bind(rig.plane);
  rig.plane.openQueue = async (spec): Promise<QueueHandle> => {
    begun.resolve();
    await proceed.promise;
    return await open(spec);
  };
  rig.serve({}, { keepJournals: true });
  await begun.promise;
  const lost = rig.lines.length;
  rig.simulated.stop();
  await rig.says("connection lost", lost);
  rig.simulated.start({ empty });
  await rig.says("connected again", lost);
  const since = rig.debugLines.length;
  proceed.resolve();
  await rig.idle(device, { since });
  assertEquals([rig.plane.open.length, rig.openDisks], [1, 1]);
}

Deno.test("a store that comes back empty while a device is taken over costs no ring", async () => {
  await using rig = new Rig();
  await takeOver(rig, true);
});

Deno.test("a store that is lost while a device is taken over gets the connection's nodes when it is back", async () => {
  await using rig = new Rig();
  await takeOver(rig, false);
  const [device] = rig.plane.open;
  const path = `/local/domain/0/backend/vbd3/${GUEST}/51712`;
  await until("the nonce is there", () => rig.toolstack.read(`${path}/connection-nonce`) !== undefined);
  assert(device !== undefined && rig.lines.some((line) => line.includes("connected: ")));
});
