/**
 * What engines may do with the memory of each grant mode, and that the channel is opened with this rule.
 */

import { assertEquals, assertThrows } from "@std/assert";
import { ABIS } from "../../lib/blkif/abi.ts";
import { FrontRing } from "../../lib/blkif/front_ring.ts";
import { openConnection } from "../../lib/dataplane/connection.ts";
import { memoryRule } from "../../lib/dataplane/grants/memory_rule.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import type { DomId, EvtchnPort } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { MemoryRule } from "../../lib/storage/disk.ts";

Deno.test("direct I/O on a guest's pages needs the node direct-io-safe; on our own pages it does not", () => {
  const direct = (mode: GrantMode): boolean[] => [false, true].map((safe) => memoryRule(mode, safe).direct);
  assertEquals(direct("copy"), [true, true]);
  for (const mode of ["persistent", "map", "map-each"] as const) assertEquals(direct(mode), [false, true]);
});

Deno.test("pages that are mapped per request forbid asynchronous I/O", () => {
  for (const safe of [false, true]) {
    const asynchronous = (["copy", "persistent", "map", "map-each"] as const).map((mode) =>
      memoryRule(mode, safe).asynchronous
    );
    assertEquals(asynchronous, [true, true, false, false]);
  }
});

/** The rule that a channel is opened with. The opener then throws, after which nothing may stay mapped. */
function ruleTold(grants: GrantMode, directIoSafe: boolean | undefined): MemoryRule | undefined {
  const machine = createMachine({ memoryBytes: 16 * 2 ** 20 });
  using shares = openSimulatedPlatform(machine, 5).openGrantShares();
  const ring = shares.share(0 as DomId, 1, true);
  FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
  const backend = openSimulatedPlatform(machine, 0);
  using table = backend.openGrantTable(5 as DomId);
  using events = backend.openEventChannels(5 as DomId);
  const request = {
    label: "test",
    guest: 5 as DomId,
    ringRefs: ring.refs,
    eventChannel: 1 as EvtchnPort,
    abi: "x86_64-abi" as const,
    attachment: { module: "none" },
    properties: { sectors: 8, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
    grants,
    ...(directIoSafe === undefined ? {} : { directIoSafe }),
    stats: createStats(),
  };
  let rule: MemoryRule | undefined;
  const open = (): unknown =>
    openConnection(request, backend, { grants: table, events }, (_, options) => {
      rule = options.rule;
      throw new RangeError("no such engine");
    }, () => {});
  assertThrows(open, RangeError, "no such engine");
  assertEquals(machineUsage(machine).mappedPages, 0);
  return rule;
}

Deno.test("every channel is opened with the rule of its queue's mode; by default direct I/O is not safe", () => {
  for (const mode of ["copy", "persistent", "map", "map-each"] as const) {
    for (const safe of [undefined, false, true]) assertEquals(ruleTold(mode, safe), memoryRule(mode, safe ?? false));
  }
});
