/**
 * The simulation can fail: it notices each breakage of the backend within the number of seeds that the gate runs, by
 * the check that is meant for it.
 */

import { assert, assertMatch } from "@std/assert";
import { BREAKAGES } from "./breakages.ts";
import { simulate } from "./simulation.ts";

const SEEDS = 400;

/** The expected failure of each breakage. */
const NOTICED: Readonly<Record<string, RegExp>> = {
  "a flush that does not flush": /was answered and flushed/,
  "a barrier that does not order writes": /barrier|before what precedes it was flushed/,
  "a bounds check that is off by one": /of disk-\d, which has \d+|no request asks for|must be refused/,
  "a response with a wrong id": /not in flight|upper half|before barrier/,
  "a response that is sent twice": /not in flight|more answers than/,
  "a page that is never unmapped": /pages mapped/,
  "data that goes into the wrong sector of a page": /was changed|read sector/,
  "notifications that are lost": /not recovered|a guest waits until it is answered/,
  "a latch that does not latch": /after a flush of this disk had failed/,
  "a latch that the next process forgets": /after a flush of this disk had failed/,
  "a journal that forgets responses": /not in flight|not recovered|no request asks for/,
  "a ring that moves with requests in flight":
    /was closed with \d+ in flight|was used while it is in flight|connected with \d+ requests in flight/,
  "an image that is not locked": /of a process that was killed/,
  "an image that is never closed": /disk-\d is open \d+ times/,
  "one thread for the storage calls of all disks": /while another disk hangs, a guest waits until it is/,
  "a process that waits for a hung disk for ever": /does not end though it was asked to/,
  "a state that is skipped": /went from Initialising to Connected/,
  "a short write that is taken for a whole one": /read sector|is wrong|holds write/,
};

for (const { name, breakage, replace } of BREAKAGES) {
  Deno.test(`noticed: ${name}`, async () => {
    using _undo = replace?.();
    let failure: string | undefined;
    for (let seed = 1; seed <= SEEDS && failure === undefined; seed++) {
      ({ failure } = await simulate(seed, breakage === undefined ? {} : { breakage }));
    }
    assert(failure !== undefined, `not noticed in ${SEEDS} seeds`);
    assertMatch(failure, NOTICED[name]!);
  });
}
