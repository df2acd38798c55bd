/**
 * The expected contents of a disk: for each 512-byte sector the number of the last write to it, which determines its
 * bytes. The model is in shared memory, so that loads in Workers and the check of the image afterwards use the same
 * one.
 */

import { SECTOR_BYTES } from "../units.ts";

/**
 * Sectors that no load wrote hold zeroes, or anything: then the first read is remembered as a hash, and later reads
 * must match.
 */
export type Baseline = "zeroes" | "anything";

/** 32-bit words per sector. */
export const SECTOR_WORDS = SECTOR_BYTES / 4;

/** The sector may hold anything: a write to it is in flight, or failed. */
const UNKNOWN = 0xFFFFFFFF;
/** Never written by a load. */
const NEVER = 0;
/** Flag beside the number of a write, or NEVER: the sector was discarded since, and may hold zeroes instead. */
const DISCARDED = 0x80000000;

/** Header of the buffer: words 0 to 2, then the number of sectors as a float64. */
const SEED_WORD = 0;
const WRITES_WORD = 1;
const BASELINE_WORD = 2;
const SECTORS_FLOAT = 2;
const HEADER_BYTES = 64;

const STEP = 0x9E3779B1;

/** Result of a check: the sector holds what it must. */
export const MATCHES = 0;
/** Result of a check: the sector holds something else. */
export const DIFFERS = 1;
/** Result of a check: the model does not know what the sector holds (and has remembered what it saw). */
const UNCHECKED = 2;

/** A sector with wrong contents. */
export interface Miscompare {
  /** Its number, in 512-byte sectors. */
  readonly sector: number;
  /** In words: `write 17`, `zeroes`. */
  readonly expected: string;
  /** What was read instead, in words. */
  readonly got: string;
}

/** The model of one disk; each thread makes its own over the shared buffer. */
export class DiskModel {
  /** Size in 512-byte sectors. */
  readonly sectors: number;
  readonly #seed: number;
  readonly #header: Int32Array;
  readonly #writes: Uint32Array;
  /** Hashes of sectors that no load wrote, as first read; 0: not read yet. Absent: such sectors are zeroes. */
  readonly #hashes: Uint32Array | undefined;

  /** A view of a model that {@linkcode DiskModel.create} made. */
  constructor(readonly buffer: SharedArrayBuffer) {
    this.#header = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    this.sectors = new Float64Array(buffer, 0, HEADER_BYTES / 8)[SECTORS_FLOAT]!;
    this.#seed = this.#header[SEED_WORD]!;
    this.#writes = new Uint32Array(buffer, HEADER_BYTES, this.sectors);
    if (this.#header[BASELINE_WORD] !== 0) {
      this.#hashes = new Uint32Array(buffer, HEADER_BYTES + 4 * this.sectors, this.sectors);
    }
  }

  /** Makes the model of a disk that no load has written yet. Takes 4 bytes per sector, 8 if it may hold anything. */
  static create(sectors: number, seed: number, baseline: Baseline): DiskModel {
    const wordsPerSector = baseline === "anything" ? 2 : 1;
    const buffer = new SharedArrayBuffer(HEADER_BYTES + 4 * wordsPerSector * sectors);
    const header = new Int32Array(buffer, 0, HEADER_BYTES / 4);
    header[SEED_WORD] = seed;
    header[BASELINE_WORD] = baseline === "anything" ? 1 : 0;
    new Float64Array(buffer, 0, HEADER_BYTES / 8)[SECTORS_FLOAT] = sectors;
    return new DiskModel(buffer);
  }

