/**
 * Makes a guest's requests, as the decisions have it: sensible ones of every kind and layout, and ones that a hostile
 * guest would send, each with what must be answered. It must not know rings, nor when a request is sent.
 */

import {
  MAX_SEGMENTS_PER_REQUEST,
  OP_DISCARD,
  OP_FLUSH_DISKCACHE,
  OP_INDIRECT,
  OP_READ,
  OP_RESERVED,
  OP_WRITE,
  OP_WRITE_BARRIER,
  SECTOR_SIZE_BYTES,
  SECTORS_PER_PAGE,
} from "../../lib/blkif/abi.ts";
import type { DiskProperties } from "../../lib/storage/disk.ts";
import type { Decisions } from "./decisions.ts";
import type { GuestPage, GuestPages } from "./guest_pages.ts";

/** A part of a page that a request names. */
export interface Segment {
  readonly page: GuestPage;
  /** The page's, but in a hostile request. */
  ref: number;
  first: number;
  last: number;
}

/** A request before it is sent. */
export interface RequestPlan {
  operation: number;
  /** What the answer must say. */
  answerOperation: number;
  sector: bigint;
  readonly segments: Segment[];
  /** As it goes to the wire. */
  segmentCount: number;
  /** It must not be carried out, and not be answered OKAY. */
  refused: boolean;
  /** Only a grant of it is unusable: its other pages may be touched nevertheless. */
  badGrant: boolean;
}

/** What requests are made for. */
export interface RequestContext {
  readonly decisions: Decisions;
  readonly disk: DiskProperties;
  readonly pages: GuestPages;
  /** Of a thousand requests, how many are hostile. */
  readonly hostility: number;
}

const OPERATIONS = [OP_READ, OP_WRITE, OP_FLUSH_DISKCACHE, OP_WRITE_BARRIER] as const;
const WEIGHTS = [40, 40, 10, 8];
/** Sector numbers near which arithmetic goes wrong. */
const EDGES = [2n ** 32n, 2n ** 53n, 2n ** 55n, 2n ** 63n, 2n ** 64n];
const MAX_U64 = 2n ** 64n - 1n;

/** Sectors of all segments together. */
export function sectorsOf(segments: readonly Segment[]): number {
  return segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
}

/** The next request, or undefined if the guest has not enough pages at the moment. */
export function planRequest(context: RequestContext): RequestPlan | undefined {
  const { decisions, hostility } = context;
  const operation = OPERATIONS[decisions.weighted(WEIGHTS)]!;
  const empty = operation >= OP_WRITE_BARRIER && decisions.chance(500);
  const segments = empty ? [] : planSegments(context, operation === OP_READ);
  if (segments === undefined) return undefined;
  const plan: RequestPlan = {
    operation,
    answerOperation: operation,
    sector: 0n,
    segments,
    segmentCount: segments.length,
    refused: !empty && operation !== OP_READ && context.disk.readOnly,
    badGrant: false,
  };
  if (!place(plan, context)) return undefined;
  if (decisions.chance(hostility)) spoil(plan, context);
  return plan;
}

/** Where on the disk; false if it has not so many sectors. */
function place(plan: RequestPlan, { decisions, disk }: RequestContext): boolean {
  const room = disk.sectors - sectorsOf(plan.segments);
  const unit = disk.logicalSectorBytes / SECTOR_SIZE_BYTES;
  if (room < 0) return false;
  plan.sector = BigInt(decisions.below(Math.floor(room / unit) + 1) * unit);
  return true;
}

function planSegments(context: RequestContext, reading: boolean): Segment[] | undefined {
  const { decisions, disk, pages } = context;
  const unit = disk.logicalSectorBytes / SECTOR_SIZE_BYTES;
  const count = decisions.chance(50) ? MAX_SEGMENTS_PER_REQUEST : decisions.between(1, 3);
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
  for (const { page } of segments) page.inUse = false;
  return segments.length === count ? segments : undefined;
}

/** What a hostile guest does to a request; all of it has to be refused. */
const SPOILERS: readonly ((plan: RequestPlan, context: RequestContext) => boolean)[] = [
  (plan, { decisions }) => setOperation(plan, decisions.pick([OP_RESERVED, OP_DISCARD, OP_INDIRECT, 7, 255])),
  (plan) => {
    plan.segmentCount = 0;
    return plan.operation <= OP_WRITE;
  },
  (plan, { decisions }) => {
    plan.segmentCount = decisions.between(MAX_SEGMENTS_PER_REQUEST + 1, 255);
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
  (plan, { disk }) => {
    plan.sector += 1n;
    return plan.segments.length > 0 && disk.logicalSectorBytes > SECTOR_SIZE_BYTES;
  },
];

/** One after another until one fits. */
function spoil(plan: RequestPlan, context: RequestContext): void {
  const chosen = context.decisions.below(SPOILERS.length);
  const before = { ...plan, segments: plan.segments.map((segment) => ({ ...segment })) };
  if (SPOILERS[chosen]!(plan, context)) plan.refused = true;
  else Object.assign(plan, before);
}

function setOperation(plan: RequestPlan, operation: number): boolean {
  plan.operation = operation;
  // The inner operation is where the number of segments of a direct request is.
  plan.answerOperation = operation !== OP_INDIRECT ? operation : plan.segmentCount === OP_WRITE ? OP_WRITE : OP_READ;
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
