/**
 * Shows the ring rules at every index, around 2^32 above all: how many requests are there, when a ring is broken, who
 * is to be notified, what the final check does, and what can be attached to.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  ABIS,
  indexDifference,
  REQ_EVENT_WORD,
  REQ_PROD_WORD,
  RING_BROKEN,
  RingError,
  RSP_EVENT_WORD,
  RSP_PROD_WORD,
} from "../../lib/blkif/abi.ts";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import { FrontRing, RequestFields, ResponseFields } from "../../lib/blkif/front_ring.ts";
import { anyU32, LAYOUTS, ringAt, startIndex, WRAP } from "./rings.ts";

const X86_64 = ABIS["x86_64-abi"];
const REQUEST = new RequestFields();
const RESPONSE = new ResponseFields();
const SNAPSHOT = new Uint32Array(28);

Deno.test("the difference of two indices wraps at 2^32, however they are signed", () => {
  fc.assert(fc.property(anyU32, anyU32, (later, earlier) => {
    const expected = Number(BigInt.asUintN(32, BigInt(later) - BigInt(earlier)));
    assertEquals(indexDifference(later, earlier), expected);
    assertEquals(indexDifference(later | 0, earlier), expected);
    assertEquals(indexDifference(later, earlier | 0), expected);
    assertEquals(indexDifference(later | 0, earlier | 0), expected);
  }));
});

for (const abi of LAYOUTS) {
  for (const pages of [1, 2, 16]) {
    Deno.test(`${abi.name}, ${pages} pages: full rounds keep every index right from before the wrap to after it`, () => {
      const { header, front, back } = ringAt(WRAP - 2 * 512, abi, pages);
      const slots = front.slots;
      for (let index = WRAP - 2 * 512; index < WRAP + 2 * 512; index += slots) {
        for (let i = 0; i < slots; i++) {
          assertEquals([front.free(), front.requestProducer], [slots - i, (index + i) % WRAP]);
          front.putRequest(REQUEST);
        }
        assertEquals(back.unconsumed(), 0, "nothing is seen before it is pushed");
        front.push();
        for (let i = 0; i < slots; i++) {
          assertEquals([back.unconsumed(), back.outstanding(), back.requestConsumer], [
            slots - i,
            i,
            (index + i) % WRAP,
          ]);
          back.take(SNAPSHOT, 0);
        }
        for (let i = 0; i < slots; i++) {
          assertEquals([back.unconsumed(), back.outstanding(), back.responseProducer], [
            0,
            slots - i,
            (index + i) % WRAP,
          ]);
          back.putResponse(0, 0, 0, 0);
        }
        assertEquals(front.unconsumedResponses(), 0, "nothing is seen before it is pushed");
        back.push();
        assertEquals(header[RSP_PROD_WORD], (index + slots) % WRAP);
        for (let i = 0; i < slots; i++) {
          assertEquals([front.unconsumedResponses(), front.responseConsumer], [slots - i, (index + i) % WRAP]);
          front.takeResponse(RESPONSE);
        }
      }
    });
  }
}

Deno.test("unconsumed is what was produced up to the ring's room, and a ring is broken beyond that", () => {
  fc.assert(fc.property(
    startIndex,
    fc.integer({ min: 0, max: 32 }),
    fc.integer({ min: 0, max: 32 }),
    fc.oneof(anyU32, fc.integer({ min: 0, max: 100 }), fc.integer({ min: WRAP - 100, max: WRAP - 1 })),
    (start, first, second, claimed) => {
      const taken = Math.max(first, second);
      const answered = Math.min(first, second);
      const { header, back } = ringAt(start);
      header[REQ_PROD_WORD] = start + taken;
      for (let i = 0; i < taken; i++) back.take(SNAPSHOT, 0);
      for (let i = 0; i < answered; i++) back.putResponse(0, 0, 0, 0);
      header[REQ_PROD_WORD] = start + taken + claimed;
      const room = 32n - BigInt(taken - answered);
      const expected = BigInt(claimed) > room ? BigInt(RING_BROKEN) : BigInt(claimed);
      assertEquals(BigInt(back.unconsumed()), expected);
      assertEquals(back.finalCheck(), claimed !== 0);
    },
  ));
});

Deno.test("a producer index that is more than a ring ahead or goes back breaks the ring, at every index", () => {
  for (let start = WRAP - 40; start < WRAP + 40; start++) {
    const { header, back } = ringAt(start % WRAP);
    const claim = (produced: number): number => {
      header[REQ_PROD_WORD] = start + produced;
      return back.unconsumed();
    };
    assertEquals([claim(32), claim(33), claim(2 ** 31), claim(-1)], [32, RING_BROKEN, RING_BROKEN, RING_BROKEN]);
    claim(5);
    for (let i = 0; i < 5; i++) back.take(SNAPSHOT, 0);
    assertEquals([claim(5), claim(4), claim(0), claim(32), claim(33)], [0, RING_BROKEN, RING_BROKEN, 27, RING_BROKEN]);
    back.putResponse(0, 0, 0, 0);
    assertEquals([claim(33), claim(34)], [28, RING_BROKEN], "an answered request makes room for one more");
    assertEquals(back.finalCheck(), true, "a broken ring does not go to sleep unseen");
  }
});

Deno.test("a frontend sees that a backend answered more than was asked", () => {
  for (let start = WRAP - 40; start < WRAP + 40; start++) {
    const { header, front } = ringAt(start % WRAP);
    for (let i = 0; i < 3; i++) front.putRequest(REQUEST);
    header[RSP_PROD_WORD] = start + 1;
    assertEquals(front.unconsumedResponses(), RING_BROKEN, "requests that were not pushed cannot be answered");
    front.push();
    assertEquals(front.unconsumedResponses(), 1);
    header[RSP_PROD_WORD] = start + 4;
    assertEquals(front.unconsumedResponses(), RING_BROKEN);
    header[RSP_PROD_WORD] = start - 1;
    assertEquals([front.unconsumedResponses(), front.finalCheck()], [RING_BROKEN, true]);
  }
});

/** Whether moving a producer index from `before` to `before + count` passes `event`, all three unbounded. */
function passes(before: bigint, count: number, event: bigint): boolean {
  return before < event && event <= before + BigInt(count);
}

