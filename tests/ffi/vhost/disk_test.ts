/**
 * Disks that a real qemu-storage-daemon exports by vhost-user-blk: data at depth 32 over two virtqueues, flushes and the
 * write cache, discards, read-only exports, sector sizes, resizes, and what a request costs the heap.
 */

import { assert, assertEquals, assertGreater, assertLess, assertMatch, assertRejects } from "@std/assert";
import { EBADF, EFAULT, EIO, EOPNOTSUPP } from "../../../lib/errno.ts";
import { XenblkError } from "../../../lib/errors.ts";
import { type ChannelRig, randomSource } from "../../storage/rig.ts";
import { HAS_DAEMON, run, StorageDaemon, VhostRig } from "./daemon.ts";
import { assertNoAllocation } from "../../heap.ts";

const MIB = 2 ** 20;
const DEPTH = 32;

function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name: `vhost: ${name}`, ignore: !HAS_DAEMON, fn });
}

/** Random requests of 4 KiB to 1 MiB on a channel's half of the disk, each compared with a model of that half. */
class Exerciser {
  readonly #rig: ChannelRig;
  readonly #begin: number;
  readonly #model: Uint8Array;
  readonly #random: () => number;
  readonly #requests: { offset: number; length: number; reading: boolean }[] = [];
  readonly #busy = new Set<number>();

  constructor(rig: ChannelRig, begin: number, length: number, random: () => number) {
    this.#rig = rig;
    this.#begin = begin;
    this.#model = new Uint8Array(length);
    this.#random = random;
  }

  /** Starts a request that overlaps none in flight, if one is found. */
  start(tag: number): void {
    const sizes = [4096, 4096, 8192, 65_536, 262_144];
    const length = sizes[Math.floor(this.#random() * sizes.length)]!;
    const offset = Math.floor(this.#random() * (this.#model.length - length) / 4096) * 4096;
    const overlaps = [...this.#busy].some((other) => {
      const request = this.#requests[other]!;
      return offset < request.offset + request.length && request.offset < offset + length;
    });
    if (overlaps) return;
    const reading = this.#random() < 0.5;
    this.#requests[tag] = { offset, length, reading };
    this.#busy.add(tag);
    const buffer = this.#rig.buffer(tag).subarray(0, length);
    buffer.fill(0);
    if (!reading) new Uint32Array(buffer.buffer, buffer.byteOffset, length / 4).fill(this.#random() * 2 ** 32);
    // In pieces, so that chains differ in length.
    const pieces = length === 4096 || this.#random() < 0.5
      ? [length]
      : [4096, length - 8192, 4096].filter((n) => n > 0);
    if (reading) this.#rig.read(tag, this.#begin + offset, pieces);
    else this.#rig.write(tag, this.#begin + offset, pieces);
  }

  finished(tag: number, result: number): void {
    const { offset, length, reading } = this.#requests[tag]!;
    this.#busy.delete(tag);
    assertEquals(result, 0);
    const data = this.#rig.buffer(tag).subarray(0, length);
    const expected = this.#model.subarray(offset, offset + length);
    if (!reading) expected.set(data);
    else assert(isSame(data, expected), `read of ${length} at ${offset}`);
  }

  get model(): Uint8Array {
    return this.#model;
  }
}

function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, i) => byte === other[i]);
}

for (const format of ["qcow2", "raw"]) {
  test(`random requests at depth 32 on two virtqueues of a ${format} read back what was written`, async () => {
    const sizeBytes = 32 * MIB;
    await using daemon = await StorageDaemon.start({ format, sizeBytes });
    {
      using rig = new VhostRig({ withIo: true });
      await using device = await rig.connect(daemon.socket);
      using one = await rig.channel(device, { depth: DEPTH, bufferBytes: 262_144 });
      using other = await rig.channel(device, { depth: DEPTH, bufferBytes: 262_144 });
      const random = randomSource(1);
      const half = sizeBytes / 2;
      const sides = [new Exerciser(one, 0, half, random), new Exerciser(other, half, half, random)] as const;
      const rigs = [one, other];
      for (let round = 0; round < 60; round++) {
        for (const side of sides) for (let tag = 0; tag < DEPTH; tag++) side.start(tag);
        for (const { channel } of rigs) channel.submit();
        rigs.forEach((each, i) => each.finish().forEach((result, tag) => sides[i]!.finished(tag, result)));
      }
      one.channel.flush(0);
      assertEquals(one.finish().get(0), 0);
      await daemon.kill();
      const raw = `${daemon.folder.path}/copy.raw`;
      run("qemu-img", ["convert", "-f", format, "-O", "raw", daemon.image, raw]);
      const bytes = Deno.readFileSync(raw);
      sides.forEach(({ model }, i) => assert(isSame(bytes.subarray(i * half, (i + 1) * half), model), `half ${i}`));
    }
    if (format === "qcow2") run("qemu-img", ["check", "-q", daemon.image]);
  });
}

