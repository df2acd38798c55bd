/**
 * The limits of a disk apart from its filters: which values they take, and that a limit that begins has saved up nothing.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { XenblkError } from "../../../lib/errors.ts";
import { DiskLimits, limitsAny, limitsIn, mergedLimits, readLimits } from "../../../lib/storage/filter/limits.ts";
import { Bucket } from "./bucket.ts";

const NONE = {
  iops: 0,
  iopsBurst: 0,
  bytesPerSecond: 0,
  bytesBurst: 0,
  readIops: 0,
  writeIops: 0,
  readBytesPerSecond: 0,
  writeBytesPerSecond: 0,
};

Deno.test("limits that are not named stay, and 0 is none", () => {
  const limits = new DiskLimits({ iops: 500 });
  limits.set({ bytesPerSecond: "10M" });
  assertEquals(limitsIn(limits.options), { ...NONE, iops: 500, bytesPerSecond: 10 * 2 ** 20 });
  limits.set({ iops: 0 });
  assertEquals(limitsAny(limitsIn(limits.options)), true);
  limits.end();
  assertEquals(limitsAny(limitsIn(limits.options)), false);
});

Deno.test("a limit that is not allowed changes nothing, and says what is", () => {
  const limits = new DiskLimits({ iops: 500 });
  const wrong: readonly [Record<string, string | number>, string][] = [
    [{ iops: -1 }, "Cannot use limits: iops takes a whole number from 0 to 1000000000, not -1"],
    [{ iops: 7, bytesPerSecond: "fast" }, "Cannot use limits: bytesPerSecond takes a size such as 64K"],
    [{ speed: 1 }, "Cannot use limits: there is no limit speed; there are iops, iopsBurst, bytesPerSecond, bytesBurst"],
    [{ iops: 1, readIops: 2 }, "requests are limited together, by iops, and apart, by readIops and writeIops"],
  ];
  for (const [values, text] of wrong) {
    assertEquals(assertThrows(() => limits.set(values), XenblkError, text).kind, "usage");
    assertThrows(() => readLimits(values), XenblkError, text);
  }
  assertEquals(limitsIn(limits.options), { ...NONE, iops: 500 });
});

Deno.test("a limit that begins has no tokens, one that is changed keeps those that it has", () => {
  const limits = new DiskLimits();
  limits.set({ iops: 100, iopsBurst: 10 });
  const bucket = new Bucket(limits.memory.state.requests[0]);
  assertEquals(bucket.reserve(1000, 1, 100, 10), 1010, "the first one has to wait");
  assertEquals(bucket.reserve(1210, 1, 100, 10), 1210);
  limits.set({ iops: 200 });
  assertEquals(bucket.reserve(1210, 5, 200, 10), 1210, "there were ten of them at most, now five less");
});

Deno.test("limits of both end those of reads and writes, and the other way round, of requests and of bytes apart", () => {
  const limits = new DiskLimits({ iops: 500, bytesPerSecond: 4096 });
  limits.set({ writeIops: 7 });
  assertEquals(limitsIn(limits.options), { ...NONE, writeIops: 7, bytesPerSecond: 4096 });
  limits.set({ readIops: 8, readBytesPerSecond: "1K" });
  assertEquals(limitsIn(limits.options), { ...NONE, writeIops: 7, readIops: 8, readBytesPerSecond: 1024 });
  limits.set({ iops: 0, bytesPerSecond: 9 });
  assertEquals(limitsIn(limits.options), { ...NONE, writeIops: 7, readIops: 8, bytesPerSecond: 9 });
  assertEquals(limitsAny({ ...NONE, writeBytesPerSecond: 1 }), true);
  assertEquals(mergedLimits({ iops: 5, bytesBurst: 6 }, undefined, { readIops: 1 }, { iops: 0 }), {
    iops: 0,
    bytesBurst: 6,
    readIops: 1,
    writeIops: 0,
  });
});
