/**
 * Descriptors that name modules from outside the project: an engine, a filter in front of it and a hypervisor serve a
 * guest across the boundary of a Worker; what cannot be loaded is refused, by name, on its own device only.
 */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { InlineDataPlane } from "../../lib/dataplane/inline_dataplane.ts";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, PlatformDescriptor, Waker, WakeToken } from "../../lib/hypervisor.ts";
import { Modules } from "../../lib/modules.ts";
import { PARKED } from "../../lib/park_word.ts";
import { Machine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { Disk, DiskAttachment, DiskModule } from "../../lib/storage/disk.ts";
import { counting } from "./modules/counting_platform.ts";
import { MASK, maskedAttachment } from "./modules/masked_disk.ts";
import { ownMemoryOf } from "./modules/own_memory_disk.ts";
import { partOf } from "./modules/splitting_filter.ts";
import { BACKEND, Bench, Guest, openMemoryDisk } from "./worker_rig.ts";

const PART_BYTES = 1 << 20;
const moduleAt = (name: string): string => new URL(`./modules/${name}`, import.meta.url).href;

/** A disk from outside the project: all that it takes. */
function diskOf(attachment: DiskAttachment): Disk {
  return {
    properties: { sectors: PART_BYTES / 512, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
    description: "a foreign disk",
    attachment: () => Promise.resolve(attachment),
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}

/** Writes to some sectors and reads them back; every byte is compared. */
async function writeAndRead(guest: Guest): Promise<void> {
  const [from, to] = [guest.data.view.subarray(0, 4096), guest.data.view.subarray(4096)];
  for (const sector of [0, 3, 1000, PART_BYTES / 512 - 8]) {
    from.forEach((_, i) => from[i] = sector + 7 * i);
    to.fill(0);
    assertEquals(await guest.request(OP_WRITE, 0, sector), 0);
    assertEquals(await guest.request(OP_READ, 1, sector), 0);
    assertEquals(to, from, `sector ${sector}`);
  }
}

Deno.test("an engine, a filter and a hypervisor from outside the project serve a guest from a reactor's Worker", async () => {
  const counters = new SharedArrayBuffer(8);
  const data = new SharedArrayBuffer(2 * PART_BYTES);
  await using bench = new Bench(1, (platform) => counting(platform, counters));
  await using disk = diskOf(partOf(maskedAttachment(data), PART_BYTES));
  using guest = new Guest(bench.machine, 3 as DomId);
  const queue = await bench.plane.openQueue(guest.spec(disk));
  await writeAndRead(guest);
  await queue.close();
  assertEquals([...new Int32Array(counters)], [1, 1], "opened once by the Worker, and used there");
  const stored = new Uint8Array(data);
  assert(stored.subarray(0, PART_BYTES).every((byte) => byte === 0), "the filter kept to its part");
  assertEquals(
    stored.slice(2 * PART_BYTES - 4096).map((byte) => byte ^ MASK),
    guest.data.view.slice(0, 4096),
    "the engine kept it in its own way",
  );
});

Deno.test("the same modules serve in the caller's own thread", async () => {
  const bench = new Bench();
  await using plane = new InlineDataPlane({
    platform: openSimulatedPlatform(bench.machine, BACKEND),
    warn: (line) => assert(false, line),
  });
  await using disk = diskOf(partOf(maskedAttachment(new SharedArrayBuffer(2 * PART_BYTES)), PART_BYTES));
  using guest = new Guest(bench.machine, 3 as DomId);
  await plane.openQueue(guest.spec(disk));
  const turning = setInterval(() => plane.turn(), 0);
  await writeAndRead(guest);
  await plane[Symbol.asyncDispose]();
  clearInterval(turning);
});

Deno.test("a disk behind a filter says where buffers lie; only one can, and only in grant mode copy", async () => {
  await using bench = new Bench();
  const counters = new SharedArrayBuffer(12);
  const words = new Int32Array(counters);
  const owner = ownMemoryOf(maskedAttachment(new SharedArrayBuffer(PART_BYTES)), counters);
  await using disk = diskOf(partOf(owner, 0));
  using guest = new Guest(bench.machine, 3 as DomId);
  for (let round = 0; round < 2; round++) {
    const queue = await bench.plane.openQueue(guest.spec(disk));
    assertEquals([words[0], words[1]! > 0], [1, true]);
    await writeAndRead(guest);
    await queue.close();
    assertEquals([words[0], words[2]], [0, 0]);
  }
  const reason = "buffers cannot lie in the memory of both";
  const both = { ...ownMemoryOf(owner, counters), inner: [owner, ownMemoryOf(owner, counters)] };
  await assertRejects(() => bench.plane.openQueue(guest.spec(diskOf(both))), XenblkError, reason);
  const mapped = { ...guest.spec(disk), grants: "map" as const };
  await assertRejects(
    () => bench.plane.openQueue(mapped),
    XenblkError,
    "Cannot serve the disk with grants map: it has memory of its own",
  );
  assertEquals(words[0], 0, "what was opened before the refusal is closed");
});

const BAD_DISKS: readonly (readonly [attachment: DiskAttachment, reason: RegExp])[] = [
  [{ module: moduleAt("missing.ts") }, /^Cannot load module file:\/\/.*missing\.ts: Module not found/],
  [{ module: moduleAt("throwing.ts") }, /^Cannot load module file:\/\/.*throwing\.ts: .*a defect of its own/],
  [{ module: moduleAt("counting_platform.ts") }, /counting_platform\.ts: it exports no function openChannel$/],
  [{ module: "./relative.ts" }, /^Cannot load module \.\/relative\.ts: its name is not an absolute URL$/],
  [{ module: moduleAt("refusing.ts") }, /^no such disk$/],
  [partOf({ module: moduleAt("missing.ts") }, 0), /missing\.ts: Module not found/],
  [partOf(partOf({ module: moduleAt("refusing.ts") }, 0), 0), /^no such disk$/],
];

const CYCLE: { module: string; inner?: DiskAttachment } = { module: moduleAt("splitting_filter.ts") };
CYCLE.inner = CYCLE as DiskAttachment;

Deno.test("a disk is refused by name if its module cannot be loaded, and its neighbours are served", async () => {
  await using bench = new Bench();
  await using good = await openMemoryDisk();
  using neighbour = new Guest(bench.machine, 3 as DomId);
  await bench.plane.openQueue(neighbour.spec(good));
  using guest = new Guest(bench.machine, 4 as DomId);
  const senseless = [
    [CYCLE as DiskAttachment, /splitting_filter\.ts: it is behind itself$/],
    [{ module: moduleAt("splitting_filter.ts"), inner: null as never }, /null/],
  ] as const;
  for (const [attachment, reason] of [...BAD_DISKS, ...senseless]) {
    const error = await assertRejects(() => bench.plane.openQueue(guest.spec(diskOf(attachment))), XenblkError);
    assertMatch(error.message, reason);
    assertEquals(await neighbour.request(OP_READ, 0), 0);
  }
  const queue = await bench.plane.openQueue(guest.spec(good));
  assertEquals(await guest.request(OP_READ, 0), 0, "the ring itself is as it was");
  await queue.close();
});

Deno.test("a module that never finishes loading delays no other disk, nor the end of the data plane", async () => {
  const bench = new Bench();
  await using good = await openMemoryDisk();
  using neighbour = new Guest(bench.machine, 3 as DomId);
  using guest = new Guest(bench.machine, 4 as DomId);
  using third = new Guest(bench.machine, 5 as DomId);
  const queue = await bench.plane.openQueue(neighbour.spec(good));
  const hanging = bench.plane.openQueue(guest.spec(diskOf({ module: moduleAt("hanging.ts") })));
  const refused = assertRejects(() => hanging, XenblkError, "the data plane is closed");
  using fourth = new Guest(bench.machine, 6 as DomId);
  const end = new AbortController();
  const impatient = bench.plane.openQueue(fourth.spec(diskOf({ module: moduleAt("hanging.ts") })), end.signal);
  const abandoned = assertRejects(() => impatient, DOMException);
  for (let i = 0; i < 50; i++) assertEquals(await neighbour.request(OP_READ, 0), 0);
  end.abort();
  await abandoned;
  await bench.plane.openQueue(third.spec(good));
  assertEquals(await third.request(OP_READ, 0), 0);
  await queue.close();
  await bench.plane[Symbol.asyncDispose]();
  await refused;
});

Deno.test("a reactor sleeps again once modules were refused or are no longer wanted, and opens nothing late", async () => {
  let word: Int32Array | undefined;
  let commands = 0;
  await using bench = new Bench(1, (platform) => {
    const openWaker = (token: WakeToken): Waker => {
      const machine = platform.descriptor["machine"] as SharedArrayBuffer;
      word = new Machine(machine).wakeWord(new Int32Array(token.word)[0]!);
      const waker = openSimulatedPlatform(machine, BACKEND).openWaker(token);
      return { wake: () => (commands++, waker.wake()) };
    };
    return Object.assign(platform, { openWaker });
  });
  const asleep = async (): Promise<void> => {
    for (const end = performance.now() + 10_000; Atomics.load(word!, 0) !== PARKED;) {
      assert(performance.now() < end, "the reactor does not sleep");
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  await bench.plane.start();
  await asleep();
  using guest = new Guest(bench.machine, 3 as DomId);
  const before = machineUsage(bench.machine);
  await assertRejects(() => bench.plane.openQueue(guest.spec(diskOf({ module: moduleAt("missing.ts") }))), XenblkError);
  await asleep();
  const end = new AbortController();
  const unwanted = bench.plane.openQueue(guest.spec(diskOf({ module: moduleAt("slow.ts") })), end.signal);
  const abandoned = assertRejects(() => unwanted, DOMException);
  while (commands < 2) await new Promise((resolve) => setTimeout(resolve, 0));
  end.abort();
  await abandoned;
  await asleep();
  assertEquals(machineUsage(bench.machine), before);
});

Deno.test("a module that takes too long is refused; once it is there, it is loaded", async () => {
  const module = moduleAt("slow.ts");
  const impatient = new Modules<DiskModule>("openChannel", 20);
  const late = await assertRejects(() => impatient.load(module), XenblkError);
  assertMatch(late.message, /slow\.ts: it did not load within 0\.02 s$/);
  assertEquals(impatient.get(module), undefined);
  const loaded = await new Modules<DiskModule>("openChannel").load(module);
  assertEquals([typeof loaded.openChannel, await impatient.load(module) === loaded], ["function", true]);
});

Deno.test("starting the data plane reports a platform that cannot be loaded, or that opens nothing", async () => {
  const bad: readonly (readonly [descriptor: PlatformDescriptor, reason: RegExp])[] = [
    [{ module: moduleAt("missing.ts") }, /^Cannot load module .*missing\.ts: Module not found/],
    [{ module: moduleAt("masked_disk.ts") }, /masked_disk\.ts: it exports no function openPlatform$/],
    [{ module: moduleAt("refusing.ts") }, /^no such hypervisor$/],
  ];
  for (const [descriptor, reason] of bad) {
    const { machine } = new Bench();
    const platform = { ...counting(openSimulatedPlatform(machine, BACKEND), new SharedArrayBuffer(8)), descriptor };
    const options = { platform, workers: 1, addLane: () => Promise.resolve(), warn: () => {} };
    await using plane = new WorkerDataPlane(options);
    const error = await assertRejects(() => plane.start(), XenblkError);
    assertMatch(error.message, reason);
    if (!error.message.startsWith("Cannot load")) assertEquals(error.remedy, "boot under one");
  }
});