  /** The model of the same disk once it has become larger: of what was added, it expects what it expects of a new disk. */
  grown(sectors: number): DiskModel {
    const grown = DiskModel.create(sectors, this.#seed, this.#hashes === undefined ? "zeroes" : "anything");
    Atomics.store(grown.#header, WRITES_WORD, Atomics.load(this.#header, WRITES_WORD));
    grown.#writes.set(this.#writes);
    if (this.#hashes !== undefined) grown.#hashes?.set(this.#hashes);
    return grown;
  }

  /** The number of the next write, below 2^31; unique across threads. */
  takeWrite(): number {
    return (Atomics.add(this.#header, WRITES_WORD, 1) + 1) >>> 0;
  }

  /** A write starts: until {@linkcode written} the sectors may hold anything. */
  writing(sector: number, count: number): void {
    for (let i = sector; i < sector + count; i++) this.#writes[i] = UNKNOWN;
  }

  /** The write succeeded: the sectors hold its data. */
  written(sector: number, count: number, write: number): void {
    for (let i = sector; i < sector + count; i++) this.#writes[i] = write;
  }

  /** A discard starts: whether it succeeds or fails, each sector then holds zeroes or what it held before. */
  discarding(sector: number, count: number): void {
    for (let i = sector; i < sector + count; i++) this.#writes[i]! |= DISCARDED;
  }

  /** Fills one sector at `words[at]` with the data that write number `write` has for it. */
  fill(words: Uint32Array, at: number, sector: number, write: number): void {
    let x = this.#start(sector, write);
    words[at] = sector;
    words[at + 1] = write;
    for (let i = at + 2; i < at + SECTOR_WORDS; i++) {
      x = (x + STEP) | 0;
      words[i] = x;
    }
  }

  /** Compares one sector at `words[at]` with what it must hold: MATCHES, DIFFERS or UNCHECKED. */
  check(words: Uint32Array, at: number, sector: number): number {
    let write = this.#writes[sector]!;
    if (write === UNKNOWN) return UNCHECKED;
    if (write >= DISCARDED) {
      if (isZero(words, at)) return MATCHES;
      write -= DISCARDED;
    }
    if (write === NEVER) return this.#checkBaseline(words, at, sector);
    return this.#isWrite(words, at, sector, write) ? MATCHES : DIFFERS;
  }

  /**
   * Makes the sector's present bytes the expected ones, before the image is served. Throws TypeError if the model
   * expects zeroes.
   */
  remember(words: Uint32Array, at: number, sector: number): void {
    if (this.#hashes === undefined) throw new TypeError("the model expects zeroes and remembers nothing");
    this.#hashes[sector] = hashOf(words, at);
  }

  /** What a differing sector should hold and what it does hold, in words. */
  describe(words: Uint32Array, at: number, sector: number): Miscompare {
    const noted = this.#writes[sector]!;
    const write = noted >= DISCARDED ? noted - DISCARDED : noted;
    const discarded = noted === write ? "" : "zeroes by a discard, or ";
    const expected = write !== NEVER
      ? `write ${write}`
      : this.#hashes === undefined
      ? "zeroes"
      : "the same bytes as when it was first read";
    return { sector, expected: discarded + expected, got: this.#recognise(words, at, sector, write) };
  }

  #recognise(words: Uint32Array, at: number, sector: number, write: number): string {
    const [saysSector, saysWrite] = [words[at]!, words[at + 1]!];
    if (words.subarray(at, at + SECTOR_WORDS).every((word) => word === 0)) return "zeroes";
    if (this.#isWrite(words, at, saysSector, saysWrite)) {
      const place = saysSector === sector >>> 0 ? "" : ` of sector ${saysSector}`;
      return `write ${saysWrite}${place}`;
    }
    if (write === NEVER) return "other bytes";
    const expected = new Uint32Array(SECTOR_WORDS);
    this.fill(expected, 0, sector, write);
    const wrong = expected.findIndex((word, i) => word !== words[at + i]);
    const hex = (word: number): string => word.toString(16).padStart(8, "0");
    return `${hex(words[at + wrong]!)} in place of ${hex(expected[wrong]!)} at byte ${4 * wrong}`;
  }

  #isWrite(words: Uint32Array, at: number, sector: number, write: number): boolean {
    let x = this.#start(sector, write);
    let difference = (words[at]! ^ sector) | (words[at + 1]! ^ write);
    for (let i = at + 2; i < at + SECTOR_WORDS; i++) {
      x = (x + STEP) | 0;
      difference |= words[i]! ^ x;
    }
    return difference === 0;
  }

  #checkBaseline(words: Uint32Array, at: number, sector: number): number {
    if (this.#hashes === undefined) return isZero(words, at) ? MATCHES : DIFFERS;
    const hash = hashOf(words, at);
    if (this.#hashes[sector] === 0) {
      this.#hashes[sector] = hash;
      return UNCHECKED;
    }
    return this.#hashes[sector] === hash ? MATCHES : DIFFERS;
  }

  /** First term of the arithmetic series that fills the sector. */
  #start(sector: number, write: number): number {
    let x = Math.imul(sector ^ this.#seed, 0x85EBCA6B);
    x = Math.imul(x ^ (x >>> 15) ^ write, 0xC2B2AE35);
    return x ^ (x >>> 13);
  }
}

function isZero(words: Uint32Array, at: number): boolean {
  let bits = 0;
  for (let i = at; i < at + SECTOR_WORDS; i++) bits |= words[i]!;
  return bits === 0;
}

/** A hash of a sector's bytes; never 0. */
function hashOf(words: Uint32Array, at: number): number {
  let hash = 0x811C9DC5;
  for (let i = at; i < at + SECTOR_WORDS; i++) {
    hash = Math.imul(hash ^ words[i]!, 0x01000193);
    hash ^= hash >>> 15;
  }
  return (hash >>> 0) || 1;
}