/** An event index at most half the number space away from the start. */
const eventDistance = fc.oneof(fc.integer({ min: -40, max: 40 }), fc.integer({ min: -(2 ** 31), max: 2 ** 31 }));

Deno.test("push notifies exactly if the producer index passes the other end's event index", () => {
  const count = fc.integer({ min: 0, max: 32 });
  fc.assert(
    fc.property(startIndex, count, eventDistance, (start, count, distance) => {
      const ring = ringAt(start);
      ring.header[REQ_EVENT_WORD] = start + distance;
      ring.header[RSP_EVENT_WORD] = start + distance;
      const expected = passes(BigInt(start), count, BigInt(start + distance));
      for (let i = 0; i < count; i++) ring.front.putRequest(REQUEST);
      assertEquals(ring.front.push(), expected);
      assertEquals(ring.header[REQ_PROD_WORD], (start + count) % WRAP);
      for (let i = 0; i < count; i++) ring.back.take(SNAPSHOT, 0);
      for (let i = 0; i < count; i++) ring.back.putResponse(0, 0, 0, 0);
      assertEquals(ring.back.push(), expected);
      assertEquals(ring.header[RSP_PROD_WORD], (start + count) % WRAP);
      assertEquals([ring.front.push(), ring.back.push()], [false, false], "nothing new, no notification");
    }),
    { numRuns: 500 },
  );
});