test("a request of more segments than the export allows, and of 1 MiB, goes in pieces", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  using channel = await rig.channel(device, { depth: 2, bufferBytes: 2 * MIB, vectorsPerTag: 512 });
  // 300 vectors of 2.5 KiB: the export takes 126, which is not a multiple of a sector of 4 KiB, but of 512 bytes.
  const lengths = new Array<number>(300).fill(2560);
  const bytes = 300 * 2560;
  channel.buffer(0).forEach((_, i, buffer) => buffer[i] = i % 251);
  channel.write(0, 4096, lengths);
  assertEquals(channel.finish().get(0), 0);
  channel.read(1, 4096, [bytes]);
  assertEquals(channel.finish().get(1), 0);
  assert(isSame(channel.buffer(1).subarray(0, bytes), channel.buffer(0).subarray(0, bytes)));
  channel.read(1, 4096, lengths.toReversed());
  assertEquals(channel.finish().get(1), 0);
  assert(isSame(channel.buffer(1).subarray(0, bytes), channel.buffer(0).subarray(0, bytes)));
});

test("memory outside of the virtqueue's partition is refused", async () => {
  await using daemon = await StorageDaemon.start();
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  using channel = await rig.channel(device);
  using foreign = rig.platform.memory.allocate(4096);
  channel.vectors.lengths[0] = 4096;
  for (const address of [foreign.address, channel.vectors.addresses[0]! - 4096, 0, NaN]) {
    channel.vectors.addresses[0] = address;
    channel.channel.read(0, 0, 0, 1);
    assertEquals(channel.finish().get(0), -EFAULT);
  }
  assertEquals(channel.readNow(0, 4096), 0);
});

test("a flush reaches the medium, and a plain write does not flush", async () => {
  await using daemon = await StorageDaemon.start({ format: "raw", failingFlushes: true });
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  assertEquals(device.properties.cache, "writeback");
  using channel = await rig.channel(device);
  // In write-through mode each write but the first would fail with the flush behind it.
  for (let i = 0; i < 3; i++) assertEquals(channel.writeNow(0, 4096), 0);
  channel.channel.flush(0);
  assertEquals(channel.finish().get(0), -EIO);
});

test("a disk that writes through flushes with each write, also in the daemon that follows", async () => {
  const options = { format: "raw", failingFlushes: true };
  await using daemon = await StorageDaemon.start(options);
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket, { writeThrough: true });
  using channel = await rig.channel(device);
  const write = (): number[] => [1, 2, 3].map(() => channel.writeNow(0, 4096));
  assert(write().includes(-EIO));
  await daemon.kill();
  await device.lost;
  await using next = await StorageDaemon.start({ ...options, image: daemon.image }, daemon.folder);
  await rig.turningOver([channel], device.reconnect(next.socket));
  assert(write().includes(-EIO));
});

test("where errors lose the connection, one is reported after it came three times, and nothing counts behind it", async () => {
  const options = { format: "raw", failingReads: true };
  await using daemon = await StorageDaemon.start(options);
  await using daemons = new AsyncDisposableStack();
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket, { errorsLose: true });
  using channel = await rig.channel(device, { depth: 4 });
  channel.read(0, 0, [4096]);
  channel.write(1, 0, [4096]);
  channel.channel.submit();
  for (let before = daemon, death = 1; death <= 3; death++) {
    await rig.turningOver([channel], device.lost);
    assertMatch(await device.lost, /it reports an I\/O error/);
    await before.kill();
    before = daemons.use(await StorageDaemon.start({ ...options, image: daemon.image }, daemon.folder));
    await rig.turningOver([channel], device.paused());
    await device.reconnect(before.socket);
  }
  const results = channel.finish();
  assertEquals([results.get(0), results.get(1)], [-EIO, 0]);
});

