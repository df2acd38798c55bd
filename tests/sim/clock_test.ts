/**
 * The clock of a platform: threads that began at different times agree about it, because they share budgets per second.
 */

import { assert } from "@std/assert";
import { openNativePlatform } from "../../ffi/platform.ts";
import type { Platform } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

/** How far the wall clock may be adjusted while a thread starts, and how exactly a thread knows when it began. */
const SKEW_MS = 5;

const PLATFORMS: Readonly<Record<string, () => Platform>> = {
  simulated: () => openSimulatedPlatform(createMachine(), 0),
  native: openNativePlatform,
};

// Loads the C library, which stays loaded.
openNativePlatform().now();

for (const [name, open] of Object.entries(PLATFORMS)) {
  Deno.test(`a thread that begins later has the same time: ${name} platform`, async () => {
    const platform = open();
    const worker = new Worker(new URL("./clock_worker.ts", import.meta.url), { type: "module" });
    const before = platform.now();
    worker.postMessage(platform.descriptor);
    const theirs = await new Promise<number>((resolve) => worker.onmessage = ({ data }): void => resolve(data));
    const after = platform.now();
    worker.terminate();
    assert(before - SKEW_MS <= theirs && theirs <= after + SKEW_MS, `${before} <= ${theirs} <= ${after}`);
  });
}
