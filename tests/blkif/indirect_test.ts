/**
 * Indirect requests and discards against a reference in BigInt arithmetic: which are carried out, where and with what
 * length, for every ABI and with numbers up to 2^64.
 */

import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { type AbiLayout, OP_INDIRECT, STATUS_EOPNOTSUPP, STATUS_ERROR, STATUS_OKAY } from "../../lib/blkif/abi.ts";
import { DiscardFields, IndirectFields, writeSegment } from "../../lib/blkif/front_ring.ts";
import {
  decodeIndirectSegments,
  decodeRequest,
  type DiskLimits,
  indirectPages,
  isSecureDiscard,
  RequestSlots,
  SnapshotMemory,
  validateRequest,
} from "../../lib/blkif/request.ts";
import { refusalReason } from "../../lib/blkif/refusal.ts";
import { anyU32, anyU64, LAYOUTS, ringAt, type SegmentValues } from "./rings.ts";

const SLOT = 1;
/** More segments than one indirect page holds. */
const MOST = 1100;

interface Verdict {
  readonly status: number;
  readonly offset: bigint;
  readonly length: bigint;
}

const refuse = (status: number): Verdict => ({ status, offset: -1n, length: -1n });
const words = (value: bigint): [number, number] => [Number(BigInt.asUintN(32, value)), Number(value >> 32n)];

/** An indirect request as a frontend makes it. */
interface IndirectValues {
  readonly inner: number;
  readonly id: bigint;
  readonly sector: bigint;
  readonly count: number;
  readonly segments: readonly SegmentValues[];
}

/** Takes the request through a ring, and its segments through private pages, as the backend does. */
function judge(values: IndirectValues, abi: AbiLayout, limits: DiskLimits, most: number): Verdict {
  const { front, back } = ringAt(2 ** 32 - 1, abi);
  const fields = new IndirectFields();
  fields.innerOperation = values.inner;
  [fields.idLow, fields.idHigh] = words(values.id);
  [fields.sectorLow, fields.sectorHigh] = words(values.sector);
  fields.segmentCount = values.count;
  fields.grefs.forEach((_, i) => fields.grefs[i] = 100 + i);
  front.putIndirect(fields);
  front.push();
  const snapshot = new SnapshotMemory(new Uint8Array(112));
  back.take(snapshot.u32, 0);
  const slots = new RequestSlots(3, MOST, most);
  decodeRequest(snapshot, 0, abi, slots, SLOT);
  assertEquals([...slots.indirectGrefs.subarray(8, 16)], [100, 101, 102, 103, 104, 105, 106, 107]);
  assertEquals(slots.responseOperation[SLOT], values.inner === 1 ? 1 : 0);
  assertEquals([slots.idLow[SLOT], slots.idHigh[SLOT]], words(values.id));
  let status = validateRequest(slots, SLOT, limits);
  if (status === STATUS_OKAY) {
    const pages = new SnapshotMemory(new Uint8Array(64 + indirectPages(values.count) * 4096));
    values.segments.slice(0, values.count).forEach(({ gref, first, last }, i) => {
      writeSegment(pages.u32, 16 + 2 * i, gref, first, last);
    });
    decodeIndirectSegments(pages, 64, slots, SLOT);
    const decoded = values.segments.slice(0, values.count).every(({ gref, first, last }, i) => {
      const entry = slots.firstSegment[SLOT]! + i;
      return slots.grefs[entry] === gref && slots.firstSector[entry] === first && slots.lastSector[entry] === last;
    });
    assert(decoded, "the segments are those of the page");
    const begin = slots.firstSegment[SLOT]!;
    const others = [...slots.grefs.subarray(0, begin), ...slots.grefs.subarray(begin + values.count)];
    assert(others.every((ref) => ref === 0), "nothing else is written");
    status = validateRequest(slots, SLOT, limits);
  }
  assertEquals(refusalReason(slots, SLOT, limits) === "", status === STATUS_OKAY);
  if (status !== STATUS_OKAY) return refuse(status);
  assertEquals(slots.operation[SLOT], values.inner, "it goes on as a read or a write");
  return { status, offset: BigInt(slots.offsetBytes[SLOT]!), length: BigInt(slots.lengthBytes[SLOT]!) };
}