test("a discard of a whole qcow2 makes its file smaller, piece by piece, and a secure one is refused", async () => {
  await using daemon = await StorageDaemon.start({ sizeBytes: 64 * MIB });
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  assertEquals(device.properties.discard, { granularityBytes: 512, alignmentBytes: 0, secure: false });
  using channel = await rig.channel(device, { depth: 4, bufferBytes: MIB });
  channel.buffer(0).fill(0x77);
  for (let at = 0; at < 48; at++) assertEquals(channel.writeNow(at * MIB, MIB), 0);
  const used = (): number => Deno.statSync(daemon.image).blocks! * 512;
  assertGreater(used(), 48 * MIB);
  channel.channel.discard(0, 0, 64 * MIB, false);
  channel.channel.discard(1, 0, 4096, true);
  const results = channel.finish();
  assertEquals([results.get(0), results.get(1)], [0, -EOPNOTSUPP]);
  assertLess(used(), 2 * MIB);
  assertEquals(channel.readNow(5 * MIB, MIB), 0);
  assert(channel.buffer(0).every((byte) => byte === 0));
});

test("a read-only export is a read-only disk, and so is a writable one that is opened so", async () => {
  for (const [writable, readOnly] of [[false, false], [true, true]] as const) {
    await using daemon = await StorageDaemon.start({ writable });
    using rig = new VhostRig();
    await using device = await rig.connect(daemon.socket, { readOnly });
    assertEquals([device.properties.readOnly, device.properties.discard], [true, undefined]);
    using channel = await rig.channel(device);
    assertEquals([channel.writeNow(0, 4096), channel.readNow(0, 4096)], [-EBADF, 0]);
  }
});

test("the properties are the export's: size, sectors of 4096 bytes, and grants by copy only", async () => {
  await using daemon = await StorageDaemon.start({ sizeBytes: 8 * MIB, blockBytes: 4096 });
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  const { copyOnly, ...properties } = device.properties;
  assertEquals(properties, {
    sectors: 8 * MIB / 512,
    logicalSectorBytes: 4096,
    physicalSectorBytes: 4096,
    readOnly: false,
    cache: "writeback",
    discard: { granularityBytes: 4096, alignmentBytes: 0, secure: false },
  });
  assertEquals(copyOnly, "the storage daemon works on memory that it shares with this process, not on the guest's");
});

test("after a resize channels reach the new end, and the properties have the size once refresh was told", async () => {
  await using daemon = await StorageDaemon.start({ sizeBytes: 16 * MIB });
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  using channel = await rig.channel(device);
  for (const sizeBytes of [24 * MIB, 32 * MIB]) {
    await daemon.command("block_resize", { "node-name": "disk", size: sizeBytes });
    await device.refresh(sizeBytes);
    assertEquals(device.properties.sectors, sizeBytes / 512);
    assertEquals(channel.writeNow(sizeBytes - 4096, 4096), 0);
  }
});

test("virtqueues are used again after their channels have closed, more than there are never at a time", async () => {
  await using daemon = await StorageDaemon.start({ queues: 2 });
  using rig = new VhostRig();
  await using device = await rig.connect(daemon.socket);
  for (let round = 0; round < 4; round++) {
    using one = await rig.channel(device);
    using other = await rig.channel(device);
    one.buffer(0).fill(round + 1);
    assertEquals([one.writeNow(0, 4096), other.readNow(0, 4096), other.buffer(0)[99]], [0, 0, round + 1]);
    await assertRejects(
      () => device.attachment(0),
      XenblkError,
      "Cannot use image disk: the storage daemon: all of its 2 virtqueues are used",
    );
  }
  // Those that were never opened are taken back, the oldest first.
  const [oldest] = [await device.attachment(0), await device.attachment(0)];
  using late = await rig.channel(device);
  assertEquals(late.readNow(0, 4096), 0);
  await assertRejects(
    async () => void await Promise.resolve(rig.openMemory(oldest!)),
    XenblkError,
    "another channel has its place",
  );
});

test("requests allocate nothing", async () => {
  await using daemon = await StorageDaemon.start({ format: "raw" });
  using rig = new VhostRig({ withIo: true });
  await using device = await rig.connect(daemon.socket);
  using channels = await rig.channel(device, { depth: DEPTH, bufferBytes: 4096, vectorsPerTag: 1 });
  const { channel, vectors } = channels;
  for (let tag = 0; tag < DEPTH; tag++) channels.read(tag, tag * 4096, [4096]);
  channels.finish();
  assertEquals(vectors.lengths[DEPTH - 1], 4096);
  const carryOut = (operations: number): void => {
    for (let done = 0; done < operations;) {
      for (let tag = 0; tag < DEPTH; tag++) {
        if (tag % 2 === 0) channel.read(tag, tag * 4096, tag, 1);
        else channel.write(tag, tag * 4096, tag, 1);
      }
      channel.submit();
      while (channel.inFlight > 0) {
        done += channel.reap();
        if (channel.inFlight > 0 && channel.dueMs !== 0) rig.parker.park(-1);
      }
    }
  };
  assertNoAllocation(5000, carryOut);
});
