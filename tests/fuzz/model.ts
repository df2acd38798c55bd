/**
 * What disk and guest pages must hold after a batch of requests: carries the requests out on copies of both. Where the
 * order of requests is not determined, it remembers all contents that a page may have.
 */

import { SECTOR_BYTES } from "../../lib/units.ts";
import { words } from "../hardening/world.ts";
import { type Facts, GRANULE, judge, READ } from "./requests.ts";
import type { DirectRequest, DiscardRequest, IndirectRequest, WireRequest, WireSegment } from "../hardening/wire.ts";

const SECTOR_WORDS = SECTOR_BYTES / 4;
const SECTORS_PER_PAGE = 8;

/** The real bytes, for comparison. */
interface RealBytes {
  readonly disk: Uint8Array;
  /** By grant reference. */
  readonly pages: ReadonlyMap<number, Uint8Array>;
}

/** The expected contents of one disk and its guest's pages. */
export class Model {
  readonly #facts: Facts;
  readonly #disk: Int32Array;
  readonly #realDisk: Int32Array;
  readonly #pages = new Map<number, Int32Array>();
  readonly #realPages = new Map<number, Int32Array>();
  /** Reads may be carried out in any order. */
  readonly #unordered: boolean;
  /** Other allowed contents of a page's sector, by page and sector. */
  #allowed = new Map<string, Int32Array[]>();

  constructor(facts: Facts, real: RealBytes, unordered: boolean) {
    this.#facts = facts;
    this.#unordered = unordered;
    this.#realDisk = words(real.disk);
    this.#disk = this.#realDisk.slice();
    for (const [gref, bytes] of real.pages) {
      this.#realPages.set(gref, words(bytes));
      this.#pages.set(gref, words(bytes).slice());
    }
  }

  /** Copies a page again: the guest wrote to it. */
  refresh(gref: number): void {
    this.#pages.get(gref)!.set(this.#realPages.get(gref)!);
  }

  /** Carries out a batch, in order. */
  apply(requests: readonly WireRequest[]): void {
    for (const request of requests) {
      const { status, grantFailed } = judge(request, this.#facts);
      if (request.form === "discard") {
        if (status === 0) this.#discard(request);
        continue;
      }
      const reads = (request.form === "direct" ? request.operation : request.inner) === READ;
      const sector = Number(request.sector);
      if (reads && (status === 0 || grantFailed)) this.#read(sector, carried(request), grantFailed);
      else if (!reads && status === 0) this.#write(sector, carried(request));
    }
  }

  /** Compares with the real bytes. Throws Error at the first difference. */
  compare(): void {
    const difference = firstDifference(this.#disk, this.#realDisk);
    if (difference >= 0) throw new Error(`disk sector ${Math.floor(difference / SECTOR_WORDS)} has wrong data`);
    for (const [gref, page] of this.#pages) {
      const real = this.#realPages.get(gref)!;
      if (firstDifference(page, real) >= 0) this.#compareSectors(gref, page, real);
    }
    this.#allowed.clear();
  }

  #read(firstSector: number, segments: readonly WireSegment[], grantFailed: boolean): void {
    let sector = firstSector;
    for (const { gref, first, last } of segments) {
      const page = this.#pages.get(gref);
      for (let at = first; at <= last; at++, sector++) {
        if (page === undefined || !this.#facts.targets.includes(gref)) continue;
        const data = sectorOf(this.#disk, sector);
        if (grantFailed || this.#unordered) this.#allow(gref, at, page, data);
        if (!grantFailed) page.set(data, at * SECTOR_WORDS);
      }
    }
  }

  #write(firstSector: number, segments: readonly WireSegment[]): void {
    let sector = firstSector;
    for (const { gref, first, last } of segments) {
      const page = this.#pages.get(gref)!;
      for (let at = first; at <= last; at++, sector++) this.#disk.set(sectorOf(page, at), sector * SECTOR_WORDS);
    }
  }

  /** Whole granules become zeroes. */
  #discard({ sector, sectorCount }: DiscardRequest): void {
    const begin = Number((sector + GRANULE - 1n) / GRANULE * GRANULE);
    const end = Number((sector + sectorCount) / GRANULE * GRANULE);
    if (begin < end) this.#disk.fill(0, begin * SECTOR_WORDS, end * SECTOR_WORDS);
  }

  #allow(gref: number, at: number, page: Int32Array, data: Int32Array): void {
    const key = `${gref}/${at}`;
    const contents = this.#allowed.get(key) ?? [sectorOf(page, at).slice()];
    contents.push(data.slice());
    this.#allowed.set(key, contents);
  }

  #compareSectors(gref: number, page: Int32Array, real: Int32Array): void {
    for (let at = 0; at < SECTORS_PER_PAGE; at++) {
      const now = sectorOf(real, at);
      const allowed = this.#allowed.get(`${gref}/${at}`) ?? [];
      const known = [sectorOf(page, at), ...allowed].some((content) => firstDifference(content, now) < 0);
      if (!known) throw new Error(`sector ${at} of the page with grant ${gref} has wrong data`);
      page.set(now, at * SECTOR_WORDS);
    }
  }
}

/** The segments that count: as many as the request's segment count says. */
function carried({ segments, count }: DirectRequest | IndirectRequest): readonly WireSegment[] {
  return segments.slice(0, count);
}

function sectorOf(bytes: Int32Array, sector: number): Int32Array {
  return bytes.subarray(sector * SECTOR_WORDS, (sector + 1) * SECTOR_WORDS);
}

function firstDifference(a: Int32Array, b: Int32Array): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i;
  return -1;
}
