/**
 * The data of a replay: what it writes, decided by a seed, and checksums of what it reads, so that two disks that got the
 * same trace can be compared.
 */

import { SECTOR_BYTES } from "../units.ts";

/** Words of a sector. */
const SECTOR_WORDS = SECTOR_BYTES / 4;
/** Sectors of one checksum: 64 KiB. */
const CHECKSUM_SECTORS = 128;

/** Fills a sector with what write number `serial` has for it. */
export function fillSector(words: Uint32Array, at: number, sector: number, serial: number, seed: number): void {
  let word = mix(mix(seed ^ Math.imul(sector, 0x9E3779B1)) ^ serial);
  for (let i = at; i < at + SECTOR_WORDS; i++) {
    word = (Math.imul(word, 1664525) + 1013904223) | 0;
    words[i] = word;
  }
}

function mix(value: number): number {
  const half = Math.imul(value ^ (value >>> 16), 0x21F0AAAD);
  return half ^ (half >>> 15);
}

/** Memory for the checksums of so many sectors. */
export function checksumMemory(sectors: number): SharedArrayBuffer {
  return new SharedArrayBuffer(8 * Math.ceil(sectors / CHECKSUM_SECTORS));
}

/** Checksums of a disk, 64 bits for each 64 KiB. Sectors may be added in any order, each once. */
export class Checksums {
  readonly #words: Int32Array;

  constructor(memory: SharedArrayBuffer) {
    this.#words = new Int32Array(memory);
  }

  /** Adds a sector that was read. */
  add(words: Uint32Array, at: number, sector: number): void {
    let one = sector | 0;
    let other = ~sector;
    for (let i = at; i < at + SECTOR_WORDS; i++) {
      one = Math.imul(one ^ words[i]!, 0x01000193);
      other = Math.imul(other, 0x85EBCA6B) + words[i]! | 0;
      other ^= other >>> 13;
    }
    const chunk = 2 * Math.floor(sector / CHECKSUM_SECTORS);
    this.#words[chunk]! += mix(one);
    this.#words[chunk + 1]! += mix(other);
  }

  /** The first sector of the first 64 KiB that differ; undefined if none do. Both are of disks of one size. */
  firstDifference(other: Checksums): number | undefined {
    const index = this.#words.findIndex((word, index) => word !== other.#words[index]);
    return index < 0 ? undefined : (index >> 1) * CHECKSUM_SECTORS;
  }
}
