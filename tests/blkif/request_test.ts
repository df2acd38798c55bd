/**
 * Which requests are accepted and which are refused, with the status and the reason: each rule by itself, and all rules
 * together against a reference in BigInt arithmetic, with sector numbers up to 2^64.
 */

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  ABIS,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_RESERVED,
  OP_WRITE,
  OP_WRITE_BARRIER,
  STATUS_EOPNOTSUPP,
  STATUS_ERROR,
  STATUS_OKAY,
} from "../../lib/blkif/abi.ts";
import { decodeRequest, type DiskLimits, RequestSlots, validateRequest } from "../../lib/blkif/request.ts";
import { refusalReason } from "../../lib/blkif/refusal.ts";
import { fieldsOf, privateSlots, type RequestValues, ringAt, type SegmentValues } from "./rings.ts";

const DISK: DiskLimits = { sectors: 1000, readOnly: false, logicalSectorBytes: 512 };
const READ_ONLY: DiskLimits = { ...DISK, readOnly: true };
const DISK_4K: DiskLimits = { ...DISK, logicalSectorBytes: 4096 };
const PAGE: SegmentValues = { gref: 1, first: 0, last: 7 };
const WITH_DATA = [OP_READ, OP_WRITE, OP_WRITE_BARRIER, OP_FLUSH_DISKCACHE];

/** The verdict on a request that went through a ring, in slot 3 of 5. */
interface Verdict {
  readonly status: number;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly reason: string;
}

const SLOT = 3;
const PRIVATE = privateSlots(5);

function judge(values: Partial<RequestValues>, limits: DiskLimits = DISK): Verdict {
  const { front, back } = ringAt(0);
  const { snapshot, slots } = PRIVATE;
  front.putRequest(fieldsOf(values));
  front.push();
  back.take(snapshot.u32, SLOT * 28);
  decodeRequest(snapshot, SLOT * 112, ABIS["x86_64-abi"], slots, SLOT);
  const status = validateRequest(slots, SLOT, limits);
  const accepted = status === STATUS_OKAY;
  return {
    status,
    offsetBytes: accepted ? slots.offsetBytes[SLOT]! : -1,
    lengthBytes: accepted ? slots.lengthBytes[SLOT]! : -1,
    reason: refusalReason(slots, SLOT, limits),
  };
}

const accepted = (offsetBytes: number, lengthBytes: number): Verdict => ({
  status: STATUS_OKAY,
  offsetBytes,
  lengthBytes,
  reason: "",
});
const refused = (reason: string, status = STATUS_ERROR): Verdict => ({
  status,
  offsetBytes: -1,
  lengthBytes: -1,
  reason,
});

Deno.test("reads, writes, barriers and flushes with data are accepted up to the last sector", () => {
  for (const operation of WITH_DATA) {
    assertEquals(judge({ operation, segments: [PAGE] }), accepted(0, 4096));
    assertEquals(judge({ operation, sector: 992n, segments: [PAGE] }), accepted(992 * 512, 4096));
    assertEquals(judge({ operation, sector: 999n, segments: [{ ...PAGE, first: 5, last: 5 }] }), accepted(511488, 512));
    const segments = Array.from({ length: 11 }, () => PAGE);
    assertEquals(judge({ operation, sector: 912n, segments }), accepted(912 * 512, 11 * 4096));
  }
});

Deno.test("unknown operations are answered EOPNOTSUPP whatever else they hold", () => {
  for (const operation of [OP_RESERVED, OP_DISCARD, OP_INDIRECT, 7, 128, 255]) {
    for (const limits of operation === OP_DISCARD ? [DISK, DISK_4K] : [DISK, READ_ONLY, DISK_4K]) {
      const { status, reason } = judge({ operation, sector: 2n ** 64n - 1n, count: 255, segments: [PAGE] }, limits);
      assertEquals(status, STATUS_EOPNOTSUPP);
      assertEquals(/^operation (RESERVED_1|DISCARD|INDIRECT|\d+) is not supported$/.test(reason), true, reason);
    }
  }
});

Deno.test("a read or write without segments is an error; an empty barrier or flush is a flush at no place", () => {
  for (const limits of [DISK, READ_ONLY, DISK_4K]) {
    assertEquals(judge({ operation: OP_READ }, limits), refused("READ without segments"));
    assertEquals(judge({ operation: OP_WRITE }, limits), refused("WRITE without segments"));
    for (const sector of [0n, 1n, 5000n, 2n ** 63n, 2n ** 64n - 1n]) {
      assertEquals(judge({ operation: OP_WRITE_BARRIER, sector }, limits), accepted(0, 0));
      assertEquals(judge({ operation: OP_FLUSH_DISKCACHE, sector }, limits), accepted(0, 0));
    }
  }
});

