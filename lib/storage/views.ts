/**
 * Turns the addresses of an operation into bytes. Views of a channel's own buffers are made once and kept, because
 * making one costs more than a short transfer; any other address gets a view for one use, since what is mapped there
 * may change. It must not know what the bytes are for.
 */

import type { Memory, MemorySpace } from "../hypervisor.ts";

/** Views that are kept; a power of two. Each address and length has one place, where the latest wins. */
const KEPT_VIEWS = 512;
/** Buffers are cut at sectors, so the low bits of an offset say nothing. */
const SECTOR_SHIFT = 9;

/** The views of one channel, in one thread. */
export class MemoryViews {
  readonly #memory: MemorySpace;
  readonly #address: number;
  readonly #end: number;
  readonly #base: Uint8Array;
  readonly #kept: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(KEPT_VIEWS).fill(undefined);

  /** `buffers` must live as long as this object is used. */
  constructor(memory: MemorySpace, buffers: Memory | undefined) {
    this.#memory = memory;
    this.#address = buffers?.address ?? 0;
    this.#base = buffers?.view ?? new Uint8Array(0);
    this.#end = this.#address + this.#base.byteLength;
  }

  /** The bytes at an address; to be used at once and not kept. Throws what {@linkcode MemorySpace.view} throws. */
  view(address: number, lengthBytes: number): Uint8Array {
    if (address < this.#address || address + lengthBytes > this.#end) return this.#memory.view(address, lengthBytes);
    const offset = address - this.#address;
    const place = ((offset >>> SECTOR_SHIFT) + 31 * (lengthBytes >>> SECTOR_SHIFT)) & (KEPT_VIEWS - 1);
    const kept = this.#kept[place];
    if (kept?.byteLength === lengthBytes && kept.byteOffset - this.#base.byteOffset === offset) return kept;
    return this.#kept[place] = this.#base.subarray(offset, offset + lengthBytes);
  }
}
