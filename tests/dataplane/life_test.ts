/**
 * The life of a request is in few files: V8 counts which functions run while reads pass from the guest's ring to the disk
 * and back, and the files that they are in are listed here, in the order in which a request passes them.
 */

import { assertEquals } from "@std/assert";
import { Session } from "node:inspector";
import { ABIS, OP_READ } from "../../lib/blkif/abi.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { openConnection } from "../../lib/dataplane/connection.ts";
import type { Queue } from "../../lib/dataplane/queue.ts";
import { createStats } from "../../lib/dataplane/stats.ts";
import type { DomId } from "../../lib/hypervisor.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { openSimulatedPlatform } from "../../lib/sim/platform.ts";
import { nullAttachment, openChannel } from "../../lib/storage/engine/null.ts";

const GUEST = 5 as DomId;
const BACKEND = 0 as DomId;
const REQUESTS = 200;

/** The files with functions that run for every request. */
const FILES = [
  "lib/dataplane/queue.ts",
  "lib/dataplane/request_steps.ts",
  "lib/dataplane/slot_table.ts",
  "lib/blkif/back_ring.ts",
  "lib/dataplane/journal.ts",
  "lib/blkif/request.ts",
  "lib/dataplane/grants/copy.ts",
  "lib/storage/engine/operations.ts",
  "lib/storage/engine/immediate.ts",
  "lib/storage/engine/null.ts",
];

/** The guest, the simulated platform, and arithmetic in one line. */
const OTHERS = /\/(lib\/sim|tests|lib\/blkif\/front_ring.ts|lib\/blkif\/abi.ts|lib\/units.ts)/;

interface Script {
  readonly url: string;
  readonly functions: readonly { readonly ranges: readonly { readonly count: number }[] }[];
}

/** The files below `lib` with a function that ran at least `calls` times during `act`. */
async function filesCalled(calls: number, act: () => void): Promise<string[]> {
  const session = new Session();
  session.connect();
  const post = (method: string, parameters = {}): Promise<{ result?: Script[] }> =>
    new Promise((resolve, reject) => {
      session.post(method, parameters, (error, answer) => error === null ? resolve(answer ?? {}) : reject(error));
    });
  await post("Profiler.enable");
  await post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
  act();
  const { result } = await post("Profiler.takePreciseCoverage");
  await post("Profiler.disable");
  session.disconnect();
  return result!.filter(({ functions }) => functions.some(({ ranges }) => ranges[0]!.count >= calls))
    .flatMap(({ url }) => OTHERS.test(url) ? [] : /\/(lib\/.*)/.exec(url)?.slice(1) ?? []);
}

/** Sends reads of one page and takes their responses. */
function read(front: FrontRing, gref: number, queue: Queue): void {
  const fields = new RequestFields();
  fields.operation = OP_READ;
  fields.segmentCount = 1;
  fields.grefs[0] = gref;
  fields.lastSectors[0] = 7;
  const response = new ResponseFields();
  for (let sent = 0; sent < REQUESTS;) {
    for (; sent < REQUESTS && front.free() > 0; sent++) front.putRequest(fields);
    front.push();
    while (queue.step());
    for (let count = front.unconsumedResponses(); count > 0; count--) front.takeResponse(response);
    assertEquals(response.status, 0);
  }
}

Deno.test("a request passes about ten files from the guest's ring to its answer", async () => {
  const machine = createMachine({ memoryBytes: 32 * 2 ** 20 });
  const guest = openSimulatedPlatform(machine, GUEST);
  const backend = openSimulatedPlatform(machine, BACKEND);
  using shares = guest.openGrantShares();
  using guestEvents = guest.openEventChannels(BACKEND);
  const [ring, page] = [shares.share(BACKEND, 1, true), shares.share(BACKEND, 1, true)];
  const front = FrontRing.initialise(ring.view, ABIS["x86_64-abi"]);
  using grants = backend.openGrantTable(GUEST);
  using events = backend.openEventChannels(GUEST);
  const request = {
    label: "test",
    guest: GUEST,
    ringRefs: ring.refs,
    eventChannel: guestEvents.bindUnbound(BACKEND),
    abi: "x86_64-abi" as const,
    attachment: nullAttachment(),
    properties: { sectors: 8, logicalSectorBytes: 512, physicalSectorBytes: 512, readOnly: false },
    grants: "copy" as const,
    stats: createStats(),
  };
  using connection = openConnection(
    request,
    backend,
    { grants, events },
    (_, options) => openChannel(nullAttachment(), options),
    () => {},
  );
  const files = await filesCalled(REQUESTS, () => read(front, page.refs[0]!, connection.queue));
  assertEquals(files.sort(), FILES.toSorted());
});
