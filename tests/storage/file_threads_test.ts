/**
 * Threads for calls on files that may never return: a stuck call delays no call on another image, is given up at its
 * limit, holds a bounded number of threads, and its late result is not lost; idle threads end.
 */

import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import { type FileThreadLimits, FileThreads, StorageSilentError } from "../../lib/storage/image/file_threads.ts";
import type { BlockingCall } from "./blocking_calls.ts";
import { eventually, Folder } from "./rig.ts";

const MODULE = new URL("./blocking_calls.ts", import.meta.url).href;

/** File threads, and files that hold their calls. */
class Rig implements AsyncDisposable {
  readonly folder = new Folder();
  readonly threads: FileThreads;
  readonly late: unknown[] = [];

  constructor(limits: Partial<FileThreadLimits> = {}) {
    this.threads = new FileThreads({ limitMs: 60_000, idleMs: 10, promptMs: 0, startingMs: 0, ...limits });
  }

  run(path: string, call: Omit<BlockingCall, "module"> = {}, limitMs?: number): Promise<number> {
    const limit = limitMs === undefined ? {} : { limitMs };
    return this.threads.run<number>({ ...call, module: MODULE }, {
      path,
      verb: "open",
      late: (result) => this.late.push(result),
      ...limit,
    });
  }

  /** A call on the image that has been given up and is not released yet. */
  async lose(path: string, hold: string): Promise<void> {
    await assertRejects(() => this.run(path, { hold }, 20), StorageSilentError);
  }

  hold(name = "hold"): string {
    return this.folder.file(name, 1);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.folder[Symbol.dispose]();
    await eventually(() => this.threads.counts.threads === 0, "every thread ends when it is idle");
  }
}

Deno.test("a stuck call is given up with its image, step and limit, and delays no call on another image", async () => {
  await using rig = new Rig();
  const hold = rig.hold();
  const stuck = assertRejects(() => rig.run("/srv/a.img", { hold }, 300), StorageSilentError);
  for (let i = 0; i < 5; i++) await rig.run(`/srv/${i}.img`);
  const error = await stuck;
  assertEquals(
    error.line,
    "Cannot open image /srv/a.img: its storage does not answer (open took longer than 0.3 s); " +
      "check the device or file server that it is on",
  );
  assertEquals(rig.threads.counts.lost, 1);
});

Deno.test("an image holds two threads at most; then its calls are refused at once, until one of them returns", async () => {
  await using rig = new Rig();
  const hold = rig.hold();
  await rig.lose("/a", hold);
  await rig.lose("/a", hold);
  const before = performance.now();
  const error = await assertRejects(() => rig.run("/a"), StorageSilentError);
  assertMatch(error.message, /an earlier call has not returned/);
  assert(performance.now() - before < 1000);
  assertEquals(rig.threads.counts.lost, 2);
  await rig.run("/b");
  Deno.removeSync(hold);
  await eventually(() => rig.threads.counts.lost === 0, "the calls return");
  await rig.run("/a");
});

Deno.test("what a call returns after it was given up is handed over, once, so that it can be undone", async () => {
  await using rig = new Rig();
  const hold = rig.hold();
  await rig.lose("/a", hold);
  let quiet = false;
  const waiting = rig.threads.quiet("/a").then(() => quiet = true);
  await rig.run("/b");
  assertEquals([rig.late, quiet], [[], false]);
  Deno.removeSync(hold);
  await waiting;
  assertEquals(rig.late, [1]);
  await rig.threads.quiet("/a");
});

Deno.test("a call that releases something is made in the end, after those that were lost, however many they are", async () => {
  await using rig = new Rig({ threads: 2 });
  const holds = [rig.hold("a"), rig.hold("b")];
  await rig.lose("/a", holds[0]!);
  await rig.lose("/b", holds[1]!);
  const late: number[] = [];
  const release = (path: string): Promise<number> =>
    rig.threads.run<number>({ module: MODULE }, {
      path,
      verb: "unlock",
      limitMs: 20,
      releases: true,
      late: (result) => late.push(result),
    });
  await assertRejects(() => release("/a"), StorageSilentError, "unlock took longer than 0.02 s");
  await assertRejects(() => release("/c"), StorageSilentError, "Cannot unlock image /c: 2 threads wait");
  assertThrows(() => rig.threads.mustAnswer("/c", "lock"), StorageSilentError, "an earlier call has not returned");
  let quiet = false;
  const waiting = rig.threads.quiet("/a").then(() => quiet = true);
  await assertRejects(() => rig.run("/a"), StorageSilentError, "an earlier call has not returned");
  assertEquals([late.length, quiet], [0, false]);
  for (const hold of holds) Deno.removeSync(hold);
  await waiting;
  await rig.threads.quiet("/c");
  assertEquals(late.length, 2);
});

Deno.test("retries for the images of a dead file server leave threads to other images", async () => {
  await using rig = new Rig({ threads: 8 });
  const hold = rig.hold();
  const images = ["/a", "/b", "/c", "/d"];
  await Promise.all(images.map((path) => rig.lose(path, hold)));
  for (const path of images) {
    await assertRejects(() => rig.run(path, { hold }, 60_000), StorageSilentError, "an earlier call has not returned");
  }
  assertEquals(rig.threads.counts, { threads: 4, lost: 4 });
  await rig.run("/local");
  // Nor do several calls at once take them, before any of them is lost.
  const both = ["/e", "/e"].map((path) => rig.run(path, { hold }));
  await rig.run("/local");
  assertEquals(rig.threads.counts.threads, 6, "one for both calls, and one for the local image");
  Deno.removeSync(hold);
  await Promise.all(both);
});

