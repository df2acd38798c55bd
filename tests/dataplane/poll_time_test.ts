/**
 * How long an idle reactor looks for requests: what makes that longer, and what ends it.
 * Pure arithmetic; that it costs an idle disk nothing is shown by idle_test.ts.
 */

import { assertEquals, assertLessOrEqual } from "@std/assert";
import { PollTime } from "../../lib/dataplane/poll_time.ts";

Deno.test("it does not look until work came soon after falling asleep, then ever longer up to the limit", () => {
  const poll = new PollTime(0.05);
  assertEquals(poll.nowMs, 0);
  const times = Array.from({ length: 6 }, () => {
    poll.idled(0.03);
    return poll.nowMs;
  });
  assertEquals(times.map((ms) => Math.round(ms * 1000)), [10, 20, 40, 50, 50, 50]);
});

Deno.test("one long sleep ends it, and it begins small again", () => {
  const poll = new PollTime(0.05);
  for (let i = 0; i < 5; i++) poll.idled(0.02);
  poll.idled(3);
  assertEquals(poll.nowMs, 0);
  poll.idled(0.02);
  assertLessOrEqual(poll.nowMs, 0.01);
});

Deno.test("a reactor that is not to look never does", () => {
  const poll = new PollTime(0);
  poll.idled(0);
  assertEquals(poll.nowMs, 0);
});
