/**
 * A process that is ended (SIGTERM) while a device is just connecting: at every step, with the frontend in every state,
 * and while something is waited for that takes long. It ends all the same, holds nothing any more, and leaves the device
 * so that the next process goes on where this one ended.
 */

import { assert, assertEquals } from "@std/assert";
import { unlessAborted } from "../../lib/abort.ts";
import { XenbusState } from "../../lib/xenbus/states.ts";
import { FAST_CLOCK, Rig, RING_NODES, steps, turn, until } from "./rig.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;
/** Far longer than anything here takes: a test that waits for it hangs. */
const NEVER_MS = 3_600_000;
/** Turns of the event loop's queue of promises from finding a device to serving its ring, and some more. */
const STEPS = 120;

/** A frontend's state, and where the next process has to bring the backend, with how many rings. */
const CASES = [
  { frontend: "1", from: "1", to: XenbusState.InitWait, rings: 0 },
  { frontend: "3", from: "1", to: XenbusState.Connected, rings: 1 },
  { frontend: "3", from: "2", to: XenbusState.Connected, rings: 1 },
  { frontend: "4", from: "4", to: XenbusState.Connected, rings: 1 },
  { frontend: "5", from: "4", to: XenbusState.Closing, rings: 0 },
  { frontend: "6", from: "4", to: XenbusState.Closed, rings: 0 },
] as const;

for (const { frontend, from, to, rings } of CASES) {
  Deno.test(`ended at any step while the frontend is at ${frontend} and the backend at ${from}: the next goes on`, async () => {
    const left = new Set<string | undefined>();
    for (let count = 0; count < STEPS; count++) {
      await using rig = new Rig();
      const device = rig.attach();
      rig.toolstack.write(`/local/domain/0/backend/vbd3/5/${device.vdev}/state`, from);
      rig.guestWrites(device, { ...RING_NODES, state: frontend });
      const first = rig.serve();
      await steps(count);
      assert(await first.close(STAY, NEVER_MS), `after ${count} steps: ${rig.lines}`);
      left.add(rig.backend(device, "state"));
      assertEquals([rig.plane.open.length, rig.openDisks], [0, 0], `after ${count} steps`);
      assertEquals(rig.backend(device, "error"), undefined, `after ${count} steps`);
      assert(!rig.lines.some((line) => line.startsWith("error")), `after ${count} steps: ${rig.lines}`);
      rig.serve();
      await rig.backendReaches(device, to);
      await until(`the next serves it, after ${count} steps`, () => rig.plane.open.length === rings);
    }
    assert(left.has(String(to)) && left.has(from), `the steps are not all there are: ${[...left]}`);
  });
}

/** What may take long while a device connects, and does not end here until the test says so. */
const WAITS = {
  "its image opens": (rig: Rig, begun: () => void, over: Promise<void>) => {
    rig.beforeOpen = () => (begun(), over);
  },
  "the Worker for its ring starts": (rig: Rig, begun: () => void) => {
    const { plane } = rig;
    plane.openQueue = async (_spec, signal) => {
      begun();
      return await unlessAborted(new Promise<never>(() => {}), signal);
    };
  },
} as const;

for (const [what, hold] of Object.entries(WAITS)) {
  for (const [frontend, backend] of [["3", "2"], ["4", "4"]] as const) {
    Deno.test(`ended while ${what}, the frontend at ${frontend}: it ends soon, and the next goes on`, async () => {
      await using rig = new Rig();
      const device = rig.attach();
      rig.toolstack.write(`/local/domain/0/backend/vbd3/5/${device.vdev}/state`, backend);
      rig.guestWrites(device, { ...RING_NODES, state: frontend });
      const { openQueue } = rig.plane;
      const begun = Promise.withResolvers<void>();
      const over = Promise.withResolvers<void>();
      hold(rig, begun.resolve, over.promise);
      const first = rig.serve({}, { clock: FAST_CLOCK });
      await begun.promise;
      assert(await first.close(STAY, NEVER_MS));
      assertEquals([rig.backend(device, "state"), rig.backend(device, "error")], [backend, undefined]);
      assert(!rig.lines.some((line) => line.startsWith("error")), rig.lines.join("\n"));

      over.resolve();
      await until("what comes late is closed", () => rig.disks.length === 1 && rig.openDisks === 0);
      assertEquals(rig.plane.open.length, 0);
      rig.beforeOpen = () => Promise.resolve();
      rig.plane.openQueue = openQueue;
      rig.serve();
      await rig.backendReaches(device, XenbusState.Connected);
      await until("the next serves it", () => rig.plane.open.length === 1);
    });
  }
}

