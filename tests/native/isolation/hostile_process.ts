/**
 * A process of a hostile guest, with a disk of its own: `hostile_process.ts discard|fire PATH`. `discard` fills its ring
 * with discards of the whole disk and writes behind them, again and again. `fire` notifies the ports of two rings as
 * fast as it can. It prints a line when it begins, and goes on until it is killed.
 */

import { OP_WRITE } from "../../../lib/blkif/abi.ts";
import { DiscardFields, RequestFields, ResponseFields } from "../../../lib/blkif/front_ring.ts";
import { Frontend, type FrontendConnection } from "../../../lib/guest/frontend.ts";
import { openNativePlatform } from "../../../ffi/platform.ts";

const [act, path] = Deno.args;
const LAST_SECTOR_OF_PAGE = 7;
const WORD = 2 ** 32;
/** Notifications between two turns of the event loop, in which the guest follows xenstore. */
const SHOTS = 10_000;

const platform = openNativePlatform();
const frontend = new Frontend({ platform, store: platform.openXenstore(), path: path!, queues: 2, timeoutMs: 60_000 });

/** Puts a discard of the whole disk, then writes until the ring is full. */
function fill({ ring, dataPages, disk, rings }: FrontendConnection): void {
  const response = new ResponseFields();
  while (ring.unconsumedResponses() > 0) ring.takeResponse(response);
  if (ring.free() === ring.slots) {
    const discard = new DiscardFields();
    discard.sectorCountLow = disk.sectors % WORD;
    discard.sectorCountHigh = Math.floor(disk.sectors / WORD);
    ring.putDiscard(discard);
    const write = new RequestFields();
    write.operation = OP_WRITE;
    write.segmentCount = 1;
    write.grefs[0] = dataPages.refs[0]!;
    write.lastSectors[0] = LAST_SECTOR_OF_PAGE;
    for (let id = 1; ring.free() > 0; id++) {
      write.idLow = id;
      write.sectorLow = id * (LAST_SECTOR_OF_PAGE + 1);
      ring.putRequest(write);
    }
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
