/**
 * The log of unflushed writes: whatever a disk forgets that keeps answered writes in its memory, the log brings back,
 * in order. The disk here forgets everything that its last flush did not cover, and completes operations in any order.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import { EIO } from "../../lib/errno.ts";
import { newNonce } from "../../lib/nonce.ts";
import type { ChannelContext, ChannelOptions, IoChannel } from "../../lib/storage/disk.ts";
import { TableChannel } from "../../lib/storage/engine/operations.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { loggedAttachment, openChannel } from "../../lib/storage/write_log/channel.ts";
import { DiskLog, logBytes } from "../../lib/storage/write_log/log.ts";
import { ChannelRig, randomSource, simulatedPlatform } from "./rig.ts";

const DISK_BYTES = 64 << 10;
const SECTOR = 512;
/** 8 entries: full again and again. */
const DATA_BYTES = 16 << 10;
const DEPTH = 8;

/** A disk in another process: what was written is only in its memory until a flush. */
class ForgetfulDisk {
  readonly volatile = new Uint8Array(DISK_BYTES);
  durable = new Uint8Array(DISK_BYTES);
  flushes = 0;
  /** The result of flushes from now on. */
  flushResult = 0;
  /** The same of writes. */
  writeResult = 0;
  #flushed = 0;
  readonly #random: () => number;

  constructor(random: () => number) {
    this.#random = random;
  }

  open(options: ChannelOptions): ForgetfulChannel {
    return new ForgetfulChannel(this, options, this.#random);
  }

  /** A flush covers what was completed when it began, and not a byte more. */
  beginFlush(): () => void {
    const number = ++this.flushes;
    const covered = this.volatile.slice();
    return () => {
      if (number < this.#flushed) return;
      this.#flushed = number;
      this.durable = covered;
    };
  }
}

/** An operation that the disk works on. */
interface Work {
  readonly tag: number;
  /** Absent: not a flush. */
  readonly end?: () => void;
  isCarriedOut: boolean;
}

/** Carries out and completes any number of operations per reap, each in any order. */
class ForgetfulChannel extends TableChannel {
  readonly #disk: ForgetfulDisk;
  readonly #options: ChannelOptions;
  readonly #random: () => number;
  readonly #running: Work[] = [];

  constructor(disk: ForgetfulDisk, options: ChannelOptions, random: () => number) {
    super(options.depth);
    this.#disk = disk;
    this.#options = options;
    this.#random = random;
  }

  submit(): void {
    for (let tag = this.table.next; tag >= 0; tag = this.table.next) {
      this.table.shift();
      const flushing = this.table.operation[tag] === OPERATION.flush;
      const end = flushing ? { end: this.#disk.beginFlush() } : {};
      this.#running.push({ tag, ...end, isCarriedOut: false });
    }
  }

  override reap(): number {
    while (this.#running.length > 0 && this.#random() < 0.7) {
      const at = Math.floor(this.#random() * this.#running.length);
      const work = this.#running[at]!;
      if (!work.isCarriedOut) this.#carryOut(work);
      else this.#complete(this.#running.splice(at, 1)[0]!);
    }
    return super.reap();
  }

  #carryOut(work: Work): void {
    const { tag } = work;
    work.isCarriedOut = true;
    if (this.table.operation[tag] === OPERATION.write) this.#write(tag);
    if (this.table.operation[tag] === OPERATION.discard) {
      const begin = this.table.offsetBytes[tag]!;
      this.#disk.volatile.fill(0, begin, begin + this.table.lengthBytes[tag]!);
    }
  }

  #complete({ tag, end }: Work): void {
    const { flushResult, writeResult } = this.#disk;
    const writes = this.table.operation[tag] === OPERATION.write;
    const result = end !== undefined ? flushResult : writes ? writeResult : 0;
    if (result === 0) end?.();
    this.table.complete(tag, result);
  }

  #write(tag: number): void {
    const { vectors, memory } = this.#options;
    let at = this.table.offsetBytes[tag]!;
    for (let i = this.table.first[tag]!; i < this.table.first[tag]! + this.table.count[tag]!; i++) {
      this.#disk.volatile.set(memory.view(vectors.addresses[i]!, vectors.lengths[i]!), at);
      at += vectors.lengths[i]!;
    }
  }
}

/** A logged disk with two rings. */
class Stage implements Disposable {
  readonly disk: ForgetfulDisk;
  readonly log: DiskLog;
  readonly rings: ChannelRig[];
  readonly users: SharedArrayBuffer;
  readonly #platform = simulatedPlatform();

