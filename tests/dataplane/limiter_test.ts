/**
 * The way of a ring to its disk while that has limits, and while it has none: then it is the disk's own channel, and
 * nothing is left waiting.
 */

import { assert, assertEquals } from "@std/assert";
import { Limiter } from "../../lib/dataplane/limiter.ts";
import type { IoChannel } from "../../lib/storage/disk.ts";
import { nullAttachment, openChannel } from "../../lib/storage/engine/null.ts";
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
