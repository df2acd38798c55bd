/**
 * A logged disk whose process forgets everything that its last flush did not cover, and completes operations in any order,
 * and a guest that knows what every sector must hold. No test is in here.
 */

import { assert, assertEquals } from "@std/assert";
import { newNonce } from "../../lib/nonce.ts";
import type { ChannelContext, ChannelOptions, DiskAttachment, IoChannel } from "../../lib/storage/disk.ts";
import { TableChannel } from "../../lib/storage/engine/operations.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { loggedAttachment, openChannel } from "../../lib/storage/write_log/channel.ts";
import { DiskLog, logBytes } from "../../lib/storage/write_log/log.ts";
import { LogParts } from "../../lib/storage/write_log/parts.ts";
import { ChannelRig, simulatedPlatform } from "./rig.ts";

const DISK_BYTES = 64 << 10;
const SECTOR = 512;
/** 8 entries: full again and again. */
export const DATA_BYTES = 16 << 10;
const DEPTH = 8;

/** A disk in another process: what was written is only in its memory until a flush. */
export class ForgetfulDisk {
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
export class Stage implements Disposable {
  readonly disk: ForgetfulDisk;
  readonly log: DiskLog;
  readonly rings: ChannelRig[];
  readonly #platform = simulatedPlatform();

  constructor(random: () => number, rings = 2) {
    this.disk = new ForgetfulDisk(random);
    const lengthBytes = logBytes(2, DATA_BYTES);
    const memory = this.#platform.memory.allocate(lengthBytes);
    this.log = new DiskLog(memory.view);
    this.log.begin(newNonce(), 2, DATA_BYTES);
    const place = { address: memory.address, lengthBytes };
    const parts = new LogParts(2);
    const context = { platform: this.#platform, openChannel: (_, options) => this.disk.open(options) } as Partial<
      ChannelContext
    > as ChannelContext;
    const open = (attachment: DiskAttachment, options: ChannelOptions): IoChannel =>
      openChannel(attachment, options, context);
    this.rings = Array.from(
      { length: rings },
      () => {
        const attachment = loggedAttachment({ module: "file:///forgetful.ts" }, place, parts.give()!);
        return new ChannelRig(attachment, { platform: this.#platform, open, depth: DEPTH, bufferBytes: 8192 });
      },
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
export class Guest {
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

  /** Every sector holds what was answered last, or what an operation in flight writes there. */
  check(image: Uint8Array): void {
    const running = this.running.flatMap((each) => [...each.values()]);
    for (let at = 0; at < DISK_BYTES; at += SECTOR) {
      if (image[at] === this.model[at]) continue;
      const isUnderWay = running.some(({ begin, end, fill }) => begin <= at && at < end && image[at] === fill);
      assert(
        isUnderWay,
        `sector ${at / SECTOR} is ${image[at]}, not ${this.model[at]}, after ${this.answered} answers`,
      );
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
