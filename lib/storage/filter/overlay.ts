/**
 * What a guest has changed of a disk whose image is only read: blocks of 4 KiB in memory, and for each the sectors of it
 * that are there; and a bit for each block of the disk that was discarded, which reads as zeroes. It is in shared memory,
 * so that it stays when another thread serves the disk, but only one thread at a time may use it.
 */

import { SECTOR_BYTES } from "../../units.ts";

/** Bytes of a block. */
export const BLOCK_BYTES = 4096;
const SECTORS_PER_BLOCK = BLOCK_BYTES / SECTOR_BYTES;
const WHOLE = 2 ** SECTORS_PER_BLOCK - 1;

/** An overlay as threads share it. */
export interface OverlayMemory {
  /** The blocks' data, by slot. */
  readonly data: SharedArrayBuffer;
  /** By slot: the block's number, the sectors that are there, and the next slot (plus one) of its bucket or free list. */
  readonly blocks: SharedArrayBuffer;
  readonly masks: SharedArrayBuffer;
  readonly next: SharedArrayBuffer;
  /** By hash of the block's number: the first slot (plus one). */
  readonly heads: SharedArrayBuffer;
  /** One bit for each block of the disk. */
  readonly zeroed: SharedArrayBuffer;
  /** What the hash multiplies with: two odd numbers that a guest cannot know, so it cannot choose blocks of one bucket. */
  readonly multipliers: readonly [number, number];
  /** The first free slot (plus one) that was used before; the slots that were ever used; those in use. */
  readonly counts: SharedArrayBuffer;
}

const FREE = 0;
const EVER = 1;
const USED = 2;

/** An empty overlay. `dataBytes`: most bytes of data. Throws RangeError if there is not so much address space. */
export function createOverlay(dataBytes: number, diskSectors: number): OverlayMemory {
  const slots = Math.floor(dataBytes / BLOCK_BYTES);
  const buckets = 2 ** Math.max(1, Math.ceil(Math.log2(slots)));
  const [low, high] = crypto.getRandomValues(new Int32Array(2));
  const diskBlocks = Math.ceil(diskSectors / SECTORS_PER_BLOCK);
  return {
    data: new SharedArrayBuffer(slots * BLOCK_BYTES),
    blocks: new SharedArrayBuffer(slots * Float64Array.BYTES_PER_ELEMENT),
    masks: new SharedArrayBuffer(slots),
    next: new SharedArrayBuffer(slots * Int32Array.BYTES_PER_ELEMENT),
    heads: new SharedArrayBuffer(buckets * Int32Array.BYTES_PER_ELEMENT),
    zeroed: new SharedArrayBuffer(Math.ceil(diskBlocks / 8)),
    multipliers: [low! | 1, high! | 1],
    counts: new SharedArrayBuffer(3 * Int32Array.BYTES_PER_ELEMENT),
  };
}

/** A thread's access to an overlay. Ranges are whole sectors. It allocates nothing once each slot was used. */
export class Overlay {
  readonly #data: Uint8Array;
  readonly #blocks: Float64Array;
  readonly #masks: Uint8Array;
  readonly #next: Int32Array;
  readonly #heads: Int32Array;
  readonly #zeroed: Uint8Array;
  readonly #counts: Int32Array;
  readonly #low: number;
  readonly #high: number;
  /** 32 less the logarithm of the number of buckets. */
  readonly #shift: number;
  /** Views of slots, made when they are first read whole. */
  readonly #views: (Uint8Array | undefined)[] = [];

