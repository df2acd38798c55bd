/**
 * Options in shared memory: a reader sees whole changes or none, also while another thread writes one.
 */

import { assert, assertEquals } from "@std/assert";
import { createLive, LiveValues, writeLive } from "../../../lib/storage/filter/live.ts";

Deno.test("a reader sees the first values and each change, once", () => {
  const live = createLive([1.5, -2, 2 ** 53 - 1]);
  const values = new LiveValues(live);
  assertEquals([values.refresh(), [...values.numbers], values.refresh()], [true, [1.5, -2, 2 ** 53 - 1], false]);
  writeLive(live, [0, 1e-300, 7]);
  assertEquals([values.refresh(), [...values.numbers], values.sectors], [true, [0, 1e-300, 7], 7]);
});

Deno.test("a change that is being written is not seen", () => {
  const live = createLive([1]);
  const values = new LiveValues(live);
  Atomics.add(new Int32Array(live), 0, 1);
  assertEquals([values.refresh(), values.numbers[0]], [false, 0]);
  Atomics.add(new Int32Array(live), 0, 1);
  assertEquals([values.refresh(), values.numbers[0]], [true, 1]);
});

Deno.test("a reader never sees half of a change that another thread makes", async () => {
  const live = createLive([0, 0, 0]);
  const worker = new Worker(new URL("./modules/live_worker.ts", import.meta.url), { type: "module" });
  const ready = new Promise<void>((resolve) => worker.onmessage = (): void => resolve());
  worker.postMessage(live);
  await ready;
  const values = new LiveValues(live);
  let seen = 0;
  for (const endMs = performance.now() + 10_000; seen < 1000 && performance.now() < endMs;) {
    if (!values.refresh()) continue;
    seen++;
    const [first, second, third] = values.numbers;
    assert(second === first! * 1.5 && third === -first!, `${values.numbers}`);
  }
  worker.terminate();
  assert(seen > 100, `${seen}`);
});
