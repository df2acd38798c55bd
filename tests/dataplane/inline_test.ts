/**
 * The data plane in the caller's thread: a queue is opened, served and closed by turns alone, a refusal leaves nothing,
 * and another opener of channels is used where one is given.
 */

import { assert, assertEquals, assertRejects } from "@std/assert";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { InlineDataPlane } from "../../lib/dataplane/inline_dataplane.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { QueueSpec } from "../../lib/dataplane/types.ts";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, EvtchnPort, GrantRef } from "../../lib/hypervisor.ts";
import { eventLoopTurn } from "../../lib/modules.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";
import type { DiskAttachment } from "../../lib/storage/disk.ts";
import { type MemoryAttachment, openChannel } from "../../lib/storage/engine/memory.ts";
import { openDisk } from "../../lib/storage/open.ts";

const GUEST = 5 as DomId;
const BACKEND = 0 as DomId;

for (const hangs of ["its attachment does not come", "its module does not load"]) {
  Deno.test(`a queue is given up when its opening is aborted while ${hangs}`, async () => {
    const machine = createMachine({ memoryBytes: 8 * 2 ** 20 });
    await using disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
    await using plane = new InlineDataPlane({
      platform: openSimulatedPlatform(machine, BACKEND),
      warn: (line) => assert(false, line),
    });
    const begun = Promise.withResolvers<void>();
    const never = new Promise<never>(() => {});
    const module = "data:text/javascript,dispatchEvent(new Event('begun'));" +
      "await new Promise((over)=>addEventListener('over',over,{once:true}))";
    const attachment = (): Promise<DiskAttachment> => {
      if (hangs.includes("module")) return Promise.resolve({ module });
      begun.resolve();
      return never;
    };
    addEventListener("begun", () => begun.resolve(), { once: true });
    const stop = new AbortController();
    const spec: QueueSpec = {
      label: "inline",
      guest: GUEST,
      ringRefs: [8 as GrantRef],
      eventChannel: 15 as EvtchnPort,
      abi: "x86_64-abi",
      disk: { properties: disk.properties, description: "it", attachment, [Symbol.asyncDispose]: () => never },
      grants: "copy",
      stats: createStats(),
    };
    const opening = assertRejects(() => plane.openQueue(spec, stop.signal), Error, "no longer wanted");
    await begun.promise;
    const atMs = performance.now();
    stop.abort(new Error("no longer wanted"));
    await opening;
    assert(performance.now() - atMs < 5_000, "nothing was waited for");
    dispatchEvent(new Event("over"));
    await eventLoopTurn(10);
  });
}

Deno.test("a queue is opened, served and closed by turns alone, and nothing is left of it", async () => {
  const machine = createMachine({ memoryBytes: 8 * 2 ** 20 });
  const before = machineUsage(machine);
  let opened = 0;
  {
    const guest = openSimulatedPlatform(machine, GUEST);
    using shares = guest.openGrantShares();
    using events = guest.openEventChannels(BACKEND);
    const [ringPage, data] = [shares.share(BACKEND, 1, true), shares.share(BACKEND, 1, true)];
    const front = FrontRing.initialise(ringPage.view, ABIS["x86_64-abi"]);
    await using disk = await openDisk({ format: "memory", target: "1M", readOnly: false, engine: "auto" });
    await using plane = new InlineDataPlane({
      platform: openSimulatedPlatform(machine, BACKEND),
      openChannel: (attachment, options) => {
        opened++;
        return openChannel(attachment as MemoryAttachment, options);
      },
      warn: (line) => assert(false, line),
    });
    const spec: QueueSpec = {
      label: "inline",
      guest: GUEST,
      ringRefs: ringPage.refs,
      eventChannel: events.bindUnbound(BACKEND),
      abi: "x86_64-abi",
      disk,
      grants: "copy",
      stats: createStats(),
    };
    const refs = [7777 as GrantRef];
    await assertRejects(() => plane.openQueue({ ...spec, ringRefs: refs }), XenblkError, "grant 7777");
    const queue = await plane.openQueue(spec);
    plane.sleep(-1); // the opened queue is reason enough to return
    const fields = new RequestFields();
    fields.operation = OP_READ;
    fields.segmentCount = 1;
    fields.grefs[0] = data.refs[0]!;
    data.view.fill(1);
    front.putRequest(fields);
    front.push();
    for (let turn = 0; turn < 5; turn++) plane.turn();
    assertEquals(front.unconsumedResponses(), 1);
    const response = new ResponseFields();
    front.takeResponse(response);
    assertEquals([response.status, data.view[0], data.view[511], data.view[512]], [0, 0, 0, 1]);
    const closed = queue.close();
    assert(closed === queue.close(), "closing twice is closing once");
    for (let turn = 0; turn < 5; turn++) plane.turn();
    await closed;
    assertEquals(machineUsage(machine).mappedPages, 0);
  }
  assertEquals(opened, 1);
  assertEquals(machineUsage(machine), before);
});