  constructor({ data, blocks, masks, next, heads, zeroed, multipliers, counts }: OverlayMemory) {
    this.#data = new Uint8Array(data);
    this.#blocks = new Float64Array(blocks);
    this.#masks = new Uint8Array(masks);
    this.#next = new Int32Array(next);
    this.#heads = new Int32Array(heads);
    this.#zeroed = new Uint8Array(zeroed);
    this.#counts = new Int32Array(counts);
    [this.#low, this.#high] = multipliers;
    this.#shift = 1 + Math.clz32(this.#heads.length);
  }

  /** Blocks that have no slot yet. */
  get freeSlots(): number {
    return this.#masks.length - this.#counts[USED]!;
  }

  /** Whether the block has a slot. */
  has(block: number): boolean {
    return this.#slotOf(block) >= 0;
  }

  /** Sectors of the range, which is within one block, that the overlay has: none, some or all. */
  covers(offsetBytes: number, lengthBytes: number): "none" | "some" | "all" {
    const block = Math.floor(offsetBytes / BLOCK_BYTES);
    if (this.#isZeroed(block)) return "all";
    const slot = this.#slotOf(block);
    if (slot < 0) return "none";
    const wanted = sectorsOf(offsetBytes, lengthBytes);
    const there = this.#masks[slot]! & wanted;
    return there === 0 ? "none" : there === wanted ? "all" : "some";
  }

  /** Stores a range within one block. There must be a slot for it. */
  write(offsetBytes: number, bytes: Uint8Array): void {
    const block = Math.floor(offsetBytes / BLOCK_BYTES);
    let slot = this.#slotOf(block);
    if (slot < 0) slot = this.#add(block);
    this.#data.set(bytes, slot * BLOCK_BYTES + offsetBytes % BLOCK_BYTES);
    this.#masks[slot]! |= sectorsOf(offsetBytes, bytes.length);
  }

  /** Puts what the overlay has of a range within one block over these bytes. */
  read(offsetBytes: number, bytes: Uint8Array): void {
    const block = Math.floor(offsetBytes / BLOCK_BYTES);
    if (this.#isZeroed(block)) return void bytes.fill(0);
    const slot = this.#slotOf(block);
    if (slot < 0) return;
    const mask = this.#masks[slot]!;
    if (bytes.length === BLOCK_BYTES && mask === WHOLE) return bytes.set(this.#viewOf(slot));
    const inBlock = offsetBytes % BLOCK_BYTES;
    for (let at = 0; at < bytes.length; at += SECTOR_BYTES) {
      if ((mask & (1 << ((inBlock + at) / SECTOR_BYTES))) === 0) continue;
      const from = slot * BLOCK_BYTES + inBlock;
      for (let i = at; i < at + SECTOR_BYTES; i++) bytes[i] = this.#data[from + i]!;
    }
  }

  /** Makes whole blocks zeroes, from `first` to before `end`, and frees their slots. */
  discard(first: number, end: number): void {
    const known = Math.min(end, 8 * this.#zeroed.length);
    for (let block = first; block < end && this.#counts[USED]! > 0; block++) this.#remove(block);
    for (let block = first; block < known;) {
      if (block % 8 === 0 && block + 8 <= known) {
        this.#zeroed[block / 8] = 0xff;
        block += 8;
      } else {
        this.#zeroed[Math.floor(block / 8)]! |= 1 << block % 8;
        block++;
      }
    }
  }

  #isZeroed(block: number): boolean {
    return ((this.#zeroed[Math.floor(block / 8)] ?? 0) & (1 << block % 8)) !== 0;
  }

  /** Multiply-shift hashing (Dietzfelbinger and others, 1997) of both words. */
  #bucketOf(block: number): number {
    return (Math.imul(block, this.#low) + Math.imul(block / 2 ** 32, this.#high)) >>> this.#shift;
  }

  #slotOf(block: number): number {
    let slot = this.#heads[this.#bucketOf(block)]! - 1;
    while (slot >= 0 && this.#blocks[slot] !== block) slot = this.#next[slot]! - 1;
    return slot;
  }

  #add(block: number): number {
    const counts = this.#counts;
    let slot = counts[FREE]! - 1;
    if (slot >= 0) counts[FREE] = this.#next[slot]!;
    else slot = counts[EVER]!++;
    counts[USED]!++;
    const bucket = this.#bucketOf(block);
    this.#blocks[slot] = block;
    this.#next[slot] = this.#heads[bucket]!;
    this.#heads[bucket] = slot + 1;
    this.#masks[slot] = 0;
    if (this.#isZeroed(block)) {
      this.#zeroed[Math.floor(block / 8)]! &= ~(1 << block % 8);
      this.#data.fill(0, slot * BLOCK_BYTES, (slot + 1) * BLOCK_BYTES);
      this.#masks[slot] = WHOLE;
    }
    return slot;
  }

  #remove(block: number): void {
    const bucket = this.#bucketOf(block);
    let before = -1;
    let slot = this.#heads[bucket]! - 1;
    while (slot >= 0 && this.#blocks[slot] !== block) {
      before = slot;
      slot = this.#next[slot]! - 1;
    }
    if (slot < 0) return;
    if (before < 0) this.#heads[bucket] = this.#next[slot]!;
    else this.#next[before] = this.#next[slot]!;
    this.#next[slot] = this.#counts[FREE]!;
    this.#counts[FREE] = slot + 1;
    this.#counts[USED]!--;
  }

  #viewOf(slot: number): Uint8Array {
    return this.#views[slot] ??= this.#data.subarray(slot * BLOCK_BYTES, (slot + 1) * BLOCK_BYTES);
  }
}

/** A bit for each sector of a range within one block. */
function sectorsOf(offsetBytes: number, lengthBytes: number): number {
  return (2 ** (lengthBytes / SECTOR_BYTES) - 1) << (offsetBytes % BLOCK_BYTES / SECTOR_BYTES);
}
