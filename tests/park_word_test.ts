/**
 * The protocol of the park word (lib/park_word.ts): the orders in which one sleeper and its wakers can access the word.
 * No platform is involved.
 */

import { assert, assertEquals, assertFalse } from "@std/assert";
import { claimWake, enterPark, leavePark, NOTIFIED, PARK_WORD_BYTES, PARKED, RUNNING } from "../lib/park_word.ts";

function newWord(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(PARK_WORD_BYTES));
}

Deno.test("park word: a wake while the owner runs cancels its next park, and only that one", () => {
  const word = newWord();
  assertFalse(claimWake(word));
  assertEquals(word[0], NOTIFIED);
  assertFalse(enterPark(word));
  assertEquals(word[0], RUNNING);
  assert(enterPark(word));
  assertEquals(word[0], PARKED);
});

Deno.test("park word: exactly one of several wakers has to rouse the sleeper", () => {
  const word = newWord();
  assert(enterPark(word));
  assertEquals([claimWake(word), claimWake(word), claimWake(word)], [true, false, false]);
  leavePark(word);
  assertEquals(word[0], RUNNING);
});

Deno.test("park word: after the sleeper has left by itself no waker has to rouse it", () => {
  const word = newWord();
  assert(enterPark(word));
  leavePark(word);
  assertFalse(claimWake(word));
});
