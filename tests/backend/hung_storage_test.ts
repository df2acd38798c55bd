/**
 * Storage that does not answer: an image that does not open, a lock that is not granted, rings that do not open or close,
 * an image that does not close. Its device says so, goes on with whatever else happens, and continues when the storage
 * answers; other devices notice nothing; the end of the process names the device, and what comes too late is disposed.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import type { BackendKind } from "../../lib/backend/kind.ts";
import { type Clock, SYSTEM_CLOCK } from "../../lib/clock.ts";
import { STAT } from "../../lib/dataplane/stats.ts";
import type { QueueHandle } from "../../lib/dataplane/types.ts";
import type { Disk } from "../../lib/storage/disk.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { FAST_CLOCK, Rig, RING_NODES, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;
/** For what depends on which of two times comes first. */
const BRISK_CLOCK: Clock = {
  now: () => SYSTEM_CLOCK.now() * 10,
  sleep: (ms, signal) => SYSTEM_CLOCK.sleep(ms / 10, signal),
};
/** Far longer than anything here takes, also on a clock that goes fifty times as fast. */
const NEVER_MS = 3_600_000;

/** Storage that answers only once the test says so. */
class Hang {
  readonly begun = Promise.withResolvers<void>();
  readonly over = Promise.withResolvers<void>();
  /** Calls that wait, or have waited. */
  calls = 0;

  async here(): Promise<void> {
    this.calls++;
    this.begun.resolve();
    await this.over.promise;
  }
}

/** A place where the storage of `xvda` hangs. */
interface Place {
  /** What the device says: an operation, as after "Cannot". */
  readonly says: RegExp;
  readonly hang: (rig: Rig, hang: Hang) => void;
  /** Brings the device there. Its nodes are those of a frontend that has published its ring. */
  readonly reach?: (rig: Rig, device: DeviceAddress) => Promise<void>;
}

/** Changes the disk of 8 MiB, and no other. */
function hangDisk(rig: Rig, change: (disk: Disk) => Partial<Disk>): void {
  rig.wrapDisk = ({ target }, disk) => target === "8M" ? change(disk) : {};
}

async function closing(rig: Rig, device: DeviceAddress): Promise<void> {
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "6" });
}

const PLACES: Readonly<Record<string, Place>> = {
  "its image does not open": {
    says: /open image null:8M/,
    hang: (rig, hang) => rig.beforeOpen = async ({ target }) => await (target === "8M" ? hang.here() : undefined),
  },
  "its ring does not open": {
    says: /open the rings on null:8M/,
    hang: (rig, hang) => {
      const { openQueue } = rig.plane;
      rig.plane.openQueue = async (spec): Promise<QueueHandle> => {
        if (spec.disk.properties.sectors === 16384) await hang.here();
        return await openQueue.call(rig.plane, spec);
      };
    },
  },
  "its ring does not close": {
    says: /complete 3 requests in flight of null:8M/,
    hang: (rig, hang) => {
      const { openQueue } = rig.plane;
      rig.plane.openQueue = async (spec): Promise<QueueHandle> => {
        const queue = await openQueue.call(rig.plane, spec);
        if (spec.disk.properties.sectors !== 16384) return queue;
        const close = async (): Promise<void> => {
          new Float64Array(spec.stats)[STAT.inFlight] = 3;
          await hang.here();
          new Float64Array(spec.stats)[STAT.inFlight] = 0;
          await queue.close();
        };
        let once: Promise<void> | undefined;
        return {
          ...queue,
          stopped: queue.stopped,
          grow: (sectors) => queue.grow(sectors),
          close: () => once ??= close(),
        };
      };
    },
    reach: closing,
  },
};

/** A rig with the device whose storage hangs, at the place. */
async function reach(
  rig: Rig,
  place: Place,
  clock = FAST_CLOCK,
): Promise<{ device: DeviceAddress; kind: BackendKind; hang: Hang }> {
  const hang = new Hang();
  place.hang(rig, hang);
  const device = rig.attach({ vdev: "xvda", params: "null:8M" });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  const kind = rig.serve({}, { clock });
  await place.reach?.(rig, device);
  await hang.begun.promise;
  return { device, kind, hang };
}

