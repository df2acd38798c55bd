/**
 * What the ring tests share: rings that start at any index, and random requests.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import fc from "fast-check";
import { type AbiLayout, ABIS } from "../../lib/blkif/abi.ts";
import { BackRing } from "../../lib/blkif/back_ring.ts";
import { FrontRing, RequestFields } from "../../lib/blkif/front_ring.ts";
import { RequestSlots, SnapshotMemory } from "../../lib/blkif/request.ts";

/** The layouts, for a test per ABI. */
export const LAYOUTS: readonly AbiLayout[] = Object.values(ABIS);

/** 2^32, where ring indices wrap. */
export const WRAP = 2 ** 32;

/** Both ends of a ring, and its memory. */
export interface RingPair {
  readonly memory: Uint8Array<ArrayBuffer>;
  /** The indices in the ring's header, by REQ_PROD_WORD and so on. */
  readonly header: Uint32Array<ArrayBuffer>;
  readonly front: FrontRing;
  readonly back: BackRing;
}

/** An empty ring with all indices at `start`, and both event indices at the next one. */
export function ringAt(start: number, abi: AbiLayout = ABIS["x86_64-abi"], pages = 1): RingPair {
  // The memory does not begin where its buffer begins, like one mapping among others.
  const memory = new Uint8Array(new ArrayBuffer((pages + 1) * PAGE_BYTES), PAGE_BYTES);
  const header = new Uint32Array(memory.buffer, PAGE_BYTES, 4);
  header.set([start, start + 1, start, start + 1]);
  return { memory, header, front: new FrontRing(memory, abi), back: new BackRing(memory, abi) };
}

/** Private memory for `count` snapshots, and slots to decode them into. */
export function privateSlots(count: number): { readonly snapshot: SnapshotMemory; readonly slots: RequestSlots } {
  return { snapshot: new SnapshotMemory(new Uint8Array(count * 112)), slots: new RequestSlots(count, 11) };
}

/** A segment of a request to be put into a ring. */
export interface SegmentValues {
  readonly gref: number;
  readonly first: number;
  readonly last: number;
}

/** A request to be put into a ring. `count` is written as it is, whatever the number of segments. */
export interface RequestValues {
  readonly operation: number;
  readonly handle: number;
  readonly id: bigint;
  readonly sector: bigint;
  readonly count: number;
  readonly segments: readonly SegmentValues[];
}

/** Fills the fields of a request; segments that are not given are zero. */
export function fill(fields: RequestFields, values: RequestValues): void {
  fields.operation = values.operation;
  fields.handle = values.handle;
  fields.idLow = Number(BigInt.asUintN(32, values.id));
  fields.idHigh = Number(values.id >> 32n);
  fields.sectorLow = Number(BigInt.asUintN(32, values.sector));
  fields.sectorHigh = Number(values.sector >> 32n);
  fields.segmentCount = values.count;
  for (let i = 0; i < fields.grefs.length; i++) {
    fields.grefs[i] = values.segments[i]?.gref ?? 0;
    fields.firstSectors[i] = values.segments[i]?.first ?? 0;
    fields.lastSectors[i] = values.segments[i]?.last ?? 0;
  }
}

/** A new filled {@linkcode RequestFields}. */
export function fieldsOf(values: Partial<RequestValues>): RequestFields {
  const fields = new RequestFields();
  const segments = values.segments ?? [];
  fill(fields, { operation: 0, handle: 0, id: 0n, sector: 0n, count: segments.length, segments, ...values });
  return fields;
}

/** Any u32; its extremes are likely. */
export const anyU32: fc.Arbitrary<number> = fc.oneof(
  fc.integer({ min: 0, max: WRAP - 1 }),
  fc.constantFrom(0, 1, 2 ** 31 - 1, 2 ** 31, WRAP - 2, WRAP - 1),
);

/** Any u64; its extremes are likely. */
export const anyU64: fc.Arbitrary<bigint> = fc.oneof(
  fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  fc.constantFrom(0n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n),
);

/** Ring indices around the wrap, and elsewhere. */
export const startIndex: fc.Arbitrary<number> = fc.oneof(
  fc.integer({ min: WRAP - 80, max: WRAP - 1 }),
  fc.integer({ min: 0, max: 80 }),
  fc.integer({ min: 2 ** 31 - 80, max: 2 ** 31 + 80 }),
);

const u8 = fc.integer({ min: 0, max: 255 });

/** Any request in the layout of a direct one, valid or not: all operations but 5 and 6. */
export const anyDirectRequest: fc.Arbitrary<RequestValues> = fc.record({
  operation: fc.oneof(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 7, max: 255 })),
  handle: fc.integer({ min: 0, max: 0xFFFF }),
  id: anyU64,
  sector: anyU64,
  count: fc.oneof(fc.integer({ min: 0, max: 12 }), u8),
  segments: fc.array(fc.record({ gref: anyU32, first: u8, last: u8 }), { minLength: 11, maxLength: 11 }),
});