function reference(values: IndirectValues, limits: DiskLimits, most: number): Verdict {
  if (most === 0) return refuse(STATUS_EOPNOTSUPP);
  const { inner, count, sector } = values;
  if (inner > 1 || count === 0 || count > most || (inner === 1 && limits.readOnly)) return refuse(STATUS_ERROR);
  const unit = BigInt(limits.logicalSectorBytes);
  let length = 0n;
  for (const { first, last } of values.segments.slice(0, count)) {
    const bytes = BigInt(last - first + 1) * 512n;
    if (bytes <= 0n || last > 7) return refuse(STATUS_ERROR);
    if (bytes % unit !== 0n || BigInt(first) * 512n % unit !== 0n) return refuse(STATUS_ERROR);
    length += bytes;
  }
  const offset = sector * 512n;
  if (offset % unit !== 0n || offset + length > BigInt(limits.sectors) * 512n) return refuse(STATUS_ERROR);
  return { status: STATUS_OKAY, offset, length };
}

const anySectors = fc.oneof(
  fc.integer({ min: 1, max: 20_000 }),
  fc.constantFrom(2 ** 32, 2 ** 44 - 3, 2 ** 53 - 1, 2 ** 53),
);
const EDGES = [0n, 2n ** 32n, 2n ** 53n, 2n ** 54n, 2n ** 55n, 2n ** 63n, 2n ** 64n];

/** Near the disk's end, its beginning, or where numbers of some width end. */
const sectorNear = (sectors: number, unit: bigint): fc.Arbitrary<bigint> =>
  fc.tuple(
    fc.constantFrom(...EDGES, BigInt(sectors), BigInt(sectors)),
    fc.bigInt({ min: -1200n, max: 40n }),
    fc.boolean(),
  ).map(([edge, delta, aligned]) => BigInt.asUintN(64, (edge + delta) / (aligned ? unit : 1n) * (aligned ? unit : 1n)));

const PAGE: SegmentValues = { gref: 7, first: 0, last: 7 };
const anySegment: fc.Arbitrary<SegmentValues> = fc.oneof(
  { weight: 400, arbitrary: anyU32.map((gref) => ({ ...PAGE, gref })) },
  { weight: 1, arbitrary: fc.record({ gref: anyU32, first: fc.nat({ max: 9 }), last: fc.nat({ max: 255 }) }) },
  { weight: 1, arbitrary: fc.constant({ gref: 1, first: 3, last: 5 }) },
);

const anyIndirect = anySectors.chain((sectors) =>
  fc.record({
    limits: fc.record({
      sectors: fc.constant(sectors),
      readOnly: fc.integer({ min: 0, max: 5 }).map((n) => n === 0),
      logicalSectorBytes: fc.constantFrom(512, 4096),
    }),
    most: fc.constantFrom(0, 1, 12, 256, 256, 256, 512, 513, MOST),
    values: fc.record({
      inner: fc.oneof({ weight: 6, arbitrary: fc.nat({ max: 1 }) }, { weight: 1, arbitrary: fc.nat({ max: 255 }) }),
      id: anyU64,
      sector: sectorNear(sectors, 8n),
      count: fc.oneof(
        fc.nat({ max: 30 }),
        fc.constantFrom(0, 1, 11, 12, 255, 256, 257, 511, 512, 513, 1024, 1025, MOST, MOST + 1, 4096, 4097, 65535),
      ),
      segments: fc.array(anySegment, { minLength: 1, maxLength: 20 })
        .map((some) => Array.from({ length: MOST }, (_, i) => some[i % some.length]!)),
    }),
  })
);

