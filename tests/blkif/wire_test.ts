/**
 * Shows that what a frontend puts into a ring is what the backend decodes, bit for bit, for each ABI; that a request is
 * read exactly once; and that a response changes id, operation and status of its slot and nothing else.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  OP_DISCARD,
  OP_INDIRECT,
  OP_READ,
  OP_WRITE,
  RING_HEADER_BYTES,
  RSP_PROD_WORD,
  SEGMENT_SIZE_BYTES,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "../../lib/blkif/abi.ts";
import { ResponseFields } from "../../lib/blkif/front_ring.ts";
import { decodeRequest, type RequestSlots, SnapshotMemory } from "../../lib/blkif/request.ts";
import {
  anyDirectRequest,
  anyU32,
  anyU64,
  fieldsOf,
  LAYOUTS,
  privateSlots,
  type RequestValues,
  ringAt,
  startIndex,
} from "./rings.ts";

/** What was decoded, in the form it was put in. The backend does not decode the handle. */
function decoded(slots: RequestSlots, slot: number): Omit<RequestValues, "handle"> {
  const count = slots.segmentCount[slot]!;
  return {
    operation: slots.operation[slot]!,
    id: BigInt(slots.idHigh[slot]!) << 32n | BigInt(slots.idLow[slot]!),
    sector: BigInt(slots.sectorHigh[slot]!) << 32n | BigInt(slots.sectorLow[slot]!),
    count,
    segments: Array.from({ length: Math.min(count, slots.maxSegments) }, (_, i) => ({
      gref: slots.grefs[slots.firstSegment[slot]! + i]!,
      first: slots.firstSector[slots.firstSegment[slot]! + i]!,
      last: slots.lastSector[slots.firstSegment[slot]! + i]!,
    })),
  };
}

