/**
 * What the slots of a ring take: nearly all is memory that the ring brings, of which unused pages need not exist.
 */

import { assert, assertEquals } from "@std/assert";
import { segmentTableBytes, SlotTable } from "../../lib/dataplane/slot_table.ts";

const SLOTS = 32;
const SEGMENTS = 256;
/** Of the heap, for an idle ring of one page. */
const MOST_HEAP_BYTES = 4096;

function arraysOf(...owners: object[]): ArrayBufferView[] {
  return owners.flatMap((owner) => Object.values(owner)).filter((value) => ArrayBuffer.isView(value));
}

Deno.test("what there is by segment lies in the ring's memory, without overlaps; the heap has the little rest", () => {
  const bytes = segmentTableBytes(SLOTS, SEGMENTS);
  const memory = new Uint8Array(new ArrayBuffer(bytes + 8), 8, bytes);
  const slots = new SlotTable(SLOTS, SEGMENTS, SEGMENTS, [], memory);
  const all = arraysOf(slots, slots.vectors);
  const heap = all.filter(({ buffer }) => buffer !== memory.buffer);
  const heapBytes = heap.reduce((sum, { byteLength }) => sum + byteLength, 0);
  assert(heapBytes <= MOST_HEAP_BYTES, `${heapBytes} bytes of the heap`);
  const inside = all.filter(({ buffer }) => buffer === memory.buffer).toSorted((a, b) => a.byteOffset - b.byteOffset);
  let end = memory.byteOffset;
  for (const { byteOffset, byteLength } of inside) {
    assertEquals(byteOffset, end);
    end += byteLength;
  }
  assertEquals(end, memory.byteOffset + bytes);
  assertEquals(inside.length, 5);
});
