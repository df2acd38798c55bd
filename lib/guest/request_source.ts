/**
 * Chooses a load's requests: operation, size and place. They depend on the load's spec, its random source and the disk,
 * and not on what is in flight.
 */

import { SECTOR_BYTES } from "../units.ts";
import { OP_DISCARD, OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE, OP_WRITE_BARRIER } from "../blkif/abi.ts";
import { XenblkError } from "../errors.ts";
import type { DiskFacts } from "./disk_facts.ts";
import { MOST_DIRECT_SECTORS } from "./load_slots.ts";
import type { LoadSpec } from "./load_types.ts";
import type { Random } from "./random.ts";

/** Most sectors of a discard. */
const MOST_DISCARDED_SECTORS = 2048;

/** Limits of the requests. */
export interface SourceOptions {
  /** Most sectors of a read or write; a barrier never has more than a direct request. */
  readonly mostSectors: number;
  /** Each request starts at a multiple of its size. */
  readonly alignToSize: boolean;
}

/** A stream of requests; {@linkcode next} puts the next one into the fields. */
export class RequestSource {
  /** The chosen operation. */
  operation = OP_READ;
  /** First 512-byte sector. */
  sector = 0;
  /** 512-byte sectors; 0 for a flush. */
  sectorCount = 0;

  readonly #random: Random;
  readonly #readShare: number;
  readonly #sizes: Uint32Array;
  readonly #sequential: boolean;
  readonly #alignToSize: boolean;
  readonly #unit: number;
  readonly #first: number;
  readonly #end: number;
  readonly #flushEvery: number;
  readonly #barrierEvery: number;
  readonly #discardEvery: number;
  #cursor: number;
  #sinceFlush = 0;
  #sinceDiscard = 0;
  #sinceBarrier = 0;

  /** Throws {@linkcode XenblkError} of kind `usage` if the disk is too small for the largest request. */
  constructor(spec: LoadSpec, disk: DiskFacts, random: Random, options: SourceOptions) {
    this.#random = random;
    this.#readShare = disk.readOnly ? 1 : spec.readShare;
    this.#unit = disk.logicalSectorBytes / SECTOR_BYTES;
    this.#sizes = Uint32Array.from(sizesInSectors(spec.blockBytes, this.#unit, options.mostSectors));
    this.#sequential = spec.pattern === "sequential";
    this.#alignToSize = options.alignToSize;
    this.#first = spec.area?.firstSector ?? 0;
    this.#end = Math.min(disk.sectors, this.#first + (spec.area?.sectors ?? disk.sectors));
    this.#cursor = this.#first;
    this.#flushEvery = disk.flush ? spec.flushEvery : 0;
    this.#barrierEvery = disk.barrier ? spec.barrierEvery : 0;
    this.#discardEvery = disk.discard && !disk.readOnly ? spec.discardEvery ?? 0 : 0;
    const greatest = this.#sizes.reduce((a, b) => Math.max(a, b));
    if (this.#end - this.#first < greatest) {
      throw new XenblkError(
        `Cannot load ${this.#end - this.#first} sectors of the disk: a request takes up to ${greatest}`,
        { kind: "usage" },
      );
    }
  }

  /** Chooses the next request. */
  next(): void {
    if (this.#flushEvery > 0 && ++this.#sinceFlush > this.#flushEvery) {
      this.#sinceFlush = 0;
      this.operation = OP_FLUSH_DISKCACHE;
      this.sector = 0;
      this.sectorCount = 0;
      return;
    }
    if (this.#discardEvery > 0 && ++this.#sinceDiscard > this.#discardEvery) {
      this.#sinceDiscard = 0;
      this.operation = OP_DISCARD;
      const most = Math.min(MOST_DISCARDED_SECTORS, this.#end - this.#first);
      this.sectorCount = this.#random.between(1, Math.floor(most / this.#unit)) * this.#unit;
      this.#placeAtRandom();
      return;
    }
    const size = this.#sizes[this.#sizes.length === 1 ? 0 : this.#random.below(this.#sizes.length)]!;
    this.sectorCount = size;
    this.operation = this.#random.chance(this.#readShare) ? OP_READ : this.#writeOperation();
    if (this.#sequential) this.#placeNext();
    else this.#placeAtRandom();
  }

  /** Chooses another place for the same request. False: its place is fixed, in a sequential load. */
  replace(): boolean {
    if (this.#sequential && this.operation !== OP_DISCARD) return false;
    this.#placeAtRandom();
    return true;
  }

  #placeNext(): void {
    if (this.#cursor + this.sectorCount > this.#end) this.#cursor = this.#first;
    this.sector = this.#cursor;
    this.#cursor += this.sectorCount;
  }

  #placeAtRandom(): void {
    const size = this.sectorCount;
    const step = this.#alignToSize ? size : this.#unit;
    const places = Math.floor((this.#end - this.#first - size) / step) + 1;
    this.sector = this.#first + this.#random.below(places) * step;
  }

  #writeOperation(): number {
    if (this.#barrierEvery === 0 || ++this.#sinceBarrier < this.#barrierEvery) return OP_WRITE;
    if (this.sectorCount > MOST_DIRECT_SECTORS) return OP_WRITE; // the next one that is small enough
    this.#sinceBarrier = 0;
    return OP_WRITE_BARRIER;
  }
}

/** Sizes to choose from, in 512-byte sectors, rounded up to logical sectors. */
function sizesInSectors(blockBytes: LoadSpec["blockBytes"], unit: number, most: number): number[] {
  const sectors = (bytes: number): number => Math.ceil(bytes / SECTOR_BYTES / unit) * unit;
  let sizes: number[];
  if ("min" in blockBytes) {
    const [least, greatest] = [sectors(blockBytes.min), sectors(blockBytes.max)];
    sizes = Array.from({ length: (greatest - least) / unit + 1 }, (_, i) => least + i * unit);
  } else {
    sizes = blockBytes.map(sectors);
  }
  const bad = sizes.find((size) => !(size >= 1 && size <= most));
  if (sizes.length === 0 || bad !== undefined) {
    throw new XenblkError(
      `Cannot load with blocks of ${(bad ?? 0) * SECTOR_BYTES} bytes: ` +
        `a request holds 512 to ${most * SECTOR_BYTES}`,
      { kind: "usage" },
    );
  }
  return sizes;
}
