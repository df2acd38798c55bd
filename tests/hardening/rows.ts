/**
 * The hardening contract as a table: for each kind of request the status that it must get. Rows are functions of the
 * world, since sector numbers and segments depend on the disk's logical sectors. requests_test.ts runs them.
 */

import type { DirectRequest, DiscardRequest, IndirectRequest, WireAnswer, WireRequest, WireSegment } from "./wire.ts";
import type { SectorBytes, World } from "./world.ts";

export const READ = 0;
export const WRITE = 1;
export const BARRIER = 2;
export const FLUSH = 3;
export const DISCARD = 5;

export const OKAY = 0;
export const ERROR = -1;
export const EOPNOTSUPP = -2;

/** What a guest sends, and the status that it must get. */
export interface Row {
  /** Name of the test. */
  readonly shows: string;
  /** Only for disks with logical sectors of this size. */
  readonly only?: SectorBytes;
  readonly readOnly?: boolean;
  /** The backend offers neither indirect requests nor discards. */
  readonly plain?: boolean;
  readonly sectors?: number;
  /** Makes the requests. */
  readonly requests: (world: World) => readonly WireRequest[];
  /** The status of every request; one other than OKAY must also be logged. */
  readonly status: number;
  /** Whether disk and data pages must be unchanged. Default: unless the status is OKAY. */
  readonly unchanged?: boolean;
}

/** A segment of a data page, by default the whole page. */
export function segment(world: World, page = 0, first = 0, last = 7): WireSegment {
  return { gref: world.grants.data.refs[page]!, first, last };
}

/** A valid request: one page to or from sector 8. */
export function direct(world: World, operation: number, change: Partial<DirectRequest> = {}): DirectRequest {
  return { form: "direct", operation, id: world.nextId(), sector: 8n, segments: [segment(world)], ...change };
}

/** A valid indirect request: `count` whole pages to or from sector 8. */
export function indirect(
  world: World,
  inner: number,
  count = 20,
  change: Partial<IndirectRequest> = {},
): IndirectRequest {
  const id = world.nextId();
  const segments = Array.from({ length: count }, (_, i) => segment(world, i % 24));
  const pages = [world.grants.lists.refs[Number(id % 32n)]!];
  return { form: "indirect", inner, id, sector: 8n, count, pages, segments, ...change };
}

/** A discard of one page, from sector 8 on. */
export function discard(world: World, change: Partial<DiscardRequest> = {}): DiscardRequest {
  return { form: "discard", id: world.nextId(), sector: 8n, sectorCount: 8n, flag: 0, ...change };
}

/** Eleven whole pages, one of them replaced. */
function elevenWith(world: World, position: number, odd: Partial<WireSegment>): WireSegment[] {
  return Array.from({ length: 11 }, (_, i) => ({ ...segment(world, i), ...(i === position ? odd : {}) }));
}

const DATA_OPERATIONS = [READ, WRITE, BARRIER, FLUSH];
const WRITING = [WRITE, BARRIER, FLUSH];
const POSITIONS = [0, 5, 10];

/** One request for each operation and each value. */
function each<T>(
  operations: readonly number[],
  values: readonly T[],
  make: (world: World, operation: number, value: T) => DirectRequest,
): (world: World) => DirectRequest[] {
  return (world) => operations.flatMap((operation) => values.map((value) => make(world, operation, value)));
}

/** Sectors beyond the end of a disk, some of them inside it if 64 bits are truncated or wrap around. */
function beyond(sectors: number): bigint[] {
  const end = BigInt(sectors);
  const powers = [32n, 53n, 55n, 63n].map((power) => 1n << power);
  return [end, end + 8n, ...powers, ...powers.map((power) => power + 8n), ...powers.map((power) => power - 8n)].concat(
    [(1n << 64n) - 8n, (1n << 64n) - 16n, 1n << 41n, (1n << 54n) + 16n],
  );
}

const OPERATION_ROWS: readonly Row[] = [
  {
    shows: "an operation that does not exist is answered EOPNOTSUPP with its own number",
    requests: (world) => [4, 7, 8, 99, 127, 128, 255].map((operation) => direct(world, operation)),
    status: EOPNOTSUPP,
  },
  {
    shows: "READ and WRITE without segments are ERROR",
    requests: each([READ, WRITE], [0], (world, operation) => direct(world, operation, { segments: [] })),
    status: ERROR,
  },
  {
    shows: "12 to 255 segments are ERROR",
    requests: each(
      DATA_OPERATIONS,
      [12, 13, 32, 128, 254, 255],
      (world, operation, count) => direct(world, operation, { segments: elevenWith(world, 0, {}), count }),
    ),
    status: ERROR,
  },
  {
    shows: "11 segments are carried out",
    requests: each(
      DATA_OPERATIONS,
      [0],
      (world, operation) => direct(world, operation, { segments: elevenWith(world, 0, {}) }),
    ),
    status: OKAY,
  },
];

