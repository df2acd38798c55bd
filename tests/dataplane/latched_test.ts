/**
 * A failed flush is reported to the control plane at once, not when the ring is closed or opened again.
 */

import { assert, assertEquals } from "@std/assert";
import { ABIS, OP_FLUSH_DISKCACHE } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { InlineDataPlane } from "../../lib/dataplane/inline_dataplane.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import { EIO } from "../../lib/errno.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { ImmediateChannel } from "../../lib/storage/engine/immediate.ts";
import { OPERATION } from "../../lib/storage/engine/executor.ts";
import { openDisk } from "../../lib/storage/open.ts";

const GUEST = 5 as DomId;
const BACKEND = 0 as DomId;

Deno.test("the owner of a ring learns at once that a flush has failed", async () => {
  const machine = createMachine({ memoryBytes: 8 * 2 ** 20 });
  const guest = openSimulatedPlatform(machine, GUEST);
  using shares = guest.openGrantShares();
  using events = guest.openEventChannels(BACKEND);
  const ringPage = shares.share(BACKEND, 1, true);
  const front = FrontRing.initialise(ringPage.view, ABIS["x86_64-abi"]);
  await using disk = await openDisk({ format: "null", target: "1M", readOnly: false, engine: "auto" });
  const failing = {
    execute: (operation: number): number => operation === OPERATION.flush ? -EIO : 0,
    discard: (): number => 0,
    [Symbol.dispose]: (): void => {},
  };
  await using plane = new InlineDataPlane({
    platform: openSimulatedPlatform(machine, BACKEND),
    openChannel: (_attachment, options) => new ImmediateChannel(failing, options),
    warn: () => {},
  });
  const queue = await plane.openQueue({
    label: "latched",
    guest: GUEST,
    ringRefs: ringPage.refs,
    eventChannel: events.bindUnbound(BACKEND),
    abi: "x86_64-abi",
    disk,
    grants: "copy",
    stats: createStats(),
  });
  let told = false;
  void queue.latched!.then(() => told = true);
  const fields = new RequestFields();
  fields.operation = OP_FLUSH_DISKCACHE;
  front.putRequest(fields);
  front.push();
  for (let turn = 0; turn < 5; turn++) plane.turn();
  const response = new ResponseFields();
  front.takeResponse(response);
  assertEquals(response.status, -1);
  await Promise.resolve();
  assert(told);
  const closed = queue.close();
  for (let turn = 0; turn < 5; turn++) plane.turn();
  await closed;
});
