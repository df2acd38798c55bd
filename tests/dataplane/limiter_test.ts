/**
 * The way of a ring to its disk while that has limits, and while it has none: then it is the disk's own channel, and
 * nothing is left waiting.
 */

import { assert, assertEquals } from "@std/assert";
import { OP_DISCARD, OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { Limiter, SOME_WITHOUT_DATA } from "../../lib/dataplane/limiter.ts";
import { PHASE_TAKEN } from "../../lib/dataplane/slot_table.ts";
import type { IoChannel } from "../../lib/storage/disk.ts";
import { nullAttachment, openChannel } from "../../lib/storage/engine/null.ts";
import type { ThrottleOptions } from "../../lib/storage/filter/table.ts";
import { DiskLimits } from "../../lib/storage/filter/limits.ts";
import { simulatedPlatform } from "../storage/rig.ts";

const DEPTH = 8;

/** A ring's way to a disk that does nothing, on a clock that stands still. */
class Way implements Disposable {
  readonly limits = new DiskLimits();
  readonly inner: IoChannel;
  readonly limiter: Limiter;
  nowMs = 1000;

  constructor() {
    const platform = Object.assign(simulatedPlatform(), { now: () => this.nowMs });
    const vectors = { addresses: new Float64Array(DEPTH), lengths: new Uint32Array(DEPTH).fill(4096) };
    const options = { depth: DEPTH, vectors, memory: platform.memory };
    this.inner = openChannel(nullAttachment(), options);
    this.limiter = new Limiter(this.inner, options, this.limits.memory, platform);
  }

  /** Whether operations go to the disk without passing through anything. */
  get isDirect(): boolean {
    return this.limiter.channel === this.inner;
  }

  /** A pass that starts these requests of 4 KiB. Returns whether they went straight to the disk. */
  start(operation: number, ...tags: number[]): boolean {
    const taken = Uint16Array.from(tags);
    const phase = new Uint8Array(DEPTH).fill(PHASE_TAKEN);
    const hasData = operation === OP_READ || operation === OP_WRITE;
    const lengthBytes = new Uint32Array(DEPTH).fill(hasData ? 4096 : 0);
    const channel = this.limiter.open(
      { taken, phase, lengthBytes, operation: new Uint8Array(DEPTH).fill(operation) },
      0,
      tags.length,
      hasData ? 4096 * tags.length : SOME_WITHOUT_DATA,
    );
    for (const tag of tags) {
      if (operation === OP_READ) channel.read(tag, 0, tag, 1);
      else if (operation === OP_WRITE) channel.write(tag, 0, tag, 1);
      else if (operation === OP_DISCARD) channel.discard(tag, 0, 4096, false);
      else channel.flush(tag);
    }
    return channel === this.inner;
  }

  /** Sets limits, under which something is carried out, and waits until all has been saved up that can be. */
  saveUp(limits: ThrottleOptions): void {
    this.limits.set(limits);
    this.pass();
    for (const operation of [OP_READ, OP_WRITE]) {
      this.start(operation, 0);
      this.pass();
      this.nowMs += 10_000;
      this.pass();
    }
  }

  queue(...tags: number[]): void {
    for (const tag of tags) this.limiter.channel.read(tag, 0, tag, 1);
  }

  /** One pass: what is complete, by tag. */
  pass(): number[] {
    if (this.limiter.isStale) this.limiter.adapt();
    const { channel } = this.limiter;
    channel.submit();
    return [...channel.tags.subarray(0, channel.reap())];
  }

  [Symbol.dispose](): void {
    this.limiter[Symbol.dispose]();
  }
}

Deno.test("without limits operations go straight to the disk, whatever was set before", () => {
  using way = new Way();
  assert(way.isDirect);
  for (const limits of [{ iops: 100 }, { bytesPerSecond: 4096 }, { iops: 7, bytesBurst: 512 }]) {
    way.limits.set(limits);
    assert(way.limiter.isStale);
    way.pass();
    assertEquals([way.isDirect, way.limiter.isStale], [false, false]);
    way.limits.end();
    way.pass();
    assertEquals([way.isDirect, way.limiter.isStale], [true, false]);
  }
  way.limits.set({ iopsBurst: 3, bytesBurst: 10 });
  way.pass();
  assert(way.isDirect, "a burst alone limits nothing");
});

Deno.test("what waits is started when the limits end, and each operation completes once", () => {
  using way = new Way();
  way.limits.set({ iops: 10, iopsBurst: 2 });
  way.pass();
  way.queue(0, 1, 2, 3, 4);
  assertEquals(way.pass(), [], "a limit that begins has saved up nothing");
  way.nowMs += 100;
  assertEquals(way.pass(), [0]);
  way.nowMs += 100;
  assertEquals(way.pass(), [1]);
  way.queue(5, 6);
  way.limits.set({ iops: 0 });
  assertEquals([way.pass().toSorted(), way.isDirect, way.limiter.channel.inFlight], [[2, 3, 4, 5, 6], true, 0]);
  way.queue(0);
  assertEquals(way.pass(), [0]);
});

Deno.test("limits that begin while operations are in flight hold for the next ones", () => {
  using way = new Way();
  way.queue(0, 1, 2);
  way.limits.set({ iops: 10 });
  way.limiter.adapt();
  way.queue(3, 4);
  assertEquals([way.pass(), way.limiter.channel.inFlight], [[0, 1, 2], 2]);
  way.nowMs += 100;
  assertEquals(way.pass(), [3]);
  way.nowMs += 100;
  assertEquals([way.pass(), way.limiter.channel.inFlight], [[4], 0]);
});

Deno.test("a ring that must be given up starts what waits, and the disk pays for it later", () => {
  using way = new Way();
  way.limits.set({ iops: 10, iopsBurst: 1 });
  way.pass();
  way.queue(0, 1, 2, 3);
  assertEquals(way.pass(), []);
  way.limiter.hurries = true;
  assertEquals(way.pass(), [0, 1, 2, 3]);
  way.queue(4);
  assertEquals(way.pass(), [4], "it had room for its data only now");
  way.limiter.hurries = false;
  way.queue(5);
  way.nowMs += 590;
  assertEquals(way.pass(), [], "five were started ahead of their time");
  way.nowMs += 20;
  assertEquals(way.pass(), [5]);
});

Deno.test("what the limits leave enough for passes them by, and pays for it to the last request", () => {
  using way = new Way();
  way.saveUp({ iops: 10, iopsBurst: 5, bytesPerSecond: "1M" });
  assertEquals([way.start(OP_READ, 0, 1, 2), way.pass(), way.isDirect], [true, [0, 1, 2], true]);
  assert(way.start(OP_FLUSH_DISKCACHE, 3), "a flush needs nothing");
  assertEquals([way.pass(), way.start(OP_DISCARD, 4), way.pass()], [[3], true, [4]]);
  assertEquals([way.start(OP_READ, 5, 6), way.isDirect], [false, false], "one is left");
  assertEquals([way.pass(), way.start(OP_READ, 7)], [[5], false], "it must not overtake those that wait");
  way.nowMs += 210;
  assertEquals(way.pass(), [6, 7]);
  way.nowMs += 1000;
  assertEquals([way.start(OP_WRITE, 0, 1), way.isDirect, way.pass()], [true, true, [0, 1]]);
});

Deno.test("what passed through the limits is completed there, and later requests pass them by", () => {
  using way = new Way();
  way.limits.set({ iops: 10, iopsBurst: 4 });
  way.pass();
  assertEquals([way.start(OP_READ, 0), way.pass()], [false, []]);
  way.nowMs += 1000;
  way.limiter.channel.submit(); // it starts, and is not reaped yet
  assertEquals([way.start(OP_READ, 1, 2), way.isDirect], [true, false]);
  assertEquals([way.pass().toSorted(), way.start(OP_READ, 0), way.isDirect, way.pass()], [[0, 1, 2], true, true, [0]]);
});

Deno.test("limits of reads and of writes each hold for their own", () => {
  using way = new Way();
  way.saveUp({ writeIops: 10, iopsBurst: 2, readBytesPerSecond: 4096 * 4, bytesBurst: 4096 * 4 });
  assertEquals([way.start(OP_WRITE, 0, 1), way.pass(), way.start(OP_WRITE, 2), way.pass()], [true, [0, 1], false, []]);
  way.start(OP_READ, 3, 4, 5, 6);
  assertEquals(way.pass(), [3, 4, 5, 6], "they do not wait for the write");
  way.start(OP_READ, 3);
  assertEquals(way.pass(), []);
  way.nowMs += 110;
  assertEquals(way.pass(), [2]);
  way.start(OP_DISCARD, 1);
  assertEquals(way.pass(), [], "a discard counts as a write");
  way.nowMs += 150;
  assertEquals(way.pass().toSorted(), [1, 3]);
});

Deno.test("a limit of both replaces those of reads and writes, and the other way round", () => {
  using way = new Way();
  way.limits.set({ readIops: 10, writeIops: 1e9 });
  way.saveUp({ iops: 1000, iopsBurst: 3 });
  assertEquals([way.start(OP_READ, 0, 1, 2), way.pass(), way.start(OP_WRITE, 3), way.pass()], [
    true,
    [0, 1, 2],
    false,
    [],
  ]);
  way.limits.set({ readIops: 1000, iopsBurst: 0 });
  assertEquals(way.pass(), [3], "writes have no limit any more");
  way.saveUp({});
  way.limits.set({ iops: 1000 });
  way.pass();
  way.start(OP_READ, 0);
  assertEquals(way.pass(), [], "a limit that begins has saved up nothing");
  way.nowMs += 1;
  assertEquals(way.pass(), [0]);
});