const SEGMENT_ROWS: readonly Row[] = [
  {
    shows: "a segment that ends before it begins is ERROR, in any position",
    requests: each(
      DATA_OPERATIONS,
      POSITIONS,
      (world, operation, at) => direct(world, operation, { segments: elevenWith(world, at, { first: 5, last: 4 }) }),
    ),
    status: ERROR,
  },
  {
    shows: "a segment that ends beyond its page is ERROR, in any position",
    requests: (world) =>
      [8, 15, 128, 255].flatMap((last) =>
        each(
          DATA_OPERATIONS,
          POSITIONS,
          (_, operation, at) => direct(world, operation, { segments: elevenWith(world, at, { first: 0, last }) }),
        )(world)
      ),
    status: ERROR,
  },
  {
    shows: "a segment that begins and ends beyond its page is ERROR",
    requests: each(
      DATA_OPERATIONS,
      [[8, 8], [200, 200], [255, 255]] as const,
      (world, operation, [first, last]) => direct(world, operation, { segments: [segment(world, 0, first, last)] }),
    ),
    status: ERROR,
  },
  {
    shows: "parts of pages are carried out on logical sectors of 512 bytes",
    only: 512,
    requests: each(
      DATA_OPERATIONS,
      [[0, 0], [7, 7], [3, 5]] as const,
      (world, operation, [first, last]) =>
        direct(world, operation, { sector: 3n, segments: [segment(world, 0, first, last), segment(world, 1, 0, 7)] }),
    ),
    status: OKAY,
  },
  {
    shows: "on logical sectors of 4096 bytes a sector, a beginning or a length that is not aligned is ERROR",
    only: 4096,
    requests: (world) =>
      DATA_OPERATIONS.flatMap((operation) => [
        ...[1n, 4n, 7n, 9n].map((sector) => direct(world, operation, { sector })),
        ...([[1, 7], [0, 6], [0, 0], [7, 7], [4, 7]] as const).map(([first, last]) =>
          direct(world, operation, { segments: [segment(world, 0, first, last)] })
        ),
        // The parts are not aligned though the whole is.
        direct(world, operation, { segments: [segment(world, 0, 0, 3), segment(world, 1, 4, 7)] }),
        direct(world, operation, { segments: elevenWith(world, 10, { first: 0, last: 3 }) }),
      ]),
    status: ERROR,
  },
];

const RANGE_ROWS: readonly Row[] = [
  {
    shows: "a request that starts at or beyond the end is ERROR, also where 64 bits wrap around",
    requests: (world) => each(DATA_OPERATIONS, beyond(world.properties.sectors), withSector)(world),
    status: ERROR,
  },
  {
    shows: "a request that starts on the disk and ends beyond it is ERROR",
    requests: each(DATA_OPERATIONS, [8n, 16n, 80n], (world, operation, before) =>
      direct(world, operation, {
        sector: BigInt(world.properties.sectors) - before,
        segments: elevenWith(world, 0, {}),
      })),
    status: ERROR,
  },
  {
    shows: "one sector beyond the end is ERROR",
    only: 512,
    requests: each(
      DATA_OPERATIONS,
      [7n, 1n],
      (world, operation, before) => direct(world, operation, { sector: BigInt(world.properties.sectors) - before }),
    ),
    status: ERROR,
  },
  {
    shows: "the disk's last sectors are carried out",
    requests: each(DATA_OPERATIONS, [0], (world, operation) =>
      direct(world, operation, {
        sector: BigInt(world.properties.sectors - 88),
        segments: elevenWith(world, 0, {}),
      })),
    status: OKAY,
  },
  {
    shows: "an empty flush or barrier is carried out whatever its sector number",
    requests: each(
      [BARRIER, FLUSH],
      [0n, 1n << 63n, (1n << 64n) - 1n],
      (world, operation, sector) => direct(world, operation, { sector, segments: [] }),
    ),
    status: OKAY,
    unchanged: true,
  },
];

