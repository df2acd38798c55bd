/**
 * The budget that threads share: how much it grants, to whom, and when; and that threads which use it at the same time
 * together get what one would.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { createBucket } from "../../../lib/storage/filter/token_bucket.ts";
import { Bucket, BUCKET_BUSY } from "./bucket.ts";

const START_MS = 5000;

Deno.test("a full bucket grants its size at once, then the rate", () => {
  const bucket = new Bucket(createBucket());
  const times = Array.from({ length: 8 }, () => bucket.reserve(START_MS, 1, 100, 5) - START_MS);
  assertEquals(times, [0, 0, 0, 0, 0, 10, 20, 30]);
  assertEquals(bucket.reserve(START_MS + 1000, 1, 100, 5), START_MS + 1000, "it has filled, but not beyond its size");
  assertEquals(bucket.reserve(START_MS + 1000, 5, 100, 5), START_MS + 1010);
});

Deno.test("a bucket without a size holds what flows in during a tenth of a second, and at least one token", () => {
  const [fast, slow] = [new Bucket(createBucket()), new Bucket(createBucket())];
  const wait = (bucket: Bucket, rate: number): number => bucket.reserve(START_MS, 1, rate, 0) - START_MS;
  assertEquals(Array.from({ length: 12 }, () => wait(fast, 100)), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 20]);
  assertEquals([wait(slow, 0.5), wait(slow, 0.5)], [0, 2000]);
});

Deno.test("what is larger than the bucket passes when it is full, and others wait until that is paid", () => {
  const bucket = new Bucket(createBucket());
  assertEquals(bucket.reserve(START_MS, 1000, 100, 10), START_MS, "it is full");
  assertEquals(bucket.reserve(START_MS, 1, 100, 10), START_MS + 9910, "1000 less 10, and 1");
  assertEquals(bucket.reserve(START_MS, 1000, 100, 10), START_MS + 10_010, "once it is full again");
});

Deno.test("tokens that are given back can be used by others", () => {
  const bucket = new Bucket(createBucket());
  bucket.reserve(START_MS, 10, 100, 10);
  assertEquals(bucket.reserve(START_MS, 10, 100, 10), START_MS + 100);
  bucket.giveBack(10);
  assertEquals(bucket.reserve(START_MS, 1, 100, 10), START_MS + 10);
});

Deno.test("a clock that lags a little grants nothing twice, and one that was set back goes on", () => {
  const bucket = new Bucket(createBucket());
  bucket.reserve(START_MS, 10, 100, 10);
  assertEquals(bucket.reserve(START_MS - 5, 1, 100, 10), START_MS + 5);
  assertEquals(bucket.reserve(START_MS + 5, 1, 100, 10), START_MS + 20, "5 ms have passed since the first");
  bucket.reserve(0, 1, 100, 10);
  assert(bucket.reserve(1000, 1, 100, 10) <= 1000 + 20, "the tokens of its second are counted");
});

Deno.test("over any time, no more is granted than the size and the rate allow", () => {
  const requests = fc.array(fc.tuple(fc.nat(30), fc.integer({ min: 1, max: 40 })), { minLength: 1, maxLength: 60 });
  fc.assert(fc.property(requests, fc.integer({ min: 1, max: 500 }), fc.nat(50), (all, rate, burst) => {
    const bucket = new Bucket(createBucket());
    const size = burst > 0 ? burst : Math.max(1, rate / 10);
    let nowMs = START_MS;
    let granted = 0;
    for (const [pauseMs, amount] of all) {
      nowMs += pauseMs;
      const atMs = bucket.reserve(nowMs, amount, rate, burst);
      assert(atMs >= nowMs);
      // The last one may be larger than the bucket.
      assert(granted + Math.min(amount, size) <= size + (atMs - START_MS) * rate / 1000 + 1e-6);
      granted += amount;
    }
  }));
});

Deno.test("threads that use a bucket at the same time get together what one would", async () => {
  const [bucket, start] = [createBucket(), new SharedArrayBuffer(4)];
  const [threads, each] = [3, 20_000];
  const workers = Array.from({ length: threads }, () => {
    const worker = new Worker(new URL("./modules/bucket_worker.ts", import.meta.url), { type: "module" });
    worker.postMessage({ bucket, start, each, threads });
    return worker;
  });
  const last = await Promise.all(
    workers.map((worker) => new Promise<number>((resolve) => worker.onmessage = ({ data }): void => resolve(data))),
  );
  for (const worker of workers) worker.terminate();
  // All at the same moment: the last one of all waits for what all of them took, less the bucket's size.
  assertEquals(Math.max(...last), START_MS + (threads * each - 10));
});

Deno.test("a bucket that another thread does not let go of is busy, and nobody waits for it", () => {
  const memory = createBucket();
  new Int32Array(memory)[0] = 1;
  const bucket = new Bucket(memory);
  assertEquals(bucket.reserve(START_MS, 1, 100, 5), BUCKET_BUSY);
  bucket.giveBack(1);
  new Int32Array(memory)[0] = 0;
  assertEquals(bucket.reserve(START_MS, 5, 100, 5), START_MS);
});

Deno.test("a bucket that was emptied fills from the first look on", () => {
  const bucket = new Bucket(createBucket());
  bucket.empty();
  assertEquals(bucket.reserve(START_MS, 1, 100, 5), START_MS + 10);
  assertEquals(bucket.reserve(START_MS + 1000, 5, 100, 5), START_MS + 1000);
});

Deno.test("tokens that are there are taken at once, and none if there are fewer", () => {
  const bucket = new Bucket(createBucket());
  assertEquals(bucket.takeThere(START_MS, 4, 100, 5), true);
  assertEquals(bucket.takeThere(START_MS, 2, 100, 5), false);
  assertEquals(bucket.reserve(START_MS, 2, 100, 5), START_MS + 10, "one was left");
  assertEquals(bucket.takeThere(START_MS + 19, 1, 100, 5), false);
  assertEquals(bucket.takeThere(START_MS + 21, 1, 100, 5), true);
});
