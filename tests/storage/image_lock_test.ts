/**
 * Which users may use an image at the same time in one process, and how long a user waits for its lock. Locks between
 * processes are tested in tests/ffi.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Clock } from "../../lib/clock.ts";
import type { LockableImage } from "../../lib/hypervisor.ts";
import {
  excludes,
  ImageBusyError,
  type ImageLocks,
  type ImageUse,
  lockImage,
  ProcessImageLocks,
} from "../../lib/storage/image/lock.ts";

const image = (inode = 7, path = "/images/a.img"): LockableImage => ({
  path,
  identity: { device: 1, inode },
});
const WRITES: ImageUse = { writes: true, shared: false, by: "vbd3/5/51712" };
const READS: ImageUse = { writes: false, shared: false, by: "vbd3/6/51712" };
const WRITES_SHARED: ImageUse = { writes: true, shared: true, by: "vbd3/7/51712" };
const READS_SHARED: ImageUse = { writes: false, shared: true, by: "vbd3/8/51712" };

const silent = (): void => {};

Deno.test("a use excludes those that write unless it shares", () => {
  const uses = [WRITES, READS, WRITES_SHARED, READS_SHARED];
  assertEquals(uses.map((one) => uses.map((other) => +excludes(one, other))), [
    [1, 1, 1, 0],
    [1, 0, 1, 0],
    [1, 1, 0, 0],
    [0, 0, 0, 0],
  ]);
});

Deno.test("an image is one by its file and not by its path, and is free when its user is done with it", async () => {
  const locks = new ProcessImageLocks(undefined, silent);
  const lock = await locks.tryLock(image(), WRITES);
  assert(typeof lock === "object");
  assertEquals(await locks.tryLock(image(7, "/other/name"), READS), "xenblk serves it to vbd3/5/51712");
  assert(typeof await locks.tryLock(image(8), WRITES) === "object", "another file");
  await lock[Symbol.asyncDispose]();
  const readers = [await locks.tryLock(image(), READS), await locks.tryLock(image(), READS_SHARED)];
  assert(readers.every((reader) => typeof reader === "object"));
  assertEquals(await locks.tryLock(image(), WRITES), "xenblk serves it to vbd3/6/51712");
  await lock[Symbol.asyncDispose](); // a second time, which releases no other lock
  assert(typeof await locks.tryLock(image(), WRITES) === "string");
});

Deno.test("locks of other processes count; theirs and ours are taken and released together", async () => {
  const taken: string[] = [];
  const beyond: ImageLocks = {
    tryLock: ({ path }) => {
      if (path === "/theirs") return Promise.resolve("process 12 (qemu) uses it");
      taken.push(path);
      return Promise.resolve({ [Symbol.asyncDispose]: () => Promise.resolve(void taken.pop()) });
    },
  };
  const locks = new ProcessImageLocks(beyond, silent);
  assertEquals(await locks.tryLock(image(7, "/theirs"), READS), "process 12 (qemu) uses it");
  const lock = await locks.tryLock(image(7, "/ours"), WRITES);
  assert(typeof lock === "object", "a refusal leaves nothing behind");
  assertEquals(taken, ["/ours"]);
  await lock[Symbol.asyncDispose]();
  assertEquals(taken, []);
});

Deno.test("an image that cannot be locked against others is used, with a warning, and locked among our own", async () => {
  const warnings: string[] = [];
  const beyond: ImageLocks = {
    tryLock: () => Promise.reject(new Error("No locks available (ENOLCK)")),
  };
  const locks = new ProcessImageLocks(beyond, (line) => warnings.push(line));
  assert(typeof await locks.tryLock(image(), WRITES) === "object");
  assertEquals(warnings, ["image /images/a.img: other processes are not kept from it: No locks available (ENOLCK)"]);
  assertEquals(await locks.tryLock(image(), WRITES), "xenblk serves it to vbd3/5/51712");
});

Deno.test("a lock is waited for a little, and then refused with the image's name, the holder and what to do", async () => {
  let nowMs = 0;
  const clock: Clock = { now: () => nowMs, sleep: (ms) => Promise.resolve(void (nowMs += ms)) };
  const locks = new ProcessImageLocks(undefined, silent);
  const first = await locks.tryLock(image(), WRITES) as AsyncDisposable;
  const error = await assertRejects(() => lockImage(locks, image(), READS, clock), ImageBusyError);
  assertEquals(
    error.line,
    "Cannot read image /images/a.img: xenblk serves it to vbd3/5/51712; " +
      "end that use first: two at a time would damage what is on the image",
  );
  assert(nowMs >= 500 && nowMs < 700, `${nowMs} ms`);
  const releaseAt = nowMs + 300;
  const freeing: Clock = {
    now: () => nowMs,
    sleep: async (ms) => {
      nowMs += ms;
      if (nowMs >= releaseAt) await first[Symbol.asyncDispose]();
    },
  };
  await (await lockImage(locks, image(), READS, freeing))[Symbol.asyncDispose]();
  assert(nowMs >= releaseAt && nowMs < releaseAt + 300);
});
