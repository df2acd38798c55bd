/**
 * Waits for storage: each ends in time with the operation's outcome, an error or an interrupt; what comes later is kept
 * for the next wait, or disposed. The clock is the test's.
 */

import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { Acquisition, OverdueError, Waits } from "../../lib/backend/waits.ts";
import type { Clock } from "../../lib/clock.ts";
import { turn } from "./rig.ts";

/** Waits on a clock that a test sets. */
class Rig {
  nowMs = 0;
  answers = 0;
  readonly stop = new AbortController();
  readonly #sleepers: { readonly atMs: number; readonly wake: () => void }[] = [];
  readonly #clock: Clock = {
    now: () => this.nowMs,
    sleep: (ms) => new Promise((wake) => this.#sleepers.push({ atMs: this.nowMs + ms, wake })),
  };
  readonly waits = new Waits(this.#clock, this.stop.signal, () => this.answers++);

  /** Lets time pass, and then whatever waits for promises. */
  async pass(ms: number): Promise<void> {
    this.nowMs += ms;
    for (const { atMs, wake } of this.#sleepers) if (atMs <= this.nowMs) wake();
    await turn();
  }
}

Deno.test("an operation that ended is waited for no longer, however long ago its time was over", async () => {
  const rig = new Rig();
  const operation = rig.waits.begin(() => "open it", Promise.resolve("open"));
  await rig.pass(60_000);
  assertEquals(await rig.waits.until(operation), "open");
  assertEquals([rig.waits.pending, rig.waits.overdue, rig.answers], [[], false, 0]);
});

Deno.test("an operation that ends while a wait for it begins gives its outcome to that wait", async () => {
  const rig = new Rig();
  const { promise, resolve } = Promise.withResolvers<string>();
  const operation = rig.waits.begin(() => "open it", promise);
  await rig.pass(60_000);
  resolve("open");
  assertEquals(await rig.waits.until(operation), "open");
  assertEquals([rig.waits.pending, rig.waits.overdue], [[], false]);
});

Deno.test("a wait ends ten seconds after the operation began, always with one error, and the end is announced", async () => {
  const rig = new Rig();
  const { promise, resolve } = Promise.withResolvers<string>();
  const operation = rig.waits.begin(() => "open it", promise);
  await rig.pass(4_000);
  const first = assertRejects(() => rig.waits.until(operation), OverdueError, "Cannot open it: no answer within 10 s");
  await rig.pass(5_999);
  assertEquals([rig.waits.pending, rig.waits.overdue], [["open it: no answer for 10 s"], false]);
  await rig.pass(1);
  const error = await first;
  await rig.pass(20_000);
  assertStrictEquals(await assertRejects(() => rig.waits.until(operation), OverdueError), error);
  assertEquals([rig.waits.pending, rig.waits.overdue], [["open it: no answer for 30 s"], true]);
  assertEquals(rig.answers, 0);
  resolve("open");
  await turn();
  assertEquals([rig.waits.pending, rig.waits.overdue, rig.answers], [[], false, 1]);
});

Deno.test("an interrupt ends the waits that have lasted a second, and the others when they have", async () => {
  const rig = new Rig();
  const never = new Promise<void>(() => {});
  const operation = rig.waits.begin(() => "open it", never);
  let ended = 0;
  const wait = (): Promise<unknown> =>
    assertRejects(() => rig.waits.until(operation), DOMException).then(() => ended++);
  const first = wait();
  await rig.pass(400);
  rig.waits.interrupt();
  await rig.pass(599);
  assertEquals(ended, 0);
  await rig.pass(1);
  await first;
  const second = wait();
  await rig.pass(10);
  assertEquals(ended, 1, "nothing has interrupted this wait");
  rig.waits.interrupt();
  await second;
});

Deno.test("what comes after its wait is kept for the next call of that key, and disposed when another key is wanted", async () => {
  const rig = new Rig();
  const released: string[] = [];
  const acquisition = new Acquisition<string>(rig.waits, (text, late) => released.push(`${text}: ${late}`));
  const begun: { readonly resolve: (value: string) => void; readonly signal: AbortSignal }[] = [];
  const get = (key: string): Promise<string> =>
    acquisition.get(key, () => `open ${key}`, (signal) => {
      const { promise, resolve } = Promise.withResolvers<string>();
      begun.push({ resolve, signal });
      return promise;
    });
  const overdue = assertRejects(() => get("a"), OverdueError);
  await rig.pass(10_000);
  await overdue;
  begun[0]!.resolve("a1");
  await turn();
  assertEquals([await get("a"), begun.length], ["a1", 1], "kept");
  const next = assertRejects(() => get("a"), OverdueError);
  await rig.pass(10_000);
  await next;
  assertEquals([begun.length, begun[1]!.signal.aborted], [2, false]);
  const other = get("b");
  assertEquals([begun.length, begun[1]!.signal.aborted], [3, true]);
  begun[1]!.resolve("a2");
  begun[2]!.resolve("b1");
  assertEquals(await other, "b1");
  acquisition.drop();
  await turn();
  assertEquals(released, ["dispose what came late (open a): a2"], "what was handed out is its owner's");
});

Deno.test("what was dropped is waited for until ten seconds after it was begun, or one, or until it has come", async () => {
  const rig = new Rig();
  const released: string[] = [];
  const acquisition = new Acquisition<string>(rig.waits, (_text, late) => released.push(late));
  const { promise, resolve } = Promise.withResolvers<string>();
  const get = assertRejects(() => acquisition.get("a", () => "open a", () => promise), DOMException, "the end");
  const ended = new Set<string>();
  const wait = (name: string, urgent: boolean): Promise<unknown> =>
    acquisition.dropped(urgent).then(() => ended.add(`${name}: ${released}`));
  await wait("before", false);
  await rig.pass(600);
  rig.stop.abort(new DOMException("the end", "AbortError"));
  await get;
  acquisition.drop();
  void wait("urgent", true);
  void wait("patient", false);
  await rig.pass(399);
  assertEquals([...ended], ["before: "]);
  await rig.pass(1);
  assertEquals([...ended], ["before: ", "urgent: "]);
  await rig.pass(8_999);
  assertEquals(ended.size, 2);
  const late = wait("late", false);
  resolve("a1");
  await late;
  assertEquals([...ended], ["before: ", "urgent: ", "patient: a1", "late: a1"]);
  await wait("after", false);
});

Deno.test("an operation that fails is not waited for again, and after the end nothing is begun", async () => {
  const rig = new Rig();
  const acquisition = new Acquisition<string>(rig.waits, () => {});
  let begun = 0;
  const get = (): Promise<string> =>
    acquisition.get("a", () => "open a", () => Promise.reject(new Error(`${++begun}`)));
  await assertRejects(get, Error, "1");
  await assertRejects(get, Error, "2");
  const never = rig.waits.begin(() => "open it", new Promise<void>(() => {}));
  const waiting = assertRejects(() => rig.waits.until(never), DOMException, "the end");
  rig.stop.abort(new DOMException("the end", "AbortError"));
  await waiting;
  await assertRejects(get, DOMException, "the end");
  assertEquals(begun, 2);
});