Deno.test("a verdict does not depend on the request that was in the slot before", () => {
  assertEquals(judge({ operation: OP_READ, sector: 5n, segments: [PAGE, PAGE] }), accepted(2560, 8192));
  assertEquals(judge({ operation: OP_FLUSH_DISKCACHE }), accepted(0, 0));
  assertEquals(judge({ operation: OP_READ, segments: [{ ...PAGE, last: 8 }] }).status, STATUS_ERROR);
  assertEquals(judge({ operation: OP_READ, sector: 5n, segments: [PAGE] }), accepted(2560, 4096));
});

Deno.test("12 to 255 segments are an error", () => {
  for (const operation of WITH_DATA) {
    for (let count = 12; count <= 255; count++) {
      const segments = Array.from({ length: 11 }, () => PAGE);
      const reason = `${count} segments, at most 11 are allowed`;
      assertEquals(judge({ operation, count, segments }), refused(reason));
    }
  }
});

Deno.test("segments beyond what the slots were made for are an error, not an access to another slot", () => {
  const { snapshot } = PRIVATE;
  const slots = new RequestSlots(2, 3);
  slots.grefs.fill(9);
  const { front, back } = ringAt(0);
  front.putRequest(fieldsOf({ segments: [PAGE, PAGE, PAGE, PAGE] }));
  back.take(snapshot.u32, 0);
  decodeRequest(snapshot, 0, ABIS["x86_64-abi"], slots, 0);
  const first = slots.firstSegment[0]!;
  assertEquals([...slots.grefs.subarray(first - 1, first + 4)], [9, 1, 1, 1, 9]);
  assertEquals(slots.grefs.reduce((sum, gref) => sum + gref), 9 * slots.segmentEntries - 3 * 8);
  assertEquals(validateRequest(slots, 0, DISK), STATUS_ERROR);
  assertEquals(refusalReason(slots, 0, DISK), "4 segments, at most 3 are allowed");
});

Deno.test("a segment that begins after its end or leaves its page is an error in any position", () => {
  for (let position = 0; position < 11; position++) {
    for (const [first, last] of [[1, 0], [7, 6], [0, 8], [8, 8], [255, 255], [0, 255], [255, 0]] as const) {
      const segments = Array.from({ length: 11 }, (_, i) => i === position ? { gref: 1, first, last } : PAGE);
      const reason = `segment ${position} has sectors ${first} to ${last} of a page that holds 0 to 7`;
      assertEquals(judge({ operation: OP_READ, segments }), refused(reason));
    }
  }
});

Deno.test("what passes the end of the disk is an error, also where sector plus length wraps", () => {
  const near = [993n, 1000n, 2n ** 32n, 2n ** 32n + 5n, 2n ** 53n, 2n ** 55n - 1n, 2n ** 55n, 2n ** 55n + 1n];
  for (const sector of [...near, 2n ** 63n - 8n, 2n ** 63n, 2n ** 64n - 8n, 2n ** 64n - 7n, 2n ** 64n - 1n]) {
    const reason = `sector ${sector} and its data are beyond the disk's 1000 sectors`;
    for (const operation of WITH_DATA) assertEquals(judge({ operation, sector, segments: [PAGE] }), refused(reason));
  }
  assertEquals(judge({ segments: [PAGE] }, { ...DISK, sectors: 7 }).status, STATUS_ERROR);
  assertEquals(judge({ segments: [PAGE] }, { ...DISK, sectors: 0 }).status, STATUS_ERROR);
});

Deno.test("with 4096-byte sectors sector number, first sector and length must be aligned", () => {
  const reason = "not aligned to the disk's 4096-byte sectors";
  assertEquals(judge({ sector: 8n, segments: [PAGE, PAGE] }, DISK_4K), accepted(4096, 8192));
  for (const sector of [1n, 4n, 7n, 9n]) {
    assertEquals(judge({ sector, segments: [PAGE] }, DISK_4K), refused(reason));
  }
  for (const [first, last] of [[0, 0], [0, 6], [1, 7], [4, 7], [0, 3]] as const) {
    assertEquals(judge({ segments: [PAGE, { gref: 1, first, last }] }, DISK_4K), refused(reason));
  }
  const halves = [{ gref: 1, first: 0, last: 3 }, { gref: 1, first: 4, last: 7 }];
  assertEquals(judge({ segments: halves }, DISK_4K), refused(reason), "each segment by itself");
  assertEquals(judge({ sector: 1n, segments: halves }), accepted(512, 4096));
});

Deno.test("a read-only disk refuses whatever carries data to it, and lets reads and empty flushes pass", () => {
  assertEquals(judge({ operation: OP_READ, segments: [PAGE] }, READ_ONLY), accepted(0, 4096));
  assertEquals(judge({ operation: OP_FLUSH_DISKCACHE }, READ_ONLY), accepted(0, 0));
  const named = [[OP_WRITE, "WRITE"], [OP_WRITE_BARRIER, "WRITE_BARRIER"], [OP_FLUSH_DISKCACHE, "FLUSH_DISKCACHE"]];
  for (const [operation, name] of named as [number, string][]) {
    assertEquals(judge({ operation, segments: [PAGE] }, READ_ONLY), refused(`${name} to a read-only disk`));
  }
});

