/**
 * A service that is told to end before its threads have started.
 */

import { assertEquals, assertRejects } from "@std/assert";
import { DEFAULT_SETTINGS } from "../../lib/backend/settings.ts";
import { startService } from "../../lib/service.ts";
import { SILENT } from "../../lib/log.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";

Deno.test("a service that is ended while its threads start serves nothing, and leaves nothing", async () => {
  const end = new AbortController();
  let connections = 0;
  const starting = startService({
    platform: openSimulatedPlatform(createMachine({ memoryBytes: 32 << 20 }), 0),
    openXenstore: () => {
      connections++;
      throw new Error("it must not connect");
    },
    kind: "vbd3",
    settings: DEFAULT_SETTINGS,
    journal: true,
    workers: 1,
    logger: SILENT,
    signal: end.signal,
  });
  end.abort();
  await assertRejects(() => starting, DOMException);
  assertEquals(connections, 0);
});
