/**
 * Chooses a load's requests: operation, size and place, from the load's seed and nothing else. It must not know what
 * is in flight.
 */

import { OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE, OP_WRITE_BARRIER, SECTOR_SIZE_BYTES } from "../blkif/abi.ts";
import { XenblkError } from "../errors.ts";
import type { DiskFacts } from "./disk_facts.ts";
import { MOST_SECTORS } from "./load_slots.ts";
import type { LoadSpec } from "./load_types.ts";
import type { Random } from "./random.ts";

/** Yields one request after another in its fields. */
export class RequestSource {
  /** The operation that was chosen last. */
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
  #cursor: number;
  #sinceFlush = 0;
  #sinceBarrier = 0;

  /** `alignToSize`: every request begins at a multiple of its size. Throws {@linkcode XenblkError} (usage). */
  constructor(spec: LoadSpec, disk: DiskFacts, random: Random, alignToSize: boolean) {
    this.#random = random;
    this.#readShare = disk.readOnly ? 1 : spec.readShare;
    this.#unit = disk.logicalSectorBytes / SECTOR_SIZE_BYTES;
    this.#sizes = Uint32Array.from(sizesInSectors(spec.blockBytes, this.#unit));
    this.#sequential = spec.pattern === "sequential";
    this.#alignToSize = alignToSize;
    this.#first = spec.area?.firstSector ?? 0;
    this.#end = Math.min(disk.sectors, this.#first + (spec.area?.sectors ?? disk.sectors));
    this.#cursor = this.#first;
    this.#flushEvery = disk.flush ? spec.flushEvery : 0;
    this.#barrierEvery = disk.barrier ? spec.barrierEvery : 0;
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
    const size = this.#sizes[this.#sizes.length === 1 ? 0 : this.#random.below(this.#sizes.length)]!;
    this.operation = this.#random.chance(this.#readShare) ? OP_READ : this.#writeOperation();
    this.sectorCount = size;
    if (this.#sequential) this.#placeNext();
    else this.#placeAtRandom();
  }

  /** Chooses another place for the same request. False: its place is fixed. */
  replace(): boolean {
    if (this.#sequential) return false;
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
    this.#sinceBarrier = 0;
    return OP_WRITE_BARRIER;
  }
}

/** Sizes to choose from with equal weight, in 512-byte sectors, as multiples of the logical sector. */
function sizesInSectors(blockBytes: LoadSpec["blockBytes"], unit: number): number[] {
  const sectors = (bytes: number): number => Math.ceil(bytes / SECTOR_SIZE_BYTES / unit) * unit;
  let sizes: number[];
  if ("min" in blockBytes) {
    const [least, greatest] = [sectors(blockBytes.min), sectors(blockBytes.max)];
    sizes = Array.from({ length: (greatest - least) / unit + 1 }, (_, i) => least + i * unit);
  } else {
    sizes = blockBytes.map(sectors);
  }
  const bad = sizes.find((size) => !(size >= 1 && size <= MOST_SECTORS));
  if (sizes.length === 0 || bad !== undefined) {
    throw new XenblkError(
      `Cannot load with blocks of ${(bad ?? 0) * SECTOR_SIZE_BYTES} bytes: a request holds 512 to 45056`,
      { kind: "usage" },
    );
  }
  return sizes;
}