for (const [what, place] of Object.entries(PLACES)) {
  Deno.test(`${what}: the device says so, once, and continues when its storage answers`, async () => {
    await using rig = new Rig();
    const { device, kind, hang } = await reach(rig, place);
    await until("it is in the node", () => place.says.test(rig.backend(device, "error") ?? ""));
    assertMatch(rig.backend(device, "error")!, /: no answer within 10 s; check the storage/);
    assertMatch(kind.status()[0]!.error!, place.says);
    assertMatch(kind.status()[0]!.waitsFor!.join(), place.says);
    await new Promise((resolve) => setTimeout(resolve, 300)); // 15 s of the device's clock: it has retried
    assertEquals(rig.lines.filter((line) => place.says.test(line)).length, 1, rig.lines.join("\n"));
    assertEquals(hang.calls, 1, "one operation, however often it was retried");
    hang.over.resolve();
    await rig.backendReaches(device, place.reach === undefined ? 4 : 6);
    await until("the error is taken back", () => rig.backend(device, "error") === undefined);
    assertEquals([kind.status()[0]!.error, kind.status()[0]!.waitsFor], [undefined, undefined]);
  });

  Deno.test(`${what}: another device attaches, connects, closes and is removed meanwhile`, async () => {
    await using rig = new Rig();
    const { kind, hang } = await reach(rig, place);
    const other = rig.attach({ vdev: "xvdb", params: "null:4M" });
    rig.guestWrites(other, { ...RING_NODES, state: "3" });
    await rig.backendReaches(other, 4);
    requestRemoval(rig.toolstack, backendPath(other));
    rig.guestWrites(other, { state: "6" });
    await rig.backendReaches(other, 6);
    removeDevice(rig.toolstack, other);
    await until("it is gone", () => kind.status().length === 1);
    hang.over.resolve();
  });

  Deno.test(`${what}: its removal gets through, and everything is released when the storage answers`, async () => {
    await using rig = new Rig();
    const { device, kind, hang } = await reach(rig, place);
    removeDevice(rig.toolstack, device);
    if (place.says.source.startsWith("open image")) await until("it is gone", () => kind.status().length === 0);
    hang.over.resolve();
    await until("it is gone", () => kind.status().length === 0);
    await until("nothing is open", () => rig.plane.open.length === 0 && rig.openDisks === 0);
  });
}

for (const what of ["its ring does not open", "its ring does not close"]) {
  Deno.test(`the process ends while ${what}: the others are released at once, and the log names it`, async () => {
    await using rig = new Rig();
    const { device, kind, hang } = await reach(rig, PLACES[what]!);
    const other = rig.attach({ vdev: "xvdb", params: "null:4M" });
    rig.guestWrites(other, { ...RING_NODES, state: "3" });
    await rig.backendReaches(other, 4);
    const inFlight = what === "its ring does not close";
    const closing = inFlight ? kind.close(STAY, NEVER_MS, 10_000) : kind.close(STAY, 10_000);
    await until("the other is released", () => isFree(rig, other) && rig.openDisks === 1);
    assertEquals(isFree(rig, device), false, "no other process gets a ring that is in use");
    assertEquals(await closing, false);
    const [stuck, ...more] = kind.stuck;
    assertEquals([stuck!.label, more], [`vbd3/5/${device.vdev}`, []]);
    assertMatch(stuck!.reason, PLACES[what]!.says);
    assertEquals(
      rig.lines.filter((line) => line === `error: ${stuck!.label}: given up: cannot ${stuck!.reason}`).length,
      1,
    );
    hang.over.resolve();
    await until("it is released", () => isFree(rig, device) && rig.openDisks === 0 && rig.plane.open.length === 0);
  });
}

/** Another process could serve the device. */
function isFree(rig: Rig, device: DeviceAddress): boolean {
  using lock = rig.platform.journals.lock(`vbd3-5-${device.vdev}.lock`);
  return lock !== undefined;
}

Deno.test("a device attached again with another image opens that one while the first does not open", async () => {
  await using rig = new Rig();
  const { device, hang } = await reach(rig, PLACES["its image does not open"]!);
  removeDevice(rig.toolstack, device);
  const again = rig.attach({ vdev: "xvda", params: "null:4M" });
  assertEquals(again, device);
  rig.guestWrites(again, { ...RING_NODES, state: "3" });
  await rig.backendReaches(again, 4);
  assertEquals(rig.plane.open.map(({ spec }) => spec.disk.properties.sectors), [8192]);
  hang.over.resolve();
  await until("the first one is disposed", () => rig.disks.length === 2 && rig.openDisks === 1);
  assertEquals(rig.backend(again, "state"), "4");
});

Deno.test("an image whose nodes are changed while it does not open is given up for the new one within a second", async () => {
  await using rig = new Rig();
  const { device, hang } = await reach(rig, PLACES["its image does not open"]!, BRISK_CLOCK);
  rig.toolstack.write(`${backendPath(device)}/params`, "null:4M");
  await rig.backendReaches(device, 4);
  const said = rig.writes.filter(({ path, value }) => path.endsWith("/error") && value !== undefined);
  assertEquals(said, [], "it was given up because of the change, not because it is overdue");
  assertEquals(rig.backend(device, "error"), undefined);
  hang.over.resolve();
  await until("the first one is disposed", () => rig.disks.length === 2 && rig.openDisks === 1);
});

