/**
 * The park word alone: every order of one sleeper and its wakers. It must not know how either side of the seam sleeps.
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { claimWake, enterPark, leavePark, NOTIFIED, PARK_WORD_BYTES, PARKED, RUNNING } from "../lib/park_word.ts";

function newWord(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(PARK_WORD_BYTES));
}

Deno.test("park word: a wake while the owner runs needs no rousing and cancels the next park only", () => {
  const word = newWord();
  assertFalse(claimWake(word));
  assertEquals(word[0], NOTIFIED);
  assertFalse(enterPark(word));
  assertEquals(word[0], RUNNING);
  assert(enterPark(word));
  assertEquals(word[0], PARKED);
});

Deno.test("park word: of several wakes of a sleeper exactly one rouses it", () => {
  const word = newWord();
  assert(enterPark(word));
  assertEquals([claimWake(word), claimWake(word), claimWake(word)], [true, false, false]);
  leavePark(word);
  assertEquals(word[0], RUNNING);
});

Deno.test("park word: a sleeper that left by itself is not roused", () => {
  const word = newWord();
  assert(enterPark(word));
  leavePark(word);
  assertFalse(claimWake(word));
});
