/**
 * The latch after a failed flush belongs to the attachment of a disk, not to a connection or a process: only the operator
 * clears it, by attaching the disk again.
 */

import { assert, assertEquals } from "@std/assert";
import { BackendKind } from "../../lib/backend/kind.ts";
import { Latch, LATCH_BYTES } from "../../lib/dataplane/latch.ts";
import type { Disk, DiskRequest, VolatileContent } from "../../lib/storage/disk.ts";
import { openDisk } from "../../lib/storage/open.ts";
import { removeDevice } from "../../lib/toolstack/attach.ts";
import { requestRemoval } from "../../lib/toolstack/removal.ts";
import { backendPath, type DeviceAddress } from "../../lib/xenbus/paths.ts";
import { SimulatedClock } from "../../lib/testing/clock.ts";
import { faultyStore, type Judge } from "./faulty_store.ts";
import { DOM0, Rig, RING_NODES, turn, until } from "./rig.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

const STAY = { leave: "connected", timeoutMs: 0 } as const;

/** The latch that the last ring was given. */
function latchOf(rig: Rig): Latch {
  return new Latch(rig.platform.memory.view(rig.plane.queues.at(-1)!.spec.latch!, LATCH_BYTES));
}

function latched(kind: BackendKind): boolean | undefined {
  return kind.status()[0]?.latched;
}

for (const keepJournals of [true, false]) {
  const how = keepJournals ? "with journals" : "without journals";
  Deno.test(`a latch is there for the next connection and for the next process, ${how}`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const first = rig.serve({}, { keepJournals });
    const frontend = rig.frontend(device);
    await frontend.connect();
    assertEquals([latched(first), latchOf(rig).tripped], [false, false]);
    latchOf(rig).trip();
    assertEquals(latched(first), true);
    await frontend.disconnect();
    await frontend.reconnect();
    assertEquals(latchOf(rig).tripped, true, "the guest cannot clear it");
    assertEquals(await first.close(STAY, 5000), true);
    const second = rig.serve({}, { keepJournals });
    await until("the second one serves it", () => rig.plane.open.length === 1 && rig.plane.queues.length === 3);
    assertEquals([latched(second), latchOf(rig).tripped], [true, true]);
    await until("the error is reported", () => /a flush failed/.test(rig.backend(device, "error") ?? ""));
    assert(
      rig.lines.some((line) => /error: .*a flush failed since it was attached/.test(line)),
      rig.lines.join("\n"),
    );
  });
}

Deno.test("attaching the disk again clears the latch, whether a process saw its removal or not", async () => {
  await using rig = new Rig();
  let kind = rig.serve();
  for (const seen of [true, false]) {
    const device = rig.attach();
    const frontend = rig.frontend(device);
    await frontend.connect();
    assertEquals(latchOf(rig).tripped, false, `another one was removed, ${seen ? "at first" : "seen"}`);
    latchOf(rig).trip();
    if (!seen) assertEquals(await kind.close(STAY, 5000), true);
    removeDevice(rig.toolstack, device);
    if (seen) await until("it is given up", () => kind.status().length === 0);
  }
  kind = rig.serve();
  const device = rig.attach();
  await rig.frontend(device).connect();
  assertEquals([latched(kind), latchOf(rig).tripped], [false, false]);
});

Deno.test("a device that is gone when its process ends leaves no latch behind", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const kind = rig.serve();
  await rig.frontend(device).connect();
  const { journals } = openSimulatedPlatform(rig.machine, DOM0);
  assert(journals.names().some((name) => name.endsWith("-latch")));
  removeDevice(rig.toolstack, device);
  assertEquals(await kind.close(STAY, 5000), true);
  assertEquals(journals.names(), []);
});

/** A guest that a process served which ended after a flush had failed. */
async function leftLatched(rig: Rig): Promise<DeviceAddress> {
  const device = rig.attach();
  const first = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  latchOf(rig).trip();
  assertEquals(await first.close(STAY, 5000), true);
  return device;
}

/** Lines of the log that report the latch. */
function reports(rig: Rig): string[] {
  return rig.lines.filter((line) => line.includes("a flush failed since it was attached"));
}

Deno.test("a latch whose error node cannot be written is logged once, however often the write is retried", async () => {
  await using rig = new Rig();
  const device = await leftLatched(rig);
  const clock = new SimulatedClock();
  let tries = 0;
  const judge: Judge = ({ what, value }) =>
    what === "write" && /a flush failed/.test(value ?? "") && tries++ < 5 ? "ENOSPC" : undefined;
  rig.serve({}, { clock, openXenstore: () => faultyStore(rig.simulated.connect(DOM0), judge) });
  await until("its ring is served", () => rig.plane.open.length === 1);
  for (let waits = 0; waits < 8; waits++) {
    await turn();
    clock.advance(5000);
  }
  await until("the error is written", () => rig.backend(device, "error") !== undefined);
  assertEquals([reports(rig).length, rig.plane.open.length], [1, 1]);
});