for (const abi of LAYOUTS) {
  Deno.test(`${abi.name}: every verdict on an indirect request is that of a reference without limits of precision`, () => {
    const seen = new Map<number, number>();
    fc.assert(
      fc.property(anyIndirect, ({ limits, most, values }) => {
        const verdict = judge(values, abi, limits, most);
        assertEquals(verdict, reference(values, limits, most));
        seen.set(verdict.status, (seen.get(verdict.status) ?? 0) + 1);
      }),
      { numRuns: 1500 },
    );
    for (const status of [STATUS_OKAY, STATUS_ERROR, STATUS_EOPNOTSUPP]) {
      assert((seen.get(status) ?? 0) > 50, `status ${status} came only ${seen.get(status) ?? 0} times`);
    }
  });

  Deno.test(`${abi.name}: every discard is done as a reference without limits of precision does it`, () => {
    // No disk has 2^53 sectors, and sector number 2^53 is beyond the end of all of them.
    const anyDiscard = anySectors.filter((sectors) => sectors < 2 ** 53).chain((sectors) =>
      fc.record({
        sectors: fc.constant(sectors),
        granularitySectors: fc.constantFrom(1, 8, 128, 24, 65536),
        alignmentSectors: fc.constantFrom(0, 1, 7, 8, 100),
        logicalSectorBytes: fc.constantFrom(512, 4096),
        secure: fc.boolean(),
        flag: fc.nat({ max: 255 }),
        sector: sectorNear(sectors, 8n),
        count: fc.oneof(fc.bigInt({ min: 0n, max: 2000n }), sectorNear(sectors, 8n)),
      })
    );
    let done = 0;
    fc.assert(
      fc.property(anyDiscard, (values) => {
        const { sectors, granularitySectors, alignmentSectors, logicalSectorBytes, secure, flag, sector, count } =
          values;
        const granularityBytes = granularitySectors * 512;
        const discard = { granularityBytes, alignmentBytes: alignmentSectors * 512, secure };
        const limits: DiskLimits = { sectors, readOnly: false, logicalSectorBytes, discard };
        const { front, back } = ringAt(0, abi);
        const fields = new DiscardFields();
        [fields.sectorLow, fields.sectorHigh] = words(sector);
        [fields.sectorCountLow, fields.sectorCountHigh] = words(count);
        fields.flag = flag;
        front.putDiscard(fields);
        front.push();
        const snapshot = new SnapshotMemory(new Uint8Array(112));
        back.take(snapshot.u32, 0);
        const slots = new RequestSlots(3, 11);
        decodeRequest(snapshot, 0, abi, slots, SLOT);
        const status = validateRequest(slots, SLOT, limits);
        assertEquals(status, sector + count > BigInt(sectors) ? STATUS_ERROR : STATUS_OKAY);
        if (status !== STATUS_OKAY) return;
        assertEquals(isSecureDiscard(slots, SLOT, limits), secure && (flag & 1) === 1);
        const granule = BigInt(Math.max(granularitySectors, logicalSectorBytes / 512));
        const alignment = BigInt(alignmentSectors) % granule;
        // Granules begin at alignment + n * granule; the first may lie before the disk.
        const up = (at: bigint): bigint =>
          (at - alignment + granule * 2n - 1n) / granule * granule - granule + alignment;
        const down = (at: bigint): bigint => (at - alignment + granule) / granule * granule - granule + alignment;
        const [begin, end] = [up(sector), down(sector + count)];
        assertEquals(BigInt(slots.discardBytes[SLOT]!), end > begin ? (end - begin) * 512n : 0n);
        assertEquals(slots.lengthBytes[SLOT], 0);
        if (end <= begin) return;
        done++;
        assertEquals(BigInt(slots.offsetBytes[SLOT]!), begin * 512n);
        assert(begin >= sector && end <= sector + count);
      }),
      { numRuns: 3000 },
    );
    assert(done > 50, `only ${done} discards did anything`);
  });
}

Deno.test("slots do not promise more segments than a request can name pages for, or than they hold", () => {
  assertThrows(() => new RequestSlots(1, 11, 12), RangeError, "at most 11");
  assertThrows(() => new RequestSlots(1, 5000, 4097), RangeError, "at most 4096");
  assertEquals(new RequestSlots(1, 5000, 4096).maxIndirectSegments, 4096);
  assertEquals([1, 512, 513, 4096].map(indirectPages), [1, 1, 2, 8]);
});

Deno.test("a request that was not indirect leaves nothing of an indirect one in its slot, and the other way round", () => {
  const [abi] = LAYOUTS;
  const limits: DiskLimits = { sectors: 1000, readOnly: false, logicalSectorBytes: 512 };
  const slots = new RequestSlots(1, 256, 256);
  const snapshot = new SnapshotMemory(new Uint8Array(112));
  snapshot.u8.set([OP_INDIRECT, 1, 20]);
  decodeRequest(snapshot, 0, abi!, slots, 0);
  decodeIndirectSegments(new SnapshotMemory(new Uint8Array(4096)), 0, slots, 0);
  assertEquals([slots.operation[0], slots.segmentCount[0], validateRequest(slots, 0, limits)], [1, 20, STATUS_OKAY]);
  snapshot.u8.set([0, 20, 0]);
  decodeRequest(snapshot, 0, abi!, slots, 0);
  assertEquals(validateRequest(slots, 0, limits), STATUS_ERROR);
  assertEquals(refusalReason(slots, 0, limits), "20 segments, at most 11 are allowed");
});
