/**
 * Transactions that conflict with other writers are retried with pauses that block no thread, for a bounded time.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Clock } from "../lib/clock.ts";
import { XenstoreError } from "../lib/hypervisor.ts";
import { retryConflicts } from "../lib/xenstore.ts";

/** A clock on which each sleep is over at once, and what was slept. */
class FakeClock implements Clock {
  readonly slept: number[] = [];
  #now = 0;

  now(): number {
    return this.#now;
  }

  sleep(ms: number): Promise<void> {
    this.slept.push(ms);
    this.#now += ms;
    return Promise.resolve();
  }
}

function conflict(): never {
  throw new XenstoreError("Cannot commit a transaction", "EAGAIN", "");
}

Deno.test("a conflict is retried after a pause until it succeeds", async () => {
  const clock = new FakeClock();
  let calls = 0;
  assertEquals(await retryConflicts(() => ++calls < 4 ? conflict() : "done", { clock }), "done");
  assertEquals(clock.slept.length, 3);
  clock.slept.forEach((ms, index) => assert(ms >= 2.5 * 2 ** index && ms < 7.5 * 2 ** index, `${clock.slept}`));
});

Deno.test("conflicts without an end are given up after ten seconds", async () => {
  const clock = new FakeClock();
  await assertRejects(() => retryConflicts(conflict, { clock }), XenstoreError, "Cannot commit");
  assert(clock.now() >= 10_000 && clock.now() < 10_200, `${clock.now()} ms`);
  assert(clock.slept.every((ms) => ms <= 120));
});

Deno.test("another error is not retried", async () => {
  let calls = 0;
  const denied = (): never => {
    calls++;
    throw new XenstoreError("no", "EACCES", "/a");
  };
  await assertRejects(() => retryConflicts(denied), XenstoreError, "no");
  assertEquals(calls, 1);
});

Deno.test("a signal ends the retries with its reason", async () => {
  const abort = new AbortController();
  const act = (): never => {
    abort.abort(new Error("enough"));
    return conflict();
  };
  await assertRejects(() => retryConflicts(act, { signal: abort.signal }), Error, "enough");
});