Deno.test("a latch is also reported for a device that is about to be removed", async () => {
  await using rig = new Rig();
  const device = await leftLatched(rig);
  requestRemoval(rig.toolstack, backendPath(device));
  const kind = rig.serve();
  await until("its ring is served", () => rig.plane.open.length === 1);
  await until("the error is written", () => /a flush failed/.test(rig.backend(device, "error") ?? ""));
  assertEquals([reports(rig).length, /a flush failed/.test(kind.status()[0]!.error ?? "")], [1, true]);
});

Deno.test("a failed flush is in the error node, the status and the log at once, whatever else the guest has logged", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const other = rig.attach({ vdev: "xvdb" });
  const kind = rig.serve();
  rig.guestWrites(device, { ...RING_NODES, state: "3" });
  await rig.backendReaches(device, 4);
  rig.guestWrites(device, { state: "4" });
  await rig.idle(device);
  const limit = 30;
  for (let error = 0; error <= limit; error++) {
    rig.toolstack.write(`${backendPath(other)}/params`, `/nonexistent/${error}`);
    await until("it is an error", () => rig.backend(other, "error")?.includes(`/${error}:`) === true);
  }
  assertEquals(rig.lines.filter((line) => line.startsWith("error")).length, limit, "the guest's allowance is used up");
  latchOf(rig).trip();
  rig.plane.queues[0]!.latch();
  await until("the error is written", () => /a flush failed/.test(rig.backend(device, "error") ?? ""));
  assertEquals([reports(rig).length, /a flush failed/.test(kind.status()[0]!.error ?? "")], [1, true]);
});

/** Opens disks that lose answered writes with their process; collects why they are given up. */
function volatileDisks(loses: VolatileContent["loses"], reasons: string[]): (request: DiskRequest) => Promise<Disk> {
  return async (request) => {
    const disk = await openDisk(request);
    const failed = Promise.withResolvers<string>();
    const giveUp = (reason: string): void => {
      reasons.push(reason);
      failed.resolve(reason);
    };
    return {
      properties: disk.properties,
      description: disk.description,
      failed: failed.promise,
      volatile: { loses, giveUp },
      attachment: (lane) => disk.attachment(lane),
      [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
    };
  };
}

for (const loses of ["unflushed", "all"] as const) {
  Deno.test(`a disk that loses ${loses} with its process is given up by the next one, if that is so`, async () => {
    await using rig = new Rig();
    const device = rig.attach();
    const reasons: string[] = [];
    const serve = async (): Promise<BackendKind> => {
      const kind = rig.serve({}, { openDisk: volatileDisks(loses, reasons) });
      await until("its ring is served", () => rig.plane.open.length === 1);
      return kind;
    };
    const frontend = rig.frontend(device);
    const [first] = await Promise.all([serve(), frontend.connect()]);
    await frontend.disconnect();
    await frontend.reconnect();
    assertEquals(reasons, [], "the same process has it still");
    assertEquals(await first.close(STAY, 5000), true);
    const second = await serve();
    const ended = "what was written to it has ended with the process that served it";
    assertEquals(reasons, loses === "all" ? [ended] : [], "it was flushed and closed");
    assertEquals(await second.close(STAY, 5000), true);
    // As a process that is killed leaves it.
    const { journals } = openSimulatedPlatform(rig.machine, DOM0);
    using memory = journals.open(journals.names().find((name) => name.endsWith("-latch"))!, LATCH_BYTES);
    new Latch(memory.view).hold();
    await serve();
    const killed = "an earlier process has ended before its writes were flushed";
    const reason = loses === "all" ? ended : killed;
    assertEquals(reasons.at(-1), reason);
    const error = `Cannot use it: ${reason}; writes that it had answered may be lost: attach it anew`;
    await until("the error is written", () => rig.backend(device, "error")?.includes(error) === true);
  });
}

Deno.test("a disk that takes long to close, and then has lost answered writes, is given up by the next process", async () => {
  await using rig = new Rig();
  const device = rig.attach();
  const reasons: string[] = [];
  const open = volatileDisks("unflushed", reasons);
  const closing = Promise.withResolvers<void>();
  let isClosing = false;
  const clock = new SimulatedClock();
  const first = rig.serve({}, {
    clock,
    openDisk: async (request) => {
      const disk = await open(request);
      return Object.assign(disk, { [Symbol.asyncDispose]: () => (isClosing = true, closing.promise) });
    },
  });
  await rig.frontend(device).connect();
  const closed = first.close(STAY, 60_000);
  await until("the disk is being closed", () => isClosing);
  // Longer than anybody waits for it.
  clock.advance(11_000);
  await turn();
  closing.reject(new Error("writes that it had answered may be lost"));
  assertEquals(await closed, true);
  rig.serve({}, { openDisk: open });
  await until("its ring is served", () => rig.plane.open.length === 1);
  assertEquals(reasons, ["an earlier process has ended before its writes were flushed"]);
});