const READ_ONLY_ROWS: readonly Row[] = [
  {
    shows: "writing to a read-only disk is ERROR and the image unchanged",
    readOnly: true,
    requests: each(WRITING, [0], (world, operation) => direct(world, operation)),
    status: ERROR,
  },
  {
    shows: "empty flushes and barriers of a read-only disk are OKAY",
    readOnly: true,
    requests: each([BARRIER, FLUSH], [0], (world, operation) => direct(world, operation, { segments: [] })),
    status: OKAY,
    unchanged: true,
  },
  {
    shows: "reading a read-only disk is OKAY",
    readOnly: true,
    requests: (world) => [direct(world, READ)],
    status: OKAY,
  },
];

const GRANT_ROWS: readonly Row[] = [
  {
    shows:
      "a grant that does not exist, is revoked or is another domain's is ERROR in any position, and the others are released",
    requests: (world) =>
      [0, 7, 999, 1024, 2 ** 31, 2 ** 32 - 1, world.grants.revoked, world.grants.foreign.refs[0]!].flatMap((gref) =>
        each(
          DATA_OPERATIONS,
          POSITIONS,
          (_, operation, at) => direct(world, operation, { segments: elevenWith(world, at, { gref }) }),
        )(world)
      ),
    status: ERROR,
  },
  {
    shows: "reading into a page that is granted read-only is ERROR in any position, and the page unchanged",
    requests: (world) =>
      Array.from(
        { length: 11 },
        (_, at) =>
          direct(world, READ, { segments: elevenWith(world, at, { gref: world.grants.readOnly.refs[at % 4]! }) }),
      ),
    status: ERROR,
  },
  {
    shows: "writing from pages that are granted read-only is carried out",
    requests: (world) =>
      WRITING.map((operation) =>
        direct(world, operation, { segments: elevenWith(world, 3, { gref: world.grants.readOnly.refs[0]! }) })
      ),
    status: OKAY,
  },
  {
    shows: "one page in all segments is carried out",
    requests: each(
      DATA_OPERATIONS,
      [0],
      (world, operation) => direct(world, operation, { segments: Array.from({ length: 11 }, () => segment(world, 2)) }),
    ),
    status: OKAY,
  },
];

const NUMBER_ROWS: readonly Row[] = [
  {
    shows: "a wrong handle is ignored",
    requests: each(
      DATA_OPERATIONS,
      [1, 51712, 65535],
      (world, operation, handle) => direct(world, operation, { handle }),
    ),
    status: OKAY,
  },
  {
    shows: "ids may repeat and may be any 64 bits",
    requests: each(
      DATA_OPERATIONS,
      [0n, 7n, 7n, (1n << 64n) - 1n, 1n << 63n, 1n << 32n],
      (world, operation, id) => direct(world, operation, { id }),
    ),
    status: OKAY,
  },
];

function withSector(world: World, operation: number, sector: bigint): DirectRequest {
  return direct(world, operation, { sector });
}

/** 20 segments, one of them replaced. */
function twentyWith(world: World, inner: number, at: number, odd: Partial<WireSegment>): IndirectRequest {
  const request = indirect(world, inner);
  return { ...request, segments: request.segments.map((one, i) => i === at ? { ...one, ...odd } : one) };
}

const INNER = [READ, WRITE];
const BAD_SEGMENTS: readonly Partial<WireSegment>[] = [
  { first: 5, last: 4 },
  { last: 8 },
  { first: 255, last: 255 },
];