Deno.test("an image is not quiet while a call on it waits for a thread", async () => {
  await using rig = new Rig({ threads: 1 });
  const hold = rig.hold();
  const first = rig.run("/a", { hold });
  const order: string[] = [];
  const waiting = rig.run("/b").then(() => order.push("the call"));
  const quiet = rig.threads.quiet("/b").then(() => order.push("quiet"));
  const given = assertRejects(() => rig.run("/c", {}, 20), StorageSilentError);
  const alsoQuiet = rig.threads.quiet("/c");
  await Promise.all([given, alsoQuiet]); // a call that was given up before it began
  assertEquals(order, []);
  Deno.removeSync(hold);
  await Promise.all([first, waiting, quiet]);
  assertEquals(order, ["the call", "quiet"]);
});

Deno.test("when every thread is lost, other calls say so at their limit", async () => {
  await using rig = new Rig({ threads: 2 });
  const hold = rig.hold();
  await Promise.all([rig.lose("/a", hold), rig.lose("/b", hold)]);
  const error = await assertRejects(() => rig.run("/c", {}, 20), StorageSilentError);
  assertEquals(
    error.message,
    "Cannot open image /c: 2 threads wait for the storage of other images, and no more are started",
  );
  const waiting = rig.run("/c");
  Deno.removeSync(hold);
  assert(await waiting > 0);
});

Deno.test("threads are used again, and end when they are idle", async () => {
  await using rig = new Rig({ idleMs: 500 });
  for (let i = 1; i < 5; i++) assertEquals(await rig.run("/a"), i);
  assertEquals(rig.threads.counts.threads, 1);
  await using short = new Rig({ idleMs: 5 });
  await short.run("/a");
  await eventually(() => short.threads.counts.threads === 0, "the idle thread ends");
  assertEquals(await short.run("/a"), 1, "in a new thread");
});

Deno.test("many calls at once that return soon share one thread", async () => {
  await using rig = new Rig({ promptMs: 60_000, startingMs: 60_000, idleMs: 500 });
  const calls = Promise.all(Array.from({ length: 100 }, (_, i) => rig.run(`/srv/${i}.img`)));
  assertEquals(rig.threads.counts.threads, 1);
  await calls;
  assertEquals(rig.threads.counts.threads, 1);
});

Deno.test("calls that wait for a thread which does not answer get another one, and more the more do not answer", async () => {
  await using rig = new Rig({ promptMs: 10, startingMs: 10, threads: 16 });
  const hold = rig.hold();
  const held = Array.from({ length: 12 }, (_, i) => rig.run(`/dead/${i}.img`, { hold }));
  await rig.run("/local.img"); // behind all of them
  assert(rig.threads.counts.threads > 12);
  Deno.removeSync(hold);
  await Promise.all(held);
});

Deno.test("what a call throws arrives: an expected error whole, a system call's with its code", async () => {
  await using rig = new Rig();
  const refused = await assertRejects(() => rig.run("/a", { then: "refuse" }), XenblkError, "Cannot do it");
  assertEquals([refused.kind, refused.remedy], ["usage", "do not"]);
  const failed = await assertRejects(() => rig.run("/a", { then: "fail" }), Error, "Too many open files (EMFILE)");
  assertEquals((failed as Error & { code: string }).code, "EMFILE");
  const missing = rig.threads.run({ module: `${MODULE}-none` }, { path: "/a", verb: "open" });
  await assertRejects(() => missing, XenblkError, "Cannot load module");
});

Deno.test("a thread that was prepared makes the first call, and ends if there is none", async () => {
  await using rig = new Rig({ idleMs: 200 });
  rig.threads.prepare(MODULE);
  rig.threads.prepare(MODULE);
  assertEquals(rig.threads.counts.threads, 1);
  assertEquals(await rig.run("/a"), 1);
  assertEquals(rig.threads.counts.threads, 1, "no other was started");
  await eventually(() => rig.threads.counts.threads === 0, "it is idle");
  rig.threads.prepare(MODULE);
  await eventually(() => rig.threads.counts.threads === 0, "it was never used");
});

Deno.test("a thread that dies fails its call, and the next call gets another thread", async () => {
  await using rig = new Rig();
  await rig.run("/a", { then: "die" }).catch(() => {});
  await eventually(() => rig.threads.counts.threads === 0, "the thread is gone");
  assertEquals(await rig.run("/a"), 1);
  const none = new FileThreads({ entry: new URL("./none.ts", import.meta.url) });
  const error = await assertRejects(() => none.run({ module: MODULE }, { path: "/a", verb: "open" }), XenblkError);
  assertMatch(error.message, /^Cannot open image \/a: the thread for it failed: ./);
});

Deno.test("at the end of the process, what releases takes no thread, and is made in its order if the process stays", async () => {
  await using rig = new Rig({ leaveMs: 1 });
  const { threads } = rig;
  const release = (path: string, call: Omit<BlockingCall, "module"> = {}): Promise<number> =>
    threads.run<number>({ ...call, module: MODULE }, { path, verb: "close", releases: true });
  threads.leave();
  const hold = rig.hold();
  await release("/a", { hold });
  await release("/a");
  await release("/b", { hold, then: "fail" });
  assertEquals(threads.counts.threads, 0, "nobody waits for a thread");
  await eventually(() => threads.counts.threads === 2, "both images are released, and /a by one call at a time");
  Deno.removeSync(hold);
});

Deno.test("at the end of the process, a thread that is there releases, and what opens is made as before", async () => {
  await using rig = new Rig({ leaveMs: 50, idleMs: 200 });
  rig.threads.leave();
  assertEquals(await rig.run("/a"), 1);
  assertEquals(await rig.threads.run<number>({ module: MODULE }, { path: "/a", verb: "close", releases: true }), 2);
});
