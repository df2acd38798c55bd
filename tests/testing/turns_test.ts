/**
 * The testing kit leaves the event loop its turns while a disk answers at once: timers of others fire.
 */

import { assert } from "@std/assert";
import { openDisk } from "../../lib/storage/open.ts";
import { EventLoopParker } from "../../lib/sim/park.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { ChannelDriver } from "../../lib/testing/channel_driver.ts";
import { openChannel, simulatedPlatform } from "../storage/rig.ts";

/** Far more than anything does in the time. */
const MOST = 2_000_000;

/** Carries it out again and again until a timer fires; that must be before {@linkcode MOST} times. */
async function untilTimer(work: () => Promise<unknown>): Promise<void> {
  let fired = false;
  const timer = setTimeout(() => fired = true, 20);
  let count = 0;
  for (const end = performance.now() + 5_000; !fired && count < MOST && performance.now() < end; count++) await work();
  clearTimeout(timer);
  assert(fired, `no timer has fired in ${count} turns`);
}

Deno.test("a channel that completes at once", async () => {
  await using disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
  using driver = new ChannelDriver(await disk.attachment(0), { platform: simulatedPlatform(), open: openChannel });
  await untilTimer(() => driver.readAt(0, 4096));
});

Deno.test("waits of a guest that are over at once", async () => {
  using parker = new EventLoopParker(createMachine({ memoryBytes: 1 << 20, domains: 2 }));
  await untilTimer(() => {
    parker.wake();
    return parker.park();
  });
});