  constructor(random: () => number, rings = 2) {
    this.disk = new ForgetfulDisk(random);
    const lengthBytes = logBytes(2, DATA_BYTES);
    const memory = this.#platform.memory.allocate(lengthBytes);
    this.log = new DiskLog(memory.view);
    this.log.begin(newNonce(), 2, DATA_BYTES);
    this.users = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
    const place = { address: memory.address, lengthBytes };
    const attachment = loggedAttachment({ module: "file:///forgetful.ts" }, place, this.users);
    const context = { platform: this.#platform, openChannel: (_, options) => this.disk.open(options) } as Partial<
      ChannelContext
    > as ChannelContext;
    const open = (_: unknown, options: ChannelOptions): IoChannel => openChannel(attachment, options, context);
    this.rings = Array.from(
      { length: rings },
      () => new ChannelRig(attachment, { platform: this.#platform, open, depth: DEPTH, bufferBytes: 8192 }),
    );
  }

  /** What the disk holds once its process was killed and the log was written again. */
  afterDeath(): Uint8Array {
    const image = this.disk.durable.slice();
    for (const { offsetBytes, lengthBytes, data } of this.log.unflushed()) {
      if (data === undefined) image.fill(0, offsetBytes, offsetBytes + lengthBytes);
      else image.set(data, offsetBytes);
    }
    return image;
  }

  /** Closes a ring as a queue does: its last operation is a flush. */
  close(ring: ChannelRig): void {
    ring.channel.flush(0);
    ring.finish();
    ring[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    for (const ring of this.rings.splice(0)) this.close(ring);
  }
}

/** An operation that a guest has in flight. */
interface Running {
  readonly begin: number;
  readonly end: number;
  /** Absent: a flush. */
  readonly fill?: number;
}

/** A guest that knows what every sector must hold. */
class Guest {
  readonly model = new Uint8Array(DISK_BYTES);
  readonly running: Map<number, Running>[];
  answered = 0;
  readonly #stage: Stage;
  readonly #random: () => number;

  constructor(stage: Stage, random: () => number) {
    this.#stage = stage;
    this.#random = random;
    this.running = stage.rings.map(() => new Map());
  }

  step(): void {
    const index = this.#pick(this.#stage.rings.length);
    const ring = this.#stage.rings[index]!;
    const tag = this.#pick(DEPTH);
    if (!this.running[index]!.has(tag)) this.#start(index, tag);
    ring.channel.submit();
    this.#reap(index);
  }

  /** Lets everything in flight finish. */
  finish(): void {
    for (const [index, ring] of this.#stage.rings.entries()) {
      while (ring.channel.inFlight > 0) {
        ring.channel.submit();
        this.#reap(index);
      }
      assertEquals(this.running[index]!.size, 0);
    }
  }

  /** Every sector holds what was answered; one under a write in flight may hold anything. */
  check(image: Uint8Array): void {
    const unknown = new Set(
      this.running.flatMap((each) => [...each.values()]).flatMap(({ begin, end }) =>
        Array.from({ length: (end - begin) / SECTOR }, (_, i) => begin / SECTOR + i)
      ),
    );
    for (let sector = 0; sector < DISK_BYTES / SECTOR; sector++) {
      if (unknown.has(sector)) continue;
      const at = sector * SECTOR;
      assertEquals(image[at], this.model[at], `sector ${sector} after ${this.answered} answers`);
    }
  }

  #start(index: number, tag: number): void {
    const ring = this.#stage.rings[index]!;
    const kind = this.#random();
    if (kind < 0.1) {
      this.running[index]!.set(tag, { begin: 0, end: 0 });
      return ring.channel.flush(tag);
    }
    const lengthBytes = SECTOR * (1 + this.#pick(8));
    const begin = SECTOR * this.#pick((DISK_BYTES - lengthBytes) / SECTOR);
    const end = begin + lengthBytes;
    // Rings share no sector at a time; within a ring anything goes.
    const others = this.running.filter((_, other) => other !== index).flatMap((each) => [...each.values()]);
    if (others.some((other) => other.begin < end && begin < other.end)) return;
    const discards = kind < 0.2;
    const fill = discards ? 0 : 1 + this.#pick(255);
    this.running[index]!.set(tag, { begin, end, fill });
    if (discards) return ring.channel.discard(tag, begin, lengthBytes, false);
    ring.buffer(tag).fill(fill, 0, lengthBytes);
    const split = SECTOR * this.#pick(lengthBytes / SECTOR);
    ring.write(tag, begin, split === 0 ? [lengthBytes] : [split, lengthBytes - split]);
  }

  #reap(index: number): void {
    const { channel } = this.#stage.rings[index]!;
    const count = channel.reap();
    for (let i = 0; i < count; i++) {
      const tag = channel.tags[i]!;
      const { begin, end, fill } = this.running[index]!.get(tag)!;
      this.running[index]!.delete(tag);
      assertEquals(channel.results[i], 0);
      if (fill !== undefined) this.model.fill(fill, begin, end);
      this.answered++;
    }
  }

  #pick(count: number): number {
    return Math.floor(this.#random() * count);
  }
}

Deno.test("a disk that forgets what was not flushed gets every answered write back, at any moment, in order", () => {
  let replayed = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const random = randomSource(seed);
    using stage = new Stage(random);
    const guest = new Guest(stage, random);
    for (let step = 0; step < 400; step++) {
      guest.step();
      if (step % 20 === 0) {
        replayed += stage.log.unflushed().length;
        guest.check(stage.afterDeath());
      }
    }
    guest.finish();
    guest.check(stage.afterDeath());
    assertEquals(guest.running.map(({ size }) => size), [0, 0]);
  }
  assert(replayed > 400, `only ${replayed} operations were in the log when it was looked at`);
});

Deno.test("a log that is full flushes by itself, and writes wait for that", () => {
  using stage = new Stage(randomSource(1), 1);
  const ring = stage.rings[0]!;
  for (let written = 0; written < 20; written++) {
    ring.buffer(0).fill(written + 1);
    assertEquals(ring.writeNow(4096 * (written % 16), 4096), 0);
    assert(stage.log.unflushed().length <= 8);
  }
  assert(stage.disk.flushes >= 3, `${stage.disk.flushes} flushes`);
  ring.channel.flush(1);
  ring.finish();
  assertEquals(stage.log.unflushed(), []);
});

Deno.test("a write that has no room at the end of the log, which is less than half full, makes room and is carried out", () => {
  for (const isFlushed of [false, true]) {
    using stage = new Stage(randomSource(7));
    const [ring, other] = stage.rings as [ChannelRig, ChannelRig];
    for (const lengthBytes of [4096, 3072, 5120]) assertEquals(ring.writeNow(0, lengthBytes), 0);
    // The log's own flush has freed the first two: 5 of 16 KiB are used, and the last 4 are left.
    while (stage.log.unflushed().length > 1) ring.channel.reap();
    other.channel.flush(0);
    if (isFlushed) other.finish();
    ring.write(1, 8192, [8192]);
    finishSoon(ring);
    other.finish();
  }
});

/** A write that nobody completes would be waited for for a long time. */
function finishSoon(ring: ChannelRig): void {
  for (let turns = 0; ring.channel.inFlight > 0; turns++) {
    assert(turns < 1000, "it waits for ever");
    ring.channel.submit();
    ring.channel.reap();
  }
}

Deno.test("a flush of the guest waits for one of the log's own, so that the last one leaves nothing in flight", () => {
  using stage = new Stage(randomSource(6), 1);
  const ring = stage.rings[0]!;
  for (let tag = 0; tag < 4; tag++) assertEquals(ring.writeNow(4096 * tag, tag === 3 ? 512 : 2048), 0);
  ring.write(4, 0, [2048]);
  ring.channel.flush(0);
  ring.channel.submit();
  assertEquals(stage.disk.flushes, 1);
  ring.finish();
  assertEquals(stage.disk.flushes, 2);
});

Deno.test("after a failed flush of the log's own nothing is written any more, on any ring, and the log is kept", () => {
  using stage = new Stage(randomSource(2));
  const [one, other] = stage.rings as [ChannelRig, ChannelRig];
  other.channel.flush(1);
  other.channel.submit();
  stage.disk.flushResult = -EIO;
  for (let tag = 0; tag < 5; tag++) one.write(tag, 4096 * tag, [4096]);
  const results = [...one.finish().values()];
  assertEquals(results.filter((result) => result !== 0 && result !== -EIO), []);
  const kept = stage.log.unflushed().length;
  assert(kept >= 3, `${kept} operations are kept`);
  // The disk reports the failure once; its next flush succeeds, and proves nothing.
  stage.disk.flushResult = 0;
  assertEquals(other.finish(), new Map([[1, -EIO]]));
  assertEquals(other.writeNow(0, 512), -EIO);
  other.channel.flush(0);
  assertEquals(other.finish(), new Map([[0, -EIO]]));
  one.channel.discard(0, 0, 512, false);
  assertEquals(one.finish(), new Map([[0, -EIO]]));
  assertEquals(one.readNow(0, 512), 0);
  assertEquals(stage.log.unflushed().length, kept);
});

Deno.test("a failed write is not kept", () => {
  using stage = new Stage(randomSource(3), 1);
  const ring = stage.rings[0]!;
  stage.disk.writeResult = -EIO;
  assertEquals(ring.writeNow(512, 512), -EIO);
  stage.disk.writeResult = 0;
  assertEquals(ring.writeNow(0, 512), 0);
  assertEquals(stage.log.unflushed().map(({ offsetBytes, lengthBytes }) => [offsetBytes, lengthBytes]), [[0, 512]]);
});

Deno.test("a log belongs to its nonce, and to nobody if it is cut or damaged", () => {
  const memory = new Uint8Array(new SharedArrayBuffer(logBytes(1, DATA_BYTES)));
  const log = new DiskLog(memory);
  const nonce = newNonce();
  assertEquals(log.belongsTo(nonce), false);
  log.begin(nonce, 1, DATA_BYTES);
  assertEquals([log.belongsTo(nonce), log.belongsTo(newNonce())], [true, false]);
  assertEquals(new DiskLog(memory.subarray(0, 8192)).belongsTo(nonce), false);
  const words = new Uint32Array(memory.buffer);
  words[1] = 99;
  assertEquals(log.belongsTo(nonce), false);
  words[1] = 1;
  words[0] = 0;
  assertEquals(log.belongsTo(nonce), false);
  assertThrows(() => log.begin(nonce, 2, DATA_BYTES), TypeError);
});

Deno.test("what an idle ring has not reclaimed is not written again once another ring's flush covered it", () => {
  using stage = new Stage(randomSource(4));
  const [idle, busy] = stage.rings as [ChannelRig, ChannelRig];
  idle.buffer(0).fill(1);
  idle.writeNow(0, 512);
  busy.channel.flush(0);
  busy.finish();
  busy.buffer(0).fill(2);
  busy.writeNow(0, 512);
  busy.channel.flush(0);
  busy.finish();
  assertEquals(stage.log.unflushed(), []);
  assertEquals(stage.afterDeath()[0], 2);
});

Deno.test("each channel has a part of the log, which the next one can have when it is closed", () => {
  using stage = new Stage(randomSource(5));
  assertEquals([...new Int32Array(stage.users)], [1, 1]);
  stage.close(stage.rings.pop()!);
  assertEquals([...new Int32Array(stage.users)], [1, 0]);
});