const INDIRECT_ROWS: readonly Row[] = [
  {
    shows: "INDIRECT of an operation that is neither READ nor WRITE is ERROR, and the answer carries READ",
    requests: (world) => [2, 3, 4, 5, 6, 7, 128, 255].map((inner) => indirect(world, inner)),
    status: ERROR,
  },
  {
    shows: "INDIRECT with no segments, or with more than offered or than its pages can hold, is ERROR",
    requests: (world) =>
      INNER.flatMap((inner) =>
        [0, 257, 511, 512, 513, 4096, 4097, 65535].map((count) => indirect(world, inner, 20, { count }))
      ),
    status: ERROR,
  },
  {
    shows: "INDIRECT whose page of segments cannot be read is ERROR",
    requests: (world) =>
      INNER.flatMap((inner) =>
        [0, 7, 999, 2 ** 32 - 1, world.grants.revoked, world.grants.foreign.refs[0]!].map((gref) =>
          indirect(world, inner, 20, { pages: [gref] })
        )
      ),
    status: ERROR,
  },
  {
    shows: "INDIRECT with one bad segment or grant, in any position, is ERROR",
    requests: (world) =>
      INNER.flatMap((inner) =>
        [0, 11, 19].flatMap((at) =>
          [...BAD_SEGMENTS, { gref: world.grants.revoked }, { gref: 2 ** 31 }]
            .map((odd) => twentyWith(world, inner, at, odd))
        )
      ),
    status: ERROR,
  },
  {
    shows: "INDIRECT that reads into a page that is granted read-only is ERROR, and the page unchanged",
    requests: (world) => [0, 19].map((at) => twentyWith(world, READ, at, { gref: world.grants.readOnly.refs[0]! })),
    status: ERROR,
  },
  {
    shows: "INDIRECT beyond the end, also where 64 bits wrap around, is ERROR",
    requests: (world) =>
      INNER.flatMap((inner) =>
        [...beyond(world.properties.sectors), BigInt(world.properties.sectors - 152)]
          .map((sector) => indirect(world, inner, 20, { sector }))
      ),
    status: ERROR,
  },
  {
    shows: "INDIRECT that is not aligned to logical sectors of 4096 bytes is ERROR",
    only: 4096,
    requests: (world) =>
      INNER.flatMap((inner) => [
        indirect(world, inner, 20, { sector: 9n }),
        twentyWith(world, inner, 19, { first: 1 }),
        twentyWith(world, inner, 7, { last: 6 }),
      ]),
    status: ERROR,
  },
  {
    shows: "INDIRECT that writes to a read-only disk is ERROR and the image unchanged",
    readOnly: true,
    requests: (world) => [1, 11, 20, 256].map((count) => indirect(world, WRITE, count)),
    status: ERROR,
  },
  {
    shows: "INDIRECT with 1 to 256 segments is carried out, whatever is in the rest of its page",
    sectors: 2304,
    requests: (world) => INNER.flatMap((inner) => [1, 11, 12, 255, 256].map((count) => indirect(world, inner, count))),
    status: OKAY,
  },
  {
    shows: "INDIRECT that was not offered is EOPNOTSUPP, whatever it asks for",
    plain: true,
    requests: (world) => [0, 1, 2, 255].flatMap((inner) => [indirect(world, inner), indirect(world, inner, 0)]),
    status: EOPNOTSUPP,
  },
];

const DISCARD_ROWS: readonly Row[] = [
  {
    shows: "DISCARD beyond the end, 2^54 sectors long, or wrapping around 64 bits is ERROR, in constant time",
    requests: (world) => {
      const end = BigInt(world.properties.sectors);
      const places = beyond(world.properties.sectors).map((sector) => discard(world, { sector }));
      const lengths = [end, end + 8n, ...[32n, 41n, 53n, 54n, 55n, 63n].map((power) => 1n << power)]
        .map((sectorCount) => discard(world, { sectorCount }));
      const most = (1n << 64n) - 1n;
      const wraps = [[most, 1n], [most, most], [8n, most - 7n], [end, most]] as const;
      return [...places, ...lengths, ...wraps.map(([sector, sectorCount]) => discard(world, { sector, sectorCount }))];
    },
    status: ERROR,
  },
  {
    shows: "DISCARD on a read-only disk is ERROR and the image unchanged",
    readOnly: true,
    requests: (world) => [discard(world), discard(world, { sectorCount: 0n })],
    status: ERROR,
  },
  {
    shows: "DISCARD of less than a granule is OKAY and leaves the disk as it was",
    requests: (world) =>
      ([[8n, 0n], [8n, 7n], [9n, 7n], [9n, 14n], [255n, 1n]] as const)
        .map(([sector, sectorCount]) => discard(world, { sector, sectorCount })),
    status: OKAY,
    unchanged: true,
  },
  {
    shows: "DISCARD asked to be secure where that is not supported, and with any other flag, is carried out",
    requests: (world) => [1, 2, 0xff].map((flag) => discard(world, { flag })),
    status: OKAY,
  },
  {
    shows: "DISCARD that was not offered is EOPNOTSUPP",
    plain: true,
    requests: (world) => [discard(world), discard(world, { sectorCount: 1n << 63n })],
    status: EOPNOTSUPP,
  },
];

/** Every row. */
export const ROWS: readonly Row[] = [
  ...OPERATION_ROWS,
  ...SEGMENT_ROWS,
  ...RANGE_ROWS,
  ...READ_ONLY_ROWS,
  ...GRANT_ROWS,
  ...NUMBER_ROWS,
  ...INDIRECT_ROWS,
  ...DISCARD_ROWS,
];

/** The answer that a request must get with this status. */
export function answerTo(request: WireRequest, status: number): WireAnswer {
  const operation = request.form === "direct"
    ? request.operation
    : request.form === "discard"
    ? DISCARD
    : (request.inner === WRITE ? WRITE : READ);
  return { id: request.id, operation, status };
}