Deno.test("ended while the image's lock is waited for: it does not wait", async () => {
  await using rig = new Rig();
  const image = Deno.makeTempFileSync({ prefix: "xenblk-stop-" });
  try {
    Deno.truncateSync(image, 1 << 20);
    const device = rig.attach({ params: image });
    rig.guestWrites(device, { ...RING_NODES, state: "3" });
    const asked = Promise.withResolvers<void>();
    const clock = { now: () => 0, sleep: (_ms: number, signal?: AbortSignal) => untilAborted(signal) };
    const kind = rig.serve({}, {
      imageLocks: { tryLock: () => (asked.resolve(), Promise.resolve("another process has it")) },
      clock,
    });
    await asked.promise;
    assert(await kind.close(STAY, NEVER_MS));
    assertEquals([rig.backend(device, "state"), rig.backend(device, "error")], ["2", undefined]);
    assertEquals([rig.plane.queues.length, rig.openDisks], [0, 0]);
  } finally {
    Deno.removeSync(image);
  }
});

/** A sleep that only a signal ends. */
function untilAborted(signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) resolve();
    signal?.addEventListener("abort", () => resolve(), { once: true });
  });
}

Deno.test("ended while its ring is being mapped: that is waited for, the ring is closed, and the next goes on", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const { plane } = rig;
  const { openQueue } = plane;
  const begun = Promise.withResolvers<void>();
  const mapped = Promise.withResolvers<void>();
  plane.openQueue = async (spec) => {
    begun.resolve();
    await mapped.promise;
    return await openQueue.call(plane, spec);
  };
  const first = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await begun.promise;
  const closing = first.close(STAY, NEVER_MS);
  await turn();
  assertEquals(rig.backend(device, "state"), "2");
  mapped.resolve();
  assert(await closing);
  assertEquals([plane.open.length, rig.openDisks, rig.backend(device, "error")], [0, 0, undefined]);
  rig.serve();
  await rig.backendReaches(device, XenbusState.Connected);
  await until("the next serves it", () => plane.open.length === 1);
});

Deno.test("a process that detaches while an image does not open ends in time, and the device is Closed for good", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const begun = Promise.withResolvers<void>();
  rig.beforeOpen = () => (begun.resolve(), new Promise<never>(() => {}));
  const kind = rig.serve({}, { clock: FAST_CLOCK });
  await begun.promise;
  assert(await kind.close({ leave: "detached", timeoutMs: 20 }, NEVER_MS));
  assertEquals([rig.backend(device, "state"), rig.backend(device, "online")], ["6", "0"]);
});

for (const leave of ["connected", "detached"] as const) {
  Deno.test(`ended while its image opens, the device ${leave}: that is waited for, and the image is closed`, async () => {
    await using rig = new Rig();
    rig.attach();
    const begun = Promise.withResolvers<void>();
    const over = Promise.withResolvers<void>();
    rig.beforeOpen = () => (begun.resolve(), over.promise);
    rig.wrapDisk = (_request, disk) => ({
      [Symbol.asyncDispose]: async (): Promise<void> => {
        await turn();
        await disk[Symbol.asyncDispose]();
      },
    });
    const kind = rig.serve();
    await begun.promise;
    let ended = false;
    const closing = kind.close({ leave, timeoutMs: 0 }, NEVER_MS).finally(() => ended = true);
    for (let turns = 0; turns < 20; turns++) await turn();
    assertEquals([ended, rig.disks.length], [false, 0]);
    over.resolve();
    assert(await closing);
    assertEquals([rig.disks.length, rig.openDisks], [1, 0]);
  });
}
