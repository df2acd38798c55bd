/**
 * Shares of a thread: the event loop has its turn, and who came first is served first.
 */

import { assert, assertEquals } from "@std/assert";
import type { Clock } from "../lib/clock.ts";
import { Place, Turns } from "../lib/turns.ts";

/** Time passes with work only. */
class WorkClock implements Clock {
  ms = 0;
  turns = 0;

  now(): number {
    return this.ms;
  }

  sleep(): Promise<void> {
    this.turns++;
    return new Promise((resolve) => setTimeout(resolve, 0));
  }
}

const PIECES = 8;
const PIECE_MS = 4;
const SHARES = 50;

Deno.test("who came first has done all its work before those in the middle of the line have done any", async () => {
  const clock = new WorkClock();
  const turns = new Turns(clock);
  const order: number[] = [];
  const share = async (number: number): Promise<void> => {
    const place = new Place(turns);
    for (let piece = 0; piece < PIECES; piece++) {
      await place.run(() => {
        clock.ms += PIECE_MS;
        order.push(number);
      });
    }
  };
  await Promise.all(Array.from({ length: SHARES }, (_, number) => share(number)));
  assertEquals(order.length, SHARES * PIECES);
  const middle = order.indexOf(SHARES / 2);
  assert(order.lastIndexOf(0) < middle, `the first ended at ${order.lastIndexOf(0)}, the middle began at ${middle}`);
  // The event loop had its turn after each 10 ms of work, or after the piece that went beyond them.
  assert(clock.turns >= order.length * PIECE_MS / (10 + PIECE_MS) - 1, `${clock.turns} turns`);
});

Deno.test("who goes to the end of the line lets all others come first", async () => {
  const clock = new WorkClock();
  const turns = new Turns(clock);
  const order: string[] = [];
  const work = (name: string) => (): void => {
    clock.ms += 20;
    order.push(name);
  };
  const [busy, other] = [new Place(turns), new Place(turns)];
  await busy.run(work("busy"));
  busy.renew();
  await Promise.all([busy.run(work("busy again")), other.run(work("other"))]);
  assertEquals(order, ["busy", "other", "busy again"]);
});

Deno.test("work that throws rejects, and what waits behind it goes on", async () => {
  const clock = new WorkClock();
  const turns = new Turns(clock);
  const fail = (): never => {
    clock.ms += 20;
    throw new Error("no");
  };
  const outcomes = await Promise.allSettled([turns.run(fail), turns.run(fail), turns.run(() => 3)]);
  assertEquals(outcomes.map(({ status }) => status), ["rejected", "rejected", "fulfilled"]);
});
