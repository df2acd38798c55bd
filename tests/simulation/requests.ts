/**
 * Makes a guest's requests: valid ones of every kind and layout, and ones that a hostile guest would send, each with
 * what its response must say.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import {
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_RESERVED,
  OP_WRITE,
  OP_WRITE_BARRIER,
  SECTORS_PER_PAGE,
} from "../../lib/blkif/abi.ts";
import type { DiskProperties } from "../../lib/storage/disk.ts";
import type { Offer } from "../../lib/xenbus/features.ts";
import type { Decisions } from "./decisions.ts";
import type { GuestPage, GuestPages } from "./guest_pages.ts";

/** A segment of a request. */
export interface Segment {
  readonly page: GuestPage;
  /** The page's reference, except in a hostile request. */
  ref: number;
  first: number;
  last: number;
}

/** A request before it is sent. */
export interface RequestPlan {
  /** Operation on the ring; the inner one of an indirect request. */
  operation: number;
  /** Operation that the response must carry. */
  answerOperation: number;
  sector: bigint;
  readonly segments: Segment[];
  /** Segment count on the ring. */
  segmentCount: number;
  /** The page of segments of an indirect request. */
  readonly indirect?: Descriptors;
  /** Number of sectors of a discard. */
  discardSectors: bigint;
  /** It must not be carried out, and not answered OKAY. */
  refused: boolean;
  /** Only a grant is bad: its other pages may be read or written. */
  badGrant: boolean;
}

/** The page that holds the segments of an indirect request. */
export interface Descriptors {
  readonly page: GuestPage;
  /** The page's reference, except in a hostile request. */
  ref: number;
}

/** What requests depend on. */
interface RequestContext {
  readonly decisions: Decisions;
  readonly disk: DiskProperties;
  readonly pages: GuestPages;
  /** What the backend offers; undefined: not known yet. */
  readonly offer: Offer | undefined;
  /** Of 1000 requests, how many are hostile. */
  readonly hostility: number;
}

const OPERATIONS = [OP_READ, OP_WRITE, OP_FLUSH_DISKCACHE, OP_WRITE_BARRIER, OP_DISCARD] as const;
const WEIGHTS = [40, 40, 10, 8, 6];
/** Of 1000 reads and writes, how many are indirect if that is offered. */
const INDIRECT_SHARE = 250;
/** Sector numbers near which arithmetic may overflow. */
const EDGES = [2n ** 32n, 2n ** 53n, 2n ** 55n, 2n ** 63n, 2n ** 64n];
const MAX_U64 = 2n ** 64n - 1n;

/** Total sectors of the segments. */
export function sectorsOf(segments: readonly Segment[]): number {
  return segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
}

/** The next request; undefined: too few pages are free. */
export function planRequest(context: RequestContext): RequestPlan | undefined {
  const { decisions, hostility, offer } = context;
  const operation = OPERATIONS[decisions.weighted(WEIGHTS)]!;
  if (operation === OP_DISCARD) return offer?.discard === undefined ? undefined : planDiscard(context);
  const most = operation <= OP_WRITE && decisions.chance(INDIRECT_SHARE) ? offer?.maxIndirectSegments ?? 0 : 0;
  const empty = operation >= OP_WRITE_BARRIER && decisions.chance(500);
  const segments = empty ? [] : planSegments(context, operation === OP_READ, most);
  const descriptors = most > 0 ? context.pages.free(false, decisions.below(context.pages.pages.length)) : undefined;
  for (const { page } of segments ?? []) page.inUse = false;
  if (segments === undefined || (most > 0 && descriptors === undefined)) return undefined;
  const plan: RequestPlan = {
    operation,
    answerOperation: operation,
    sector: 0n,
    segments,
    segmentCount: segments.length,
    ...(descriptors === undefined ? {} : { indirect: { page: descriptors, ref: descriptors.ref } }),
    discardSectors: 0n,
    refused: !empty && operation !== OP_READ && context.disk.readOnly,
    badGrant: false,
  };
  if (!place(plan, context)) return undefined;
  if (decisions.chance(hostility)) spoil(plan, context);
  return plan;
}

/** A discard of any length, aligned or not; one beyond the end must be refused. */
function planDiscard({ decisions, disk, hostility }: RequestContext): RequestPlan {
  const sector = decisions.below(disk.sectors);
  const plan: RequestPlan = {
    operation: OP_DISCARD,
    answerOperation: OP_DISCARD,
    sector: BigInt(sector),
    segments: [],
    segmentCount: 0,
    discardSectors: BigInt(decisions.between(0, Math.min(40, disk.sectors - sector))),
    refused: disk.readOnly,
    badGrant: false,
  };
  if (!decisions.chance(hostility)) return plan;
  plan.refused = true;
  if (decisions.chance(500)) plan.sector = decisions.pick(EDGES) - 1n;
  else plan.discardSectors = decisions.pick([BigInt(disk.sectors - sector + 1), ...EDGES.map((edge) => edge - 1n)]);
  return plan;
}

/** The sectors that a discard turns into zeroes: the whole granules in its range. */
export function discardedSectors(plan: RequestPlan, disk: DiskProperties): { first: number; count: number } {
  const granule = Math.max(disk.discard!.granularityBytes, disk.logicalSectorBytes) / SECTOR_BYTES;
  const offset = (disk.discard!.alignmentBytes / SECTOR_BYTES) % granule;
  const end = Number(plan.sector + plan.discardSectors);
  const first = Math.ceil((Number(plan.sector) - offset) / granule) * granule + offset;
  const last = Math.floor((end - offset) / granule) * granule + offset;
  return { first, count: Math.max(0, last - first) };
}

