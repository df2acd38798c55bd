/**
 * The looks at the load of the reactors: what the log says of moves, and that a look which fails ends nothing.
 */

import { assertEquals } from "@std/assert";
import type { Clock } from "../../lib/clock.ts";
import { balanceLoad } from "../../lib/dataplane/balance_load.ts";
import type { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";

const MOVE = { label: "vbd3/1/51712 queue 0", from: 0, to: 1 };

Deno.test("a look that fails is reported once, and the next ones go on", async () => {
  const lines: string[] = [];
  const logger = {
    debug: (line: string) => lines.push(line),
    info: () => {},
    warning: (line: string) => lines.push(line),
    error: () => {},
  };
  const looks: WorkerDataPlane["balance"][] = [
    () => Promise.reject(new Error("no load")),
    () => Promise.resolve(undefined),
    () => Promise.resolve({ ...MOVE, moved: true, pausedMs: 1.25 }),
    () => Promise.reject(new Error("no load")),
    () => Promise.resolve({ ...MOVE, moved: false, reason: "it is busy" }),
  ];
  const over = Promise.withResolvers<void>();
  const clock: Clock = {
    now: () => 0,
    sleep: (_ms, signal) => looks.length > 0 || signal?.aborted ? Promise.resolve() : new Promise(() => over.resolve()),
  };
  using _looking = balanceLoad({ balance: () => looks.shift()!() }, clock, logger);
  await over.promise;
  assertEquals(lines, [
    "cannot look at the load of the threads that serve rings: no load",
    "vbd3/1/51712 queue 0: reactor 0 is full, 1 has room: moved, paused for 1.3 ms",
    "vbd3/1/51712 queue 0: reactor 0 is full, 1 has room, but: it is busy",
  ]);
});