Deno.test("the backend's notify rule does not depend on what the frontend wrote over rsp_prod", () => {
  const { header, front, back } = ringAt(WRAP - 2);
  for (let i = 0; i < 3; i++) front.putRequest(REQUEST);
  front.push();
  for (let i = 0; i < 3; i++) back.take(SNAPSHOT, 0);
  back.putResponse(0, 0, 0, 0);
  header[RSP_PROD_WORD] = 12345;
  assertEquals(back.push(), true);
  assertEquals(header[RSP_PROD_WORD], WRAP - 1);
  header[RSP_PROD_WORD] = 5;
  back.putResponse(0, 0, 0, 0);
  assertEquals(back.push(), false, "the event index was passed before");
  assertEquals(header[RSP_PROD_WORD], 0);
});

Deno.test("the final check leaves the event index alone while there is work, else sets it and looks again", () => {
  for (let start = WRAP - 40; start < WRAP + 40; start++) {
    const { header, front, back } = ringAt(start % WRAP);
    const events = (): number[] => [header[REQ_EVENT_WORD]!, header[RSP_EVENT_WORD]!];
    header.set([7, 7], REQ_EVENT_WORD);
    header.set([start, 7, start, 7]);
    front.putRequest(REQUEST);
    front.putRequest(REQUEST);
    front.push();
    assertEquals([back.finalCheck(), events()], [true, [7, 7]]);
    back.take(SNAPSHOT, 0);
    back.take(SNAPSHOT, 0);
    assertEquals([back.finalCheck(), events()], [false, [(start + 3) % WRAP, 7]]);
    back.putResponse(0, 0, 0, 0);
    back.push();
    assertEquals([front.finalCheck(), events()[1]], [true, 7]);
    front.takeResponse(RESPONSE);
    assertEquals([front.finalCheck(), events()[1]], [false, (start + 2) % WRAP]);
    front.putRequest(REQUEST);
    assertEquals(front.push(), true, "the very next request is notified");
    back.putResponse(0, 0, 0, 0);
    assertEquals(back.push(), true, "the very next response is notified");
  }
});

Deno.test("a back ring attaches at rsp_prod, takes what is waiting, and refuses an impossible ring", () => {
  for (let start = WRAP - 40; start < WRAP + 40; start++) {
    const { memory, header } = ringAt(start % WRAP);
    header[REQ_PROD_WORD] = start + 32;
    const back = new BackRing(memory, X86_64);
    assertEquals([back.requestConsumer, back.responseProducer], [start % WRAP, start % WRAP]);
    assertEquals([back.unconsumed(), back.outstanding()], [32, 0]);
    for (const wrong of [33, 2 ** 31, -1]) {
      header[REQ_PROD_WORD] = start + wrong;
      assertThrows(() => new BackRing(memory, X86_64), RingError, "more than 32 slots ahead of rsp_prod");
    }
  }
});

Deno.test("a ring needs whole, aligned pages, and may be shared memory", () => {
  for (const bytes of [0, 100, 4095, 6000]) {
    assertThrows(() => new BackRing(new Uint8Array(bytes), X86_64), RingError, "not a whole number of pages");
  }
  const odd = new Uint8Array(new ArrayBuffer(2 * PAGE_BYTES), 2, PAGE_BYTES);
  assertThrows(() => new FrontRing(odd, X86_64), RingError, "not aligned");
  const shared = new Uint8Array(new SharedArrayBuffer(2 * PAGE_BYTES), PAGE_BYTES).fill(0xFF);
  const front = FrontRing.initialise(shared, X86_64);
  const back = new BackRing(shared, X86_64);
  assertEquals([...new Uint32Array(shared.buffer, PAGE_BYTES, 4)], [0, 1, 0, 1]);
  front.putRequest(REQUEST);
  assertEquals(front.push(), true);
  assertEquals(back.unconsumed(), 1);
  back.take(SNAPSHOT, 0);
  assertEquals(SNAPSHOT[0], 0);
});