Deno.test("an image that does not close keeps no guest waiting", async () => {
  await using rig = new Rig();
  const hang = new Hang();
  hangDisk(rig, (disk) => ({
    [Symbol.asyncDispose]: async (): Promise<void> => {
      await hang.here();
      await disk[Symbol.asyncDispose]();
    },
  }));
  const device = rig.attach({ vdev: "xvda", params: "null:8M" });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  const kind = rig.serve({}, { clock: FAST_CLOCK });
  await closing(rig, device);
  await rig.backendReaches(device, 6);
  assertMatch(kind.status()[0]!.waitsFor!.join(), /^close null:8M .*: no answer for \d+ s$/);
  assertEquals(await kind.close(STAY, 10_000, 5_000), false);
  assertMatch(kind.stuck[0]!.reason, /^close null:8M/);
  hang.over.resolve();
  await until("it is released", () => isFree(rig, device));
});

Deno.test("a lock that is not granted is waited for, and released if it comes too late", async () => {
  await using rig = new Rig();
  const path = Deno.makeTempFileSync({ prefix: "xenblk-hung-" });
  try {
    Deno.truncateSync(path, 1 << 20);
    const hang = new Hang();
    let held = 0;
    const tryLock = async (): Promise<AsyncDisposable> => {
      await hang.here();
      held++;
      return { [Symbol.asyncDispose]: () => Promise.resolve(void held--) };
    };
    const device = rig.attach({ params: path });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    const kind = rig.serve({}, { clock: FAST_CLOCK, imageLocks: { tryLock } });
    await until(
      "it says so",
      () => (rig.backend(device, "error") ?? "").includes(`Cannot lock image ${path}: no answer within 10 s`),
    );
    removeDevice(rig.toolstack, device);
    await until("it is gone", () => kind.status().length === 0);
    hang.over.resolve();
    await until("the lock was released", () => hang.calls > 0 && held === 0);
    assertEquals(rig.plane.queues.length, 0);
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("a resize whose storage does not answer is answered to the toolstack, and carried out later", async () => {
  await using rig = new Rig();
  const hang = new Hang();
  const path = Deno.makeTempFileSync({ prefix: "xenblk-hung-" });
  try {
    Deno.truncateSync(path, 1 << 20);
    rig.wrapDisk = (_request, disk) => ({
      grow: async (): Promise<void> => {
        await hang.here();
        await disk.grow!();
      },
    });
    const device = rig.attach({ params: path });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    rig.serve({}, { clock: FAST_CLOCK });
    await rig.backendReaches(device, 4);
    rig.guestWrites(device, { state: "4" });
    Deno.truncateSync(path, 1 << 21);
    rig.toolstack.write(`${backendPath(device)}/resize`, "request");
    await until("it is answered", () => /no answer within/.test(rig.backend(device, "resize") ?? ""));
    hang.over.resolve();
    await until("the ring has the size", () => rig.plane.open[0]!.sectors === 4096);
    rig.toolstack.write(`${backendPath(device)}/resize`, "request");
    await until("the guest has the size", () => rig.backend(device, "sectors") === "4096");
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("a last flush that takes long is waited for at the end", async () => {
  await using rig = new Rig();
  const { kind, hang } = await reach(rig, PLACES["its ring does not close"]!);
  new Float64Array(rig.plane.queues[0]!.spec.stats)[STAT.inFlight] = 0;
  const closing = kind.close(STAY, NEVER_MS, 2_000);
  await new Promise((resolve) => setTimeout(resolve, 200)); // 10 s of the device's clock
  hang.over.resolve();
  assert(await closing);
});

Deno.test("a slow disk that makes progress is waited for at the end", async () => {
  await using rig = new Rig();
  const { kind, hang, device } = await reach(rig, PLACES["its ring does not close"]!);
  const counters = new Float64Array(rig.plane.queues[0]!.spec.stats);
  const working = setInterval(() => counters[0]!++, 5);
  const closing = kind.close(STAY, NEVER_MS, 5_000);
  try {
    await new Promise((resolve) => setTimeout(resolve, 400)); // 20 s of the device's clock
  } finally {
    clearInterval(working);
  }
  hang.over.resolve();
  assert(await closing, `${device.vdev}: ${rig.lines.join("\n")}`);
});

Deno.test("an image that does not open is opened once, however often that is retried, and used when it comes late", async () => {
  await using rig = new Rig();
  const hang = new Hang();
  const device = rig.attach({ params: "null:8M" });
  rig.beforeOpen = () => hang.here();
  rig.serve({}, { clock: FAST_CLOCK });
  await until("it says so", () => rig.backend(device, "error") !== undefined);
  await new Promise((resolve) => setTimeout(resolve, 400));
  assertEquals(hang.calls, 1);
  hang.over.resolve();
  await rig.backendReaches(device, 2);
});

Deno.test("an image that takes longer to open than a device waits is opened once and served", async () => {
  await using rig = new Rig();
  let calls = 0;
  rig.beforeOpen = async () => {
    calls++;
    await FAST_CLOCK.sleep(14_000);
  };
  const device = rig.attach({ params: "null:8M" });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  rig.serve({}, { clock: FAST_CLOCK });
  await rig.backendReaches(device, 4);
  assertEquals([calls, rig.openDisks, rig.backend(device, "error")], [1, 1, undefined]);
});

for (const meanwhile of ["nothing changes", "its nodes are touched all the time", "the guest publishes another ring"]) {
  Deno.test(`a ring that always takes longer to open than a device waits is served in the end: ${meanwhile}`, async () => {
    await using rig = new Rig();
    const path = Deno.makeTempFileSync({ prefix: "xenblk-hung-" });
    try {
      Deno.truncateSync(path, 1 << 20);
      const begun = Promise.withResolvers<void>();
      const { openQueue } = rig.plane;
      const asked: number[] = [];
      const signals: AbortSignal[] = [];
      rig.plane.openQueue = async (spec, signal): Promise<QueueHandle> => {
        asked.push(spec.eventChannel);
        signals.push(signal!);
        begun.resolve();
        await FAST_CLOCK.sleep(14_000);
        return await openQueue.call(rig.plane, spec);
      };
      let held = 0;
      const release = { [Symbol.asyncDispose]: () => Promise.resolve(void held--) };
      const imageLocks = { tryLock: () => Promise.resolve(held++ === 0 ? release : "somebody has it") };
      const device = rig.attach({ params: path });
      rig.guestWrites(device, { ...RING_NODES, state: "3" });
      const kind = rig.serve({}, { clock: FAST_CLOCK, keepJournals: true, imageLocks });
      await begun.promise;
      if (meanwhile.startsWith("the guest")) rig.guestWrites(device, { "event-channel": "16" });
      const touching = setInterval(() => meanwhile.startsWith("its nodes") && rig.guestWrites(device, { a: "1" }), 20);
      await rig.backendReaches(device, 4);
      clearInterval(touching);
      assertEquals(asked, meanwhile.startsWith("the guest") ? [15, 16] : [15]);
      assertEquals(signals.map(({ aborted }) => aborted), meanwhile.startsWith("the guest") ? [true, false] : [false]);
      assertEquals([rig.plane.open.length, held], [1, 1]);
      assertEquals([rig.backend(device, "error"), kind.status()[0]!.waitsFor], [undefined, undefined]);
    } finally {
      Deno.removeSync(path);
    }
  });
}

Deno.test("a ring that takes long to close is waited for, and the device left Closed, when it is detached", async () => {
  await using rig = new Rig();
  const { device, kind, hang } = await reach(rig, PLACES["its ring does not close"]!);
  const closing = kind.close({ leave: "detached", timeoutMs: 0 }, NEVER_MS, NEVER_MS);
  await new Promise((resolve) => setTimeout(resolve, 300)); // 15 s of the device's clock
  hang.over.resolve();
  assert(await closing);
  assertEquals(rig.backend(device, "state"), "6");
});

Deno.test("a disk that is to be removed once its image is locked gets no ring", async () => {
  await using rig = new Rig();
  const path = Deno.makeTempFileSync({ prefix: "xenblk-hung-" });
  try {
    Deno.truncateSync(path, 1 << 20);
    const hang = new Hang();
    let calls = 0;
    const tryLock = async (): Promise<AsyncDisposable> => {
      if (++calls === 2) await hang.here(); // the first is the look before the image is announced
      return { [Symbol.asyncDispose]: () => Promise.resolve() };
    };
    const device = rig.attach({ params: path });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    rig.serve({}, { clock: BRISK_CLOCK, imageLocks: { tryLock } });
    await hang.begun.promise;
    requestRemoval(rig.toolstack, backendPath(device));
    hang.over.resolve();
    rig.guestWrites(device, { state: "6" });
    await rig.backendReaches(device, 6);
    assertEquals(rig.plane.queues.length, 0);
  } finally {
    Deno.removeSync(path);
  }
});

Deno.test("a guest that starts over without closing is told again what depends on the image", async () => {
  await using rig = new Rig();
  const device = rig.attach({ params: "memory:1M" });
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  rig.serve();
  await rig.backendReaches(device, 4);
  assertEquals(rig.backend(device, "feature-discard"), "1");
  rig.guestWrites(device, { state: "1" });
  await rig.backendReaches(device, 2);
  await until("it is told", () => rig.backend(device, "feature-discard") === "1");
});
