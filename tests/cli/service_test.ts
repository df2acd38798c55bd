/**
 * A service that is told to end before its threads have started.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { startService } from "../../lib/service.ts";
import { SILENT } from "../../lib/log.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

Deno.test("a service that is ended while its threads start serves nothing, and leaves nothing", async () => {
  const end = new AbortController();
  let connections = 0;
  const openXenstore = (): never => {
    connections++;
    throw new Error("it must not connect");
  };
  const starting = startService({
    platform: Object.assign(openSimulatedPlatform(createMachine({ memoryBytes: 32 << 20 }), 0), { openXenstore }),
    kind: "vbd3",
    workers: 1,
    logger: SILENT,
    signal: end.signal,
  });
  end.abort();
  await assertRejects(() => starting, DOMException);
  assertEquals(connections, 0);
});
