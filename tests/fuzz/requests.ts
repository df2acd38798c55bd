/**
 * Random requests of a hostile guest, mostly valid, and the status that each must get. The verdicts are written from
 * the protocol alone, with 64-bit BigInts, so that they share no mistake with lib/blkif.
 */

import type { Random } from "../../lib/guest/random.ts";
import type { DirectRequest, DiscardRequest, IndirectRequest, WireRequest, WireSegment } from "../hardening/wire.ts";

/** The disk and the grants that requests are judged by. */
export interface Facts {
  readonly sectors: bigint;
  readonly readOnly: boolean;
  /** 512-byte sectors per logical sector. */
  readonly alignment: number;
  /** Pages granted for reading and writing: sources of writes, and targets of reads. */
  readonly sources: readonly number[];
  readonly targets: readonly number[];
  /** Pages granted read-only. */
  readonly readOnlyPages: readonly number[];
  /** Unusable grant references. */
  readonly bad: readonly number[];
  /** Pages for the segments of indirect requests. */
  readonly lists: readonly number[];
  /** Most segments offered for indirect requests; 0: not offered. */
  readonly indirectSegments: number;
  /** Discards are offered. */
  readonly discard: boolean;
}

/** 512-byte sectors per discard granule. */
export const GRANULE = 8n;

export const READ = 0;
export const WRITE = 1;
export const BARRIER = 2;
export const FLUSH = 3;

/** What must come of a request. */
export interface Verdict {
  readonly status: number;
  /** Only a grant is bad: a read may have filled the other pages. */
  readonly grantFailed: boolean;
}

const OKAY: Verdict = { status: 0, grantFailed: false };
const ERROR: Verdict = { status: -1, grantFailed: false };

const UNSUPPORTED: Verdict = { status: -2, grantFailed: false };
const NO_GRANT: Verdict = { status: -1, grantFailed: true };

/** The verdict on a request. */
export function judge(request: WireRequest, facts: Facts): Verdict {
  if (request.form === "discard") return judgeDiscard(request, facts);
  if (request.form === "indirect") return judgeIndirect(request, facts);
  const { operation, segments } = request;
  if (operation > FLUSH) return UNSUPPORTED;
  const count = request.count ?? segments.length;
  if (count === 0) return operation === READ || operation === WRITE ? ERROR : OKAY;
  if (count > 11) return ERROR;
  return judgeData(operation, request.sector, segments, facts);
}

function judgeData(operation: number, sector: bigint, segments: readonly WireSegment[], facts: Facts): Verdict {
  if (facts.readOnly && operation !== READ) return ERROR;
  if (segments.some(({ first, last }) => first > last || last > 7)) return ERROR;
  const aligned = (value: number): boolean => value % facts.alignment === 0;
  if (!segments.every(({ first, last }) => aligned(first) && aligned(last + 1))) return ERROR;
  if (sector % BigInt(facts.alignment) !== 0n) return ERROR;
  const length = segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  if (sector + BigInt(length) > facts.sectors) return ERROR;
  const usable = (gref: number): boolean =>
    facts.sources.includes(gref) || facts.targets.includes(gref) ||
    (operation !== READ && facts.readOnlyPages.includes(gref));
  return segments.every(({ gref }) => usable(gref)) ? OKAY : NO_GRANT;
}

function judgeIndirect(request: IndirectRequest, facts: Facts): Verdict {
  const { inner, count, segments, sector, pages } = request;
  if (facts.indirectSegments === 0) return UNSUPPORTED;
  if ((inner !== READ && inner !== WRITE) || count === 0 || count > facts.indirectSegments) return ERROR;
  if (!facts.lists.includes(pages[0]!)) return ERROR;
  return judgeData(inner, sector, segments, facts);
}

function judgeDiscard({ sector, sectorCount }: DiscardRequest, facts: Facts): Verdict {
  if (facts.readOnly) return ERROR;
  if (!facts.discard) return UNSUPPORTED;
  return sector + sectorCount > facts.sectors ? ERROR : OKAY;
}

const ODD_SECTORS = [53n, 54n, 55n, 63n].map((power) => 1n << power)
  .concat([1n << 32n, (1n << 64n) - 1n, (1n << 64n) - 8n, (1n << 41n) + 8n]);
const ODD_BYTES = [0, 1, 7, 8, 9, 15, 127, 128, 254, 255];
const ODD_COUNTS = [0, 12, 13, 31, 128, 255];

/** A stream of requests, determined by its random source. */
export class RequestGenerator {
  readonly #random: Random;
  readonly #facts: Facts;
  #lastId = 0n;
  /** Index of the page that the last indirect request used. */
  #list = 0;

  constructor(random: Random, facts: Facts) {
    this.#random = random;
    this.#facts = facts;
  }

  /** The next request; about five of six are valid. */
  next(): WireRequest {
    const random = this.#random;
    const request = this.#valid();
    if (random.chance(0.12)) return this.#indirect(request);
    if (random.chance(0.04)) return this.#discard(request);
    if (random.chance(0.82)) return request;
    const once = this.#spoil(request);
    return random.chance(0.2) ? this.#spoil(once) : once;
  }

