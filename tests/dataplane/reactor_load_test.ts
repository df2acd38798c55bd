/**
 * How busy a reactor is: what it notes of its sleeps, and what the control plane makes of that.
 */

import { assert, assertEquals } from "@std/assert";
import { createReactorLoad, ReactorLoad, ReactorLoadMeter } from "../../lib/dataplane/reactor_load.ts";

function rig(cpuMs: () => number | undefined = () => undefined): {
  readonly clock: { now: number };
  readonly meter: ReactorLoadMeter;
  readonly ask: () => ReactorLoad;
} {
  const memory = createReactorLoad();
  const clock = { now: 1000 };
  return {
    clock,
    meter: new ReactorLoadMeter(memory, { now: () => clock.now }),
    ask: () => new ReactorLoad(memory, cpuMs),
  };
}

function assertAbout(actual: number | undefined, expected: number): void {
  assert(actual !== undefined && Math.abs(actual - expected) < 1e-9, `${actual} is not ${expected}`);
}

Deno.test("the load is the share of the time in which the reactor was awake, a sleep that lasts counted", () => {
  const { clock, meter, ask } = rig();
  const load = ask();
  assertEquals(load.look(clock.now), undefined);
  for (let i = 0; i < 10; i++) {
    meter.sleeps();
    clock.now += 75;
    meter.wakes();
    clock.now += 25;
  }
  assertAbout(load.look(clock.now), 0.25);
  meter.sleeps();
  clock.now += 900;
  assertAbout(load.look(clock.now), 0);
  clock.now += 100;
  meter.wakes();
  clock.now += 100;
  assertAbout(load.look(clock.now), 0.5);
  assertEquals(load.look(clock.now), undefined, "no time has passed");
});

Deno.test("nothing is noted as long as nobody asks", () => {
  const memory = createReactorLoad();
  let readings = 0;
  const meter = new ReactorLoadMeter(memory, { now: () => ++readings });
  meter.sleeps();
  meter.wakes();
  assertEquals(readings, 0);
});

Deno.test("time on a processor counts where it is more: the kernel may work while the reactor seems to sleep", () => {
  let usedMs = 5;
  const { clock, meter, ask } = rig(() => usedMs);
  const load = ask();
  load.look(clock.now);
  meter.sleeps();
  clock.now += 100;
  usedMs += 90;
  meter.wakes();
  assertAbout(load.look(clock.now), 0.9);
});
