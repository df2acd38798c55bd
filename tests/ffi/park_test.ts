/**
 * Parking and waking by a word and an eventfd, within one thread and between two Workers.
 */

import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { createEventfd, raiseEventfd } from "../../ffi/linux/eventfd.ts";
import { libc } from "../../ffi/linux/libc.ts";
import { NativeParker, NativeWaker, NativeWakeToken } from "../../ffi/linux/park.ts";
import { NOTIFIED, RUNNING } from "../../lib/park_word.ts";
import type { PlayerOrders } from "./park_worker.ts";

libc();

/** Milliseconds that a park took. */
function parkedMs(parker: NativeParker, timeoutMs: number): number {
  const start = performance.now();
  parker.park(timeoutMs);
  return performance.now() - start;
}

Deno.test("park: without a wake it lasts until the timeout", () => {
  using token = new NativeWakeToken();
  using parker = new NativeParker(token);
  assert(parkedMs(parker, 20) >= 20);
});

Deno.test("park: a wake before it makes it return at once, however many there were, and only once", () => {
  using token = new NativeWakeToken();
  using parker = new NativeParker(token);
  const waker = new NativeWaker(token);
  waker.wake();
  waker.wake();
  assertEquals(new Int32Array(token.word)[0], NOTIFIED);
  assertLess(parkedMs(parker, 60_000), 30_000);
  assertEquals(new Int32Array(token.word)[0], RUNNING);
  assert(parkedMs(parker, 20) >= 20);
});

Deno.test("park: a waker that claimed the sleeper and wrote late causes one superfluous return at most", () => {
  using token = new NativeWakeToken();
  using parker = new NativeParker(token);
  const waker = new NativeWaker(token);
  // The state in which a sleeper that timed out finds a wake on its way: PARKED, then woken.
  Atomics.store(new Int32Array(token.word), 0, 1);
  waker.wake();
  Atomics.store(new Int32Array(token.word), 0, RUNNING);
  assertLess(parkedMs(parker, 60_000), 30_000);
  assert(parkedMs(parker, 20) >= 20);
});

Deno.test("park: a watched descriptor ends it and is reported, until it is watched no more", () => {
  using token = new NativeWakeToken();
  using parker = new NativeParker(token);
  using undo = new DisposableStack();
  const [one, other] = [0, 1].map(() => undo.adopt(createEventfd(), (fd) => void libc().close(fd)));
  const fired: string[] = [];
  const sources = [{ fd: one!, fired: () => fired.push("one") }, { fd: other!, fired: () => fired.push("other") }];
  for (const source of sources) parker.watch(source);
  raiseEventfd(other!);
  assertLess(parkedMs(parker, 60_000), 30_000);
  assertLess(parkedMs(parker, 60_000), 30_000, "until it is read");
  assertEquals(fired, ["other", "other"]);
  parker.unwatch(sources[0]!);
  assertLess(parkedMs(parker, 60_000), 30_000, "the ones behind it stay in their places");
  parker.unwatch(sources[1]!);
  assert(parkedMs(parker, 20) >= 20);
  assertEquals(fired, ["other", "other", "other"]);
  assertThrows(() => parker.watch({ fd: -1, fired: () => {} }), TypeError, "without a descriptor");
});

Deno.test("wake token: survives posting as word and descriptor, and closes its descriptor once", () => {
  const token = new NativeWakeToken();
  const copy = structuredClone({ word: token.word, fd: token.fd });
  assertEquals(copy.fd, token.fd);
  assert(Deno.statSync(`/proc/self/fd/${token.fd}`));
  const { fd } = token;
  token[Symbol.dispose]();
  token[Symbol.dispose]();
  assertThrows(() => Deno.statSync(`/proc/self/fd/${fd}`), Deno.errors.NotFound);
});

Deno.test("park and wake between two Workers: 5000 rounds without a lost wake", async () => {
  using first = new NativeWakeToken();
  using second = new NativeWakeToken();
  const counters = new SharedArrayBuffer(2 * Int32Array.BYTES_PER_ELEMENT);
  const rounds = 5000;
  const tokens = [{ word: first.word, fd: first.fd }, { word: second.word, fd: second.fd }] as const;
  const lost = await Promise.all([0, 1].map((index) => {
    const worker = new Worker(new URL("./park_worker.ts", import.meta.url), { type: "module" });
    worker.postMessage(
      { own: tokens[index]!, other: tokens[1 - index]!, counters, index, rounds } satisfies PlayerOrders,
    );
    return new Promise<number>((resolve) => {
      worker.onmessage = (event): void => {
        worker.terminate();
        resolve(event.data);
      };
    });
  }));
  assertEquals(lost, [0, 0]);
  assertEquals([...new Int32Array(counters)], [rounds, rounds]);
});
