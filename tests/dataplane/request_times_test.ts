/**
 * How long requests take, as the queue measures it with a clock that the test sets: exact durations by operation, busy
 * time over several rings, and what a guest cannot distort.
 */

import { assertEquals } from "@std/assert";
import { OP_DISCARD, OP_FLUSH_DISKCACHE, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { EOPNOTSUPP } from "../../lib/errno.ts";
import { BusyTime, createBusyTime } from "../../lib/dataplane/busy_time.ts";
import { RequestTimes } from "../../lib/dataplane/request_times.ts";
import { SlotTable } from "../../lib/dataplane/slot_table.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import { latencyOf } from "../../lib/figures/latency.ts";
import { READ_PAGE, Rig, type TestRequest } from "./rig.ts";

const MS = 1e6; // nanoseconds
const WRITE_PAGE: TestRequest = { operation: OP_WRITE, segments: [[0, 0, 7]] };
const FLUSH: TestRequest = { operation: OP_FLUSH_DISKCACHE };

/** Count, sum and longest in milliseconds, of each operation. */
function durations(rig: Rig): Record<string, [number, number, number]> {
  const entries = Object.entries(rig.durations).map(([name, histogram]) => {
    const { count, sum_ns, max_ns } = latencyOf([histogram]);
    return [name, [count, sum_ns / MS, max_ns / MS] as [number, number, number]] as const;
  });
  return Object.fromEntries(entries.filter(([, [count]]) => count > 0));
}

/** Sends at `atMs`; whatever is under way completes `tookMs` later. */
function serve(rig: Rig, atMs: number, tookMs: number, ...requests: TestRequest[]): void {
  rig.nowMs = atMs;
  rig.send(...requests);
  rig.stepUntilIdle();
  rig.nowMs = atMs + tookMs;
  rig.run();
}

Deno.test("each operation has its own durations, from taking a request to answering it; a barrier is a write", () => {
  using rig = new Rig({ limits: { discard: { granularityBytes: 512, alignmentBytes: 0, secure: false } } });
  serve(rig, 1000, 3, READ_PAGE, READ_PAGE, WRITE_PAGE);
  serve(rig, 2000, 10, READ_PAGE, FLUSH);
  serve(rig, 3000, 7, { operation: OP_WRITE_BARRIER, segments: [[0, 0, 7]] });
  serve(rig, 4000, 2, { operation: OP_DISCARD, sectors: 8 });
  assertEquals(durations(rig), { read: [3, 16, 10], write: [2, 10, 7], flush: [1, 10, 10], discard: [1, 2, 2] });
  assertEquals(rig.stats.busyNs, 22 * MS);
});

Deno.test("requests that are taken apart and answered together have each their own duration", () => {
  using rig = new Rig();
  for (const [atMs, request] of [[10, READ_PAGE], [14, READ_PAGE], [15, WRITE_PAGE]] as const) {
    rig.nowMs = atMs;
    rig.send(request);
    rig.stepUntilIdle();
  }
  rig.nowMs = 20;
  rig.run();
  assertEquals(durations(rig), { read: [2, 16, 10], write: [1, 5, 5] });
  assertEquals(rig.stats.busyNs, 10 * MS, "the time is counted once");
});

Deno.test("requests that were taken together are measured apart if others join them, differ, or are not offered", () => {
  using rig = new Rig();
  const send = (atMs: number, ...requests: TestRequest[]): void => {
    rig.nowMs = atMs;
    rig.send(...requests);
    rig.stepUntilIdle();
  };
  send(10, READ_PAGE, READ_PAGE);
  send(13, READ_PAGE);
  rig.nowMs = 20;
  rig.run();
  assertEquals(durations(rig), { read: [3, 27, 10] }, "two reads since 10, one since 13");
  send(30, READ_PAGE, WRITE_PAGE);
  rig.nowMs = 32;
  rig.run();
  assertEquals(durations(rig), { read: [4, 29, 10], write: [1, 2, 2] });
  send(40, READ_PAGE, READ_PAGE);
  rig.nowMs = 45;
  rig.channel.complete(-EOPNOTSUPP);
  rig.run();
  assertEquals(durations(rig), { read: [5, 34, 10], write: [1, 2, 2] }, "one read had no duration");
});

Deno.test("what is refused is measured, what is not offered is not, and a clock that goes back counts as no time", () => {
  using rig = new Rig({ limits: { readOnly: true } });
  serve(rig, 100, 0, WRITE_PAGE, { operation: 4 });
  serve(rig, 100, -50, READ_PAGE);
  assertEquals(durations(rig), { read: [1, 0, 0], write: [1, 0, 0] });
  assertEquals([rig.stats.busyNs, rig.stats.unsupported], [0, 1]);
});

Deno.test("requests that a crash left unanswered are measured from their recovery; counting goes on", () => {
  using rig = new Rig();
  serve(rig, 0, 4, READ_PAGE);
  rig.nowMs = 100;
  rig.send(READ_PAGE);
  rig.stepUntilIdle();
  rig.nowMs = 900;
  rig.crash();
  rig.nowMs = 1000;
  rig.stepUntilIdle();
  rig.nowMs = 1006;
  rig.run();
  assertEquals(durations(rig), { read: [2, 10, 6] });
});

Deno.test("a broken ring answers nothing, and is busy no longer", () => {
  using rig = new Rig();
  rig.nowMs = 5;
  rig.send(READ_PAGE);
  rig.stepUntilIdle();
  rig.nowMs = 9;
  new Int32Array(rig.ringPage.view.buffer, rig.ringPage.view.byteOffset, 1)[0] = 100;
  rig.run();
  assertEquals([durations(rig), rig.stats.busyNs, rig.stats.inFlight], [{}, 4 * MS, 0]);
});

Deno.test("after answers, takings look at the clock only if something was done since: by the pass, or by others", () => {
  let looks = 0;
  using times = new RequestTimes({ slots: 1, stats: createStats(), platform: { now: () => ++looks } });
  const slots = new SlotTable(1, 1);
  slots.responseOperation[0] = OP_WRITE;
  const pass = (answers = true): number => {
    const before = looks;
    times.beginTaking();
    times.taken(slots, 1);
    times.beginAnswering();
    if (answers) times.answered(slots, 1);
    times.settle();
    return looks - before;
  };
  assertEquals([pass(), pass(), pass()], [2, 1, 1]);
  times.interrupted();
  assertEquals([pass(), pass(false), pass()], [2, 0, 2]);
});

Deno.test("rings of one device are busy together: overlapping times count once", () => {
  const memory = createBusyTime();
  const ring = (): { begin: (ms: number) => void; end: (ms: number) => number } => {
    const busy = new BusyTime(memory, true);
    const end = (ms: number): number => {
      const total = new Float64Array(1);
      busy.end(Float64Array.of(ms), 0, total, 0);
      return total[0]!;
    };
    return { begin: (ms) => busy.begin(Float64Array.of(ms), 0), end };
  };
  const [first, second, reader] = [ring(), ring(), new BusyTime(memory, true)];
  first.begin(10);
  second.begin(12);
  assertEquals([first.end(15), reader.soFar(16)], [0, 6 * MS]);
  first.begin(17);
  assertEquals([second.end(18), first.end(20), reader.soFar(30)], [0, 10 * MS, 0]);
  second.begin(40);
  assertEquals([reader.soFar(39), second.end(41)], [0, 1 * MS]);
});
