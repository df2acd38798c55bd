/**
 * Random requests of a hostile guest, mostly valid, and what the contract says must come of each. The judgement is
 * written from the contract's table alone, with whole 64-bit numbers, so that it shares no mistake with the product.
 */

import type { Random } from "../../lib/sim/random.ts";
import type { DirectRequest, WireRequest, WireSegment } from "../hardening/wire.ts";

/** What a judge knows of the disk and the grants. */
export interface Facts {
  readonly sectors: bigint;
  readonly readOnly: boolean;
  /** Sectors of 512 bytes in a logical one. */
  readonly alignment: number;
  /** Pages that may be read and written, those to write to the disk from first. */
  readonly sources: readonly number[];
  readonly targets: readonly number[];
  /** Pages that may be read. */
  readonly readOnlyPages: readonly number[];
  /** References that are not usable. */
  readonly bad: readonly number[];
}

export const READ = 0;
export const WRITE = 1;
export const BARRIER = 2;
export const FLUSH = 3;

/** A request's fate: its status, and whether its data moves. */
export interface Verdict {
  readonly status: number;
  /** The request is in order but for a grant: a read may have filled its other pages. */
  readonly grantFailed: boolean;
}

const OKAY: Verdict = { status: 0, grantFailed: false };
const ERROR: Verdict = { status: -1, grantFailed: false };

/** What the contract says of a request. */
export function judge(request: WireRequest, facts: Facts): Verdict {
  if (request.form === "discard" && facts.readOnly) return ERROR;
  if (request.form !== "direct" || request.operation > FLUSH) return { status: -2, grantFailed: false };
  const { operation, segments, sector } = request;
  const count = request.count ?? segments.length;
  if (count === 0) return operation === READ || operation === WRITE ? ERROR : OKAY;
  if (count > 11 || (facts.readOnly && operation !== READ)) return ERROR;
  if (segments.some(({ first, last }) => first > last || last > 7)) return ERROR;
  const aligned = (value: number): boolean => value % facts.alignment === 0;
  if (!segments.every(({ first, last }) => aligned(first) && aligned(last + 1))) return ERROR;
  if (sector % BigInt(facts.alignment) !== 0n) return ERROR;
  const length = segments.reduce((sum, { first, last }) => sum + last - first + 1, 0);
  if (sector + BigInt(length) > facts.sectors) return ERROR;
  const usable = (gref: number): boolean =>
    facts.sources.includes(gref) || facts.targets.includes(gref) ||
    (operation !== READ && facts.readOnlyPages.includes(gref));
  return segments.every(({ gref }) => usable(gref)) ? OKAY : { status: -1, grantFailed: true };
}

const ODD_SECTORS = [53n, 54n, 55n, 63n].map((power) => 1n << power)
  .concat([1n << 32n, (1n << 64n) - 1n, (1n << 64n) - 8n, (1n << 41n) + 8n]);
const ODD_BYTES = [0, 1, 7, 8, 9, 15, 127, 128, 254, 255];
const ODD_COUNTS = [0, 12, 13, 31, 128, 255];

/** A stream of requests that its random source determines. */
export class RequestGenerator {
  readonly #random: Random;
  readonly #facts: Facts;
  #lastId = 0n;

  constructor(random: Random, facts: Facts) {
    this.#random = random;
    this.#facts = facts;
  }

  /** The next request: in about five of six cases one without fault. */
  next(): WireRequest {
    const random = this.#random;
    const request = this.#valid();
    if (random.chance(0.84)) return request;
    if (random.chance(0.12)) return this.#otherForm(request);
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

  /** Mostly new, sometimes the last one again, sometimes with all bits. */
  #id(): bigint {
    const random = this.#random;
    if (random.chance(0.03)) return this.#lastId;
    if (random.chance(0.02)) return (BigInt(random.next()) << 32n) | BigInt(random.next());
    return ++this.#lastId;
  }

  #otherForm(request: DirectRequest): WireRequest {
    const random = this.#random;
    const { id, sector } = request;
    if (random.chance(0.5)) {
      return { form: "discard", id, sector, flag: random.below(256), sectorCount: BigInt(random.below(300)) };
    }
    const pages = Array.from({ length: 8 }, () => random.pick(this.#facts.sources));
    return { form: "indirect", id, sector, inner: random.below(8), count: random.below(600), pages };
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
