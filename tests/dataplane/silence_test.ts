/**
 * Signs of life: which reactors answer, and which silence is a disk's.
 */

import { assert, assertEquals } from "@std/assert";
import { WorkerDataPlane } from "../../lib/dataplane/worker_dataplane.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { ThreadStates } from "../../lib/hypervisor.ts";
import { BACKEND } from "./worker_rig.ts";

/** A data plane whose time the test sets. */
class Rig {
  nowMs = 0;
  isHeld = false;
  readonly plane: WorkerDataPlane;

  constructor(entry?: URL) {
    const platform = openSimulatedPlatform(createMachine({ memoryBytes: 2 ** 22 }), BACKEND);
    const threads: ThreadStates = { current: () => 1, isHeld: () => this.isHeld };
    const timed = new Proxy(platform, {
      get: (target, name): unknown => {
        if (name === "now") return () => this.nowMs;
        if (name === "threads") return threads;
        const value: unknown = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const addLane = (): Promise<void> => Promise.resolve();
    this.plane = new WorkerDataPlane({ platform: timed, workers: 1, addLane, warn: () => {}, ...(entry && { entry }) });
  }
}

Deno.test("a reactor that sleeps answers, so it is never silent", async () => {
  const rig = new Rig();
  await using plane = rig.plane;
  await plane.start();
  for (let round = 0; round < 3; round++) {
    plane.silentMs();
    rig.nowMs += 1000;
    // Its answer can come at any time from now on; then this asks again.
    for (const end = performance.now() + 10_000; plane.silentMs() > 0;) {
      assert(performance.now() < end, "no answer");
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
});

Deno.test("a reactor that does not answer is silent, unless the kernel holds its thread", async () => {
  const rig = new Rig(new URL("./mute_worker.ts", import.meta.url));
  await using plane = rig.plane;
  await plane.start();
  assertEquals(plane.silentMs(), 0);
  rig.nowMs += 1000;
  assertEquals(plane.silentMs(), 1000);
  rig.isHeld = true;
  assertEquals(plane.silentMs(), 0);
  rig.isHeld = false;
  rig.nowMs += 300;
  assertEquals(plane.silentMs(), 300);
});