for (const abi of LAYOUTS) {
  Deno.test(`${abi.name}: any direct request that a frontend puts is what the backend decodes`, () => {
    fc.assert(fc.property(
      fc.array(anyDirectRequest, { minLength: 1, maxLength: 40 }),
      startIndex,
      (requests, start) => {
        const { front, back } = ringAt(start, abi);
        const { snapshot, slots } = privateSlots(32);
        for (const [i, values] of requests.entries()) {
          const slot = (i * 7) % 32;
          front.putRequest(fieldsOf(values));
          front.push();
          back.take(snapshot.u32, slot * 28);
          decodeRequest(snapshot, slot * 112, abi, slots, slot);
          const { handle, ...others } = values;
          assertEquals(snapshot.u16[(slot * 112 + abi.handleOffset) >>> 1], handle);
          assertEquals(decoded(slots, slot), { ...others, segments: values.segments.slice(0, values.count) });
          assertEquals(slots.responseOperation[slot], values.operation);
          back.putResponse(0, 0, 0, 0);
          back.push();
          front.takeResponse(new ResponseFields());
        }
      },
    ));
  });

  Deno.test(`${abi.name}: a discard request is decoded without its flag being taken for segments`, () => {
    fc.assert(fc.property(anyU64, anyU64, fc.integer({ min: 0, max: 0xFFFF }), (id, sector, handle) => {
      const { snapshot, slots } = privateSlots(1);
      const view = new DataView(snapshot.u8.buffer);
      view.setUint8(abi.operationOffset, OP_DISCARD);
      view.setUint8(abi.discardFlagOffset, 1);
      view.setUint16(abi.handleOffset, handle, true);
      view.setBigUint64(abi.idOffset, id, true);
      view.setBigUint64(abi.sectorOffset, sector, true);
      view.setBigUint64(abi.discardSectorCountOffset, 2n ** 64n - 1n, true);
      decodeRequest(snapshot, 0, abi, slots, 0);
      assertEquals(decoded(slots, 0), { operation: OP_DISCARD, id, sector, count: 0, segments: [] });
      assertEquals(slots.responseOperation[0], OP_DISCARD);
    }));
  });

  Deno.test(`${abi.name}: an indirect request is decoded, and is answered with its inner operation or a safe one`, () => {
    const property = fc.property(
      fc.record({ id: anyU64, sector: anyU64, handle: fc.integer({ min: 0, max: 0xFFFF }) }),
      fc.integer({ min: 0, max: 255 }),
      fc.integer({ min: 0, max: 0xFFFF }),
      anyU32,
      ({ id, sector, handle }, inner, count, gref) => {
        const { snapshot, slots } = privateSlots(1);
        const view = new DataView(snapshot.u8.buffer);
        view.setUint8(abi.operationOffset, OP_INDIRECT);
        view.setUint8(abi.indirectOperationOffset, inner);
        view.setUint16(abi.indirectSegmentCountOffset, count, true);
        view.setUint16(abi.indirectHandleOffset, handle, true);
        view.setBigUint64(abi.idOffset, id, true);
        view.setBigUint64(abi.sectorOffset, sector, true);
        view.setUint32(abi.indirectGrefsOffset, gref, true);
        decodeRequest(snapshot, 0, abi, slots, 0);
        assertEquals({ ...decoded(slots, 0), segments: [] }, {
          operation: OP_INDIRECT,
          id,
          sector,
          count,
          segments: [],
        });
        assertEquals(slots.responseOperation[0], inner === OP_WRITE ? OP_WRITE : OP_READ);
        assert(slots.grefs.every((ref) => ref === 0), "no grant reference is taken for a segment");
      },
    );
    fc.assert(property);
  });

  Deno.test(`${abi.name}: a response changes id, operation and status of its slot and no other byte`, () => {
    const status = fc.constantFrom(STATUS_OKAY, STATUS_ERROR, STATUS_EOPNOTSUPP, -32768, 32767);
    const operation = fc.integer({ min: 0, max: 255 });
    fc.assert(fc.property(startIndex, anyU32, anyU32, operation, status, (start, idLow, idHigh, operation, status) => {
      const { memory, front, back } = ringAt(start, abi);
      for (let i = 0; i < memory.length - RING_HEADER_BYTES; i++) memory[RING_HEADER_BYTES + i] = (i * 37 + 11) & 0xFF;
      const before = memory.slice();
      front.putRequest(fieldsOf({}));
      front.push();
      memory.set(before.subarray(RING_HEADER_BYTES), RING_HEADER_BYTES);
      back.take(new Uint32Array(28), 0);
      back.putResponse(idLow, idHigh, operation, status);
      const expected = memory.slice();
      expected.set(before.subarray(RING_HEADER_BYTES), RING_HEADER_BYTES);
      const view = new DataView(expected.buffer, RING_HEADER_BYTES + (start % 32) * abi.requestSizeBytes);
      view.setUint32(abi.responseIdOffset, idLow, true);
      view.setUint32(abi.responseIdOffset + 4, idHigh, true);
      view.setUint8(abi.responseOperationOffset, operation);
      view.setInt16(abi.responseStatusOffset, status, true);
      assertEquals(memory, expected);
      assertEquals(new Uint32Array(memory.buffer, memory.byteOffset, 4)[RSP_PROD_WORD], start, "not yet published");
      back.push();
      const response = new ResponseFields();
      front.takeResponse(response);
      assertEquals({ ...response }, { idLow, idHigh, operation, status });
    }));
  });

  Deno.test(`${abi.name}: each word of a request is read once, and what the frontend does to it then has no effect`, () => {
    const { memory, front, back } = ringAt(2 ** 32 - 3, abi);
    const words = new Uint32Array(3 * 28).fill(0xEEEE_EEEE);
    const slot = new Uint32Array(memory.buffer, memory.byteOffset, memory.length / 4).subarray(
      (RING_HEADER_BYTES + (2 ** 32 - 3) % 32 * abi.requestSizeBytes) / 4,
    );
    // A frontend that changes each word as soon as it was read: the operation and the number of segments first.
    const hostile = new Proxy(words, {
      get: (target, word) => Reflect.get(target, word),
      set(target, word, value: number): boolean {
        slot[Number(word) - 28] = 0xFFFF_FFFF;
        return Reflect.set(target, word, value);
      },
    });
    const segments = Array.from({ length: 5 }, (_, i) => ({ gref: 1000 + i, first: i % 8, last: 7 }));
    const values = { operation: OP_WRITE, id: 77n, sector: 99n, count: 5, segments };
    front.putRequest(fieldsOf(values));
    front.push();
    back.take(hostile, 28);
    const { slots } = privateSlots(1);
    decodeRequest(new SnapshotMemory(new Uint8Array(words.buffer)), 112, abi, slots, 0);
    assertEquals(decoded(slots, 0), values);
    assertEquals(slot[0], 0xFFFF_FFFF, "the frontend has changed it meanwhile");
    const after = 28 + (abi.segmentsOffset + segments.length * SEGMENT_SIZE_BYTES) / 4;
    const untouched = [...words.subarray(0, 28), ...words.subarray(after)];
    assert(untouched.every((word) => word === 0xEEEE_EEEE), "nothing beside the request is written");
  });
}