Deno.test("the handle and the id of a request decide nothing", () => {
  fc.assert(fc.property(fc.nat({ max: 0xFFFF }), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (handle, id) => {
    assertEquals(judge({ operation: OP_WRITE, handle, id, sector: 3n, segments: [PAGE] }), accepted(1536, 4096));
  }));
});

/** The same rules in BigInt arithmetic. */
function reference(request: RequestValues, limits: DiskLimits): { status: number; offset: bigint; length: bigint } {
  const refuse = (status: number): { status: number; offset: bigint; length: bigint } => ({
    status,
    offset: -1n,
    length: -1n,
  });
  if (![0, 1, 2, 3].includes(request.operation)) return refuse(STATUS_EOPNOTSUPP);
  const flushes = request.operation === 2 || request.operation === 3;
  if (request.count === 0) return flushes ? { status: STATUS_OKAY, offset: 0n, length: 0n } : refuse(STATUS_ERROR);
  if (request.count > 11 || (limits.readOnly && request.operation !== 0)) return refuse(STATUS_ERROR);
  const unit = BigInt(limits.logicalSectorBytes);
  let length = 0n;
  for (const { first, last } of request.segments.slice(0, request.count)) {
    const bytes = BigInt(last - first + 1) * 512n;
    if (bytes <= 0n || last > 7) return refuse(STATUS_ERROR);
    if (bytes % unit !== 0n || BigInt(first) * 512n % unit !== 0n) return refuse(STATUS_ERROR);
    length += bytes;
  }
  const offset = request.sector * 512n;
  if (offset % unit !== 0n || offset + length > BigInt(limits.sectors) * 512n) return refuse(STATUS_ERROR);
  return { status: STATUS_OKAY, offset, length };
}

const EDGES = [0n, 2n ** 32n, 2n ** 44n, 2n ** 52n, 2n ** 53n, 2n ** 55n, 2n ** 63n, 2n ** 64n];

const anyLimits: fc.Arbitrary<DiskLimits> = fc.record({
  sectors: fc.oneof(
    fc.nat({ max: 2000 }),
    fc.integer({ min: 2 ** 32 - 100, max: 2 ** 32 + 100 }),
    fc.integer({ min: 2 ** 44 - 100, max: 2 ** 44 }),
    fc.constantFrom(2 ** 53 - 1, 2 ** 53),
  ),
  readOnly: fc.oneof({ weight: 3, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
  logicalSectorBytes: fc.constantFrom(512, 2048, 4096),
});

/** Mostly whole pages, so that many requests are valid on disks with 4096-byte sectors. */
const anySegment: fc.Arbitrary<SegmentValues> = fc.oneof(
  { weight: 20, arbitrary: fc.constant(PAGE) },
  {
    weight: 3,
    arbitrary: fc.record({ gref: fc.constant(1), first: fc.nat({ max: 3 }), last: fc.integer({ min: 4, max: 7 }) }),
  },
  { weight: 1, arbitrary: fc.record({ gref: fc.constant(1), first: fc.nat({ max: 9 }), last: fc.nat({ max: 255 }) }) },
);

/** A disk, and a request near the disk's beginning, its end, or a power of two. */
const anyCase = anyLimits.chain((limits) =>
  fc.record({
    limits: fc.constant(limits),
    request: fc.record({
      operation: fc.oneof({ weight: 5, arbitrary: fc.nat({ max: 3 }) }, {
        weight: 1,
        arbitrary: fc.constantFrom(4, 9),
      }),
      handle: fc.constant(0),
      id: fc.constant(0n),
      sector: fc.tuple(
        fc.oneof(fc.constantFrom(...EDGES), fc.constant(BigInt(limits.sectors))),
        fc.oneof(fc.bigInt({ min: -100n, max: 100n }), fc.bigInt({ min: -13n, max: 13n }).map((n) => n * 8n)),
      ).map(([edge, delta]) => BigInt.asUintN(64, edge + delta)),
      count: fc.oneof({ weight: 9, arbitrary: fc.nat({ max: 11 }) }, { weight: 1, arbitrary: fc.nat({ max: 255 }) }),
      segments: fc.array(anySegment, { minLength: 11, maxLength: 11 }),
    }),
  })
);

Deno.test("every verdict, place and length is that of a reference in BigInt arithmetic", () => {
  const seen = { accepted: 0, error: 0, unsupported: 0 };
  fc.assert(
    fc.property(anyCase, ({ limits, request }) => {
      const verdict = judge(request, limits);
      const { status, offset, length } = reference(request, limits);
      seen[status === STATUS_OKAY ? "accepted" : status === STATUS_ERROR ? "error" : "unsupported"]++;
      assertEquals(verdict.status, status);
      assertEquals(verdict.reason === "", status === STATUS_OKAY);
      if (status === STATUS_OKAY) {
        assertEquals([BigInt(verdict.offsetBytes), BigInt(verdict.lengthBytes)], [offset, length]);
      }
    }),
    { numRuns: 5000 },
  );
  for (const [name, count] of Object.entries(seen)) assertEquals(count > 200, true, `${name}: only ${count} of 5000`);
});
