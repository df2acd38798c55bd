/**
 * A process of a hostile guest, with a disk of its own: `hostile_process.ts discard|fire PATH`. `discard` keeps
 * one discard of the whole disk in flight, with writes behind it. `fire` notifies the ports of two rings as
 * fast as it can. It prints a line when it begins, and goes on until it is killed.
 */

import { OP_DISCARD, OP_WRITE } from "../../../lib/blkif/abi.ts";
import { DiscardFields, RequestFields, ResponseFields } from "../../../lib/blkif/front_ring.ts";
import { Frontend, type FrontendConnection } from "../../../lib/guest/frontend.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";

const [act, path] = Deno.args;
const PAGE_SECTORS = 8;
/** Between two writes: a multiple of a page. */
const STRIDE_SECTORS = 100_003 * PAGE_SECTORS;
const WORD = 2 ** 32;
/** Notifications between two turns of the event loop, in which the guest follows xenstore. */
const SHOTS = 10_000;

const platform = openNativePlatform();
const frontend = new Frontend({ platform, store: platform.openXenstore(), path: path!, queues: 2, timeoutMs: 60_000 });

const response = new ResponseFields();
const discard = new DiscardFields();
const write = new RequestFields();
let discarding = false;

/** Keeps one discard of the whole disk in flight, and the rest of the ring full of writes at places spread over it. */
function fill({ ring, dataPages, disk, rings }: FrontendConnection): void {
  while (ring.unconsumedResponses() > 0) {
    ring.takeResponse(response);
    if (response.operation === OP_DISCARD) discarding = false;
  }
  if (!discarding && ring.free() > 0) {
    discard.sectorCountLow = disk.sectors % WORD;
    discard.sectorCountHigh = Math.floor(disk.sectors / WORD);
    ring.putDiscard(discard);
    discarding = true;
  }
  write.operation = OP_WRITE;
  write.segmentCount = 1;
  write.grefs[0] = dataPages.refs[0]!;
  write.lastSectors[0] = PAGE_SECTORS - 1;
  while (ring.free() > 0) {
    write.sectorLow = (write.sectorLow + STRIDE_SECTORS) % (disk.sectors - PAGE_SECTORS);
    ring.putRequest(write);
  }
  if (ring.push()) frontend.events.notify(rings[0]!.port);
}

function fire({ rings }: FrontendConnection): void {
  for (let shot = 0; shot < SHOTS; shot++) frontend.events.notify(rings[shot % rings.length]!.port);
}

const connection = await frontend.connect();
// deno-lint-ignore no-console
console.log("begins");
while (true) {
  if (act === "fire") fire(connection);
  else fill(connection);
  await new Promise((resolve) => setTimeout(resolve, 0));
}