/** Chooses the place on the disk. False: the disk is too small. */
function place(plan: RequestPlan, { decisions, disk }: RequestContext): boolean {
  const room = disk.sectors - sectorsOf(plan.segments);
  const unit = disk.logicalSectorBytes / SECTOR_BYTES;
  if (room < 0) return false;
  plan.sector = BigInt(decisions.below(Math.floor(room / unit) + 1) * unit);
  return true;
}

/** Segments, each with its own page, which is marked as in use. At most `most` of them, 11 if that is 0. */
function planSegments(context: RequestContext, reading: boolean, most: number): Segment[] | undefined {
  const { decisions, disk, pages } = context;
  const unit = disk.logicalSectorBytes / SECTOR_BYTES;
  const limit = most === 0 ? MAX_SEGMENTS_PER_REQUEST : most;
  const count = decisions.chance(50) ? limit : decisions.between(1, Math.min(limit, most === 0 ? 3 : 14));
  const segments: Segment[] = [];
  const start = decisions.below(pages.pages.length);
  for (let i = 0; i < count; i++) {
    const page = pages.free(reading, start);
    if (page === undefined) break;
    page.inUse = true;
    const length = decisions.between(1, SECTORS_PER_PAGE / unit) * unit;
    const first = decisions.below((SECTORS_PER_PAGE - length) / unit + 1) * unit;
    segments.push({ page, ref: page.ref, first, last: first + length - 1 });
  }
  if (segments.length === count) return segments;
  for (const { page } of segments) page.inUse = false;
  return undefined;
}

/** What a hostile guest does to a request. True: it must be refused now; false: not applicable. */
const SPOILERS: readonly ((plan: RequestPlan, context: RequestContext) => boolean)[] = [
  (plan, context) => spoilOperation(plan, context),
  (plan) => {
    plan.segmentCount = 0;
    return plan.operation <= OP_WRITE;
  },
  (plan, { decisions, offer }) => {
    plan.segmentCount = plan.indirect === undefined
      ? decisions.between(MAX_SEGMENTS_PER_REQUEST + 1, 255)
      : decisions.pick([offer!.maxIndirectSegments + 1, 4096, 65535]);
    return true;
  },
  (plan, { decisions }) =>
    onSegment(plan, decisions, (segment) => {
      segment.first = segment.last + 1;
    }),
  (plan, { decisions }) =>
    onSegment(plan, decisions, (segment) => {
      segment.last = decisions.pick([SECTORS_PER_PAGE, 255]);
    }),
  (plan, { decisions, disk }) => {
    const beyond = decisions.between(1, sectorsOf(plan.segments) + 2);
    plan.sector = BigInt(disk.sectors - sectorsOf(plan.segments) + beyond);
    return plan.segments.length > 0;
  },
  (plan, { decisions }) => {
    const sector = decisions.pick(EDGES) + BigInt(decisions.between(-16, 16));
    plan.sector = sector > MAX_U64 ? MAX_U64 : sector;
    return plan.segments.length > 0;
  },
  (plan, { decisions, pages }) =>
    spoilGrant(plan, decisions, decisions.pick([0, pages.foreignRef, 1023, 2 ** 31, 2 ** 32 - 1])),
  (plan, { decisions, pages }) => {
    const readOnly = pages.pages.find((page) => !page.writable && !page.inUse);
    if (plan.operation !== OP_READ || readOnly === undefined) return false;
    return spoilGrant(plan, decisions, readOnly.ref);
  },
  (plan, { decisions, pages }) => {
    if (plan.indirect === undefined) return false;
    plan.indirect.ref = decisions.pick([0, pages.foreignRef, 1023, 2 ** 32 - 1]);
    return true;
  },
  (plan, { disk }) => {
    plan.sector += 1n;
    return plan.segments.length > 0 && disk.logicalSectorBytes > SECTOR_BYTES;
  },
];

function spoil(plan: RequestPlan, context: RequestContext): void {
  const chosen = context.decisions.below(SPOILERS.length);
  const before = copyOf(plan);
  if (SPOILERS[chosen]!(plan, context)) plan.refused = true;
  else Object.assign(plan, before);
}

function copyOf(plan: RequestPlan): RequestPlan {
  return { ...plan, segments: plan.segments.map((segment) => ({ ...segment })) };
}

/** An operation that does not exist or was not offered. */
function spoilOperation(plan: RequestPlan, { decisions, offer }: RequestContext): boolean {
  const operations = [OP_RESERVED, 7, 255];
  if (offer !== undefined && offer.discard === undefined) operations.push(OP_DISCARD);
  if (offer?.maxIndirectSegments === 0) operations.push(OP_INDIRECT);
  plan.operation = decisions.pick(operations);
  plan.answerOperation = plan.operation;
  if (plan.indirect !== undefined) plan.answerOperation = OP_READ; // the inner operation is invalid
  // The backend reads the inner operation where a direct request has its segment count.
  else if (plan.operation === OP_INDIRECT) plan.answerOperation = plan.segmentCount === OP_WRITE ? OP_WRITE : OP_READ;
  return true;
}

function spoilGrant(plan: RequestPlan, decisions: Decisions, ref: number): boolean {
  plan.badGrant = true;
  return onSegment(plan, decisions, (segment) => {
    segment.ref = ref;
  });
}

function onSegment(plan: RequestPlan, decisions: Decisions, change: (segment: Segment) => void): boolean {
  const { segments } = plan;
  if (segments.length === 0) return false;
  change(segments[decisions.below(segments.length)]!);
  return true;
}
