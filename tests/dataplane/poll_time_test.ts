/**
 * How long an idle reactor looks for requests: what makes it look, and what ends that.
 * Pure arithmetic; that it costs an idle disk nothing is shown by idle_test.ts.
 */

import { assertEquals } from "@std/assert";
import { PollTime } from "../../lib/dataplane/poll_time.ts";

Deno.test("it looks once work came soon after falling asleep, and goes on as long as it finds some", () => {
  const poll = new PollTime(0.05);
  assertEquals(poll.nowMs, 0);
  poll.idled(3);
  assertEquals(poll.nowMs, 0, "a long sleep is none to be cut short");
  poll.idled(0.03);
  assertEquals(poll.nowMs, 0.05);
  for (let i = 0; i < 5; i++) poll.found();
  assertEquals(poll.nowMs, 0.05);
});

Deno.test("a poll that finds nothing ends polling, for longer each time", () => {
  const poll = new PollTime(0.05);
  poll.idled(0.03);
  const sleeps: number[] = [];
  for (let look = 0; look < 8; look++) {
    poll.idled(0.06); // after a look that found nothing
    let count = 1;
    while (poll.nowMs === 0) {
      poll.idled(0.03);
      count++;
    }
    sleeps.push(count);
  }
  assertEquals(sleeps, [2, 4, 8, 16, 32, 64, 64, 64]);
  poll.found();
  poll.idled(0.06);
  assertEquals(poll.nowMs, 0);
  poll.idled(0.03);
  assertEquals(poll.nowMs, 0.05, "it begins anew after one that found something");
});

Deno.test("a reactor that is not to look never does", () => {
  const poll = new PollTime(0);
  poll.idled(0);
  assertEquals(poll.nowMs, 0);
});