  #valid(): DirectRequest {
    const random = this.#random;
    const kind = random.below(100);
    const operation = kind < 44 ? READ : kind < 88 ? WRITE : kind < 93 ? BARRIER : FLUSH;
    const empty = operation >= BARRIER && random.chance(0.6);
    const segments = empty ? [] : this.#segments(operation);
    const length = segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
    const { alignment, sectors } = this.#facts;
    const places = Number(sectors - BigInt(length)) / alignment;
    const sector = random.chance(0.03) ? Math.floor(places) : random.below(Math.floor(places) + 1);
    return { form: "direct", operation, id: this.#id(), sector: BigInt(sector * alignment), segments };
  }

  #segments(operation: number): WireSegment[] {
    const random = this.#random;
    const count = random.chance(0.1) ? 11 : random.between(1, 6);
    const { alignment, sources, targets, readOnlyPages } = this.#facts;
    const parts = 8 / alignment;
    return Array.from({ length: count }, () => {
      const pages = operation === READ ? targets : random.chance(0.1) ? readOnlyPages : sources;
      const begin = random.chance(0.5) ? 0 : random.below(parts);
      const end = random.chance(0.5) ? parts - 1 : random.between(begin, parts - 1);
      return { gref: random.pick(pages), first: begin * alignment, last: (end + 1) * alignment - 1 };
    });
  }

  /** Mostly a new id, sometimes the last one again, sometimes 64 random bits. */
  #id(): bigint {
    const random = this.#random;
    if (random.chance(0.03)) return this.#lastId;
    if (random.chance(0.02)) return (BigInt(random.next()) << 32n) | BigInt(random.next());
    return ++this.#lastId;
  }

  /** The same as an indirect request, mostly with more segments; one of five is invalid. */
  #indirect({ id, sector, operation }: DirectRequest): IndirectRequest {
    const random = this.#random;
    const inner = operation === READ ? READ : WRITE;
    const most = Math.max(1, this.#facts.indirectSegments);
    const count = random.chance(0.2) ? most : random.between(1, Math.min(most, 30));
    const segments = Array.from({ length: count }, () => this.#segments(inner)[0]!);
    this.#list = (this.#list + 1) % this.#facts.lists.length;
    const pages = [this.#facts.lists[this.#list]!];
    const request: IndirectRequest = { form: "indirect", id, sector, inner, count, pages, segments };
    if (random.chance(0.8)) return request;
    switch (random.below(4)) {
      case 0:
        return { ...request, inner: random.between(2, 255) };
      case 1:
        return { ...request, count: random.pick([0, most + 1, 512, 513, 4097, 65535]) };
      case 2:
        return { ...request, pages: [random.pick(this.#facts.bad)] };
      default: {
        const at = random.below(count);
        const odd = random.chance(0.5)
          ? { gref: random.pick(this.#facts.bad) }
          : { first: random.pick(ODD_BYTES), last: random.pick(ODD_BYTES) };
        return { ...request, segments: segments.map((segment, i) => i === at ? { ...segment, ...odd } : segment) };
      }
    }
  }

  #discard({ id }: DirectRequest): DiscardRequest {
    const random = this.#random;
    const sectors = Number(this.#facts.sectors);
    const odd = (usual: number): bigint => random.chance(0.9) ? BigInt(usual) : random.pick(ODD_SECTORS);
    const [sector, sectorCount] = [odd(random.below(sectors + 2)), odd(random.below(40))];
    return { form: "discard", id, sector, sectorCount, flag: random.chance(0.8) ? 0 : random.below(256) };
  }

  #spoil(request: DirectRequest): DirectRequest {
    const random = this.#random;
    switch (random.below(7)) {
      case 0:
        return { ...request, operation: random.pick([4, 7, 8, 100, 255]) };
      case 1:
        return { ...request, count: random.pick(ODD_COUNTS), segments: this.#elevenOf(request) };
      case 2:
        return { ...request, sector: random.pick(ODD_SECTORS) };
      case 3:
        return { ...request, sector: this.#facts.sectors - BigInt(random.below(3)) };
      case 4:
        return { ...request, sector: BigInt.asUintN(64, request.sector + BigInt(random.below(8))) };
      case 5:
        return this.#withSegment(request, () => ({ gref: random.pick(this.#facts.bad) }));
      default:
        return this.#withSegment(request, () => ({ first: random.pick(ODD_BYTES), last: random.pick(ODD_BYTES) }));
    }
  }

  #elevenOf(request: DirectRequest): WireSegment[] {
    const [segment = { gref: this.#facts.sources[0]!, first: 0, last: 7 }] = request.segments;
    return Array.from({ length: 11 }, () => segment);
  }

  #withSegment(request: DirectRequest, change: () => Partial<WireSegment>): DirectRequest {
    if (request.segments.length === 0) return request;
    const at = this.#random.below(request.segments.length);
    const segments = request.segments.map((segment, i) => i === at ? { ...segment, ...change() } : segment);
    return { ...request, segments };
  }
}
