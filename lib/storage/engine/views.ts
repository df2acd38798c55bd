/**
 * Turns the addresses of an operation into byte views. Views are cached, because making one from an address costs about
 * 1 µs, more than a short transfer, and work for the garbage collector.
 *
 * A view owns no memory: it shows whatever is mapped at its address when it is used. So a cached view stays valid when
 * its page is unmapped and another page is mapped at the same address. It is used only for operations that name the
 * address, and while such an operation is in flight something is mapped there.
 */

import { PAGE_BYTES } from "../../units.ts";
import { type Memory, type MemorySpace } from "../../hypervisor.ts";

/** Cached views of a channel's buffers; a power of two. Each address and length has one place in the cache. */
const KEPT_VIEWS = 512;
/** Cached views of other pages; a power of two. Each page number has one place in the cache. */
const KEPT_PAGES = 2048;
/** Buffers are divided at sectors, so the low bits of an offset are always 0. */
const SECTOR_SHIFT = 9;

/**
 * The thread's views of pages. All channels share them, because pages of many guests are mapped at the same addresses.
 */
const pageViews = new WeakMap<MemorySpace, PageViews>();

/** Views of whole pages by the numbers of the pages. */
class PageViews {
  readonly #memory: MemorySpace;
  readonly #views = new Array<Uint8Array | undefined>(KEPT_PAGES).fill(undefined);
  readonly #numbers = new Float64Array(KEPT_PAGES);

  private constructor(memory: MemorySpace) {
    this.#memory = memory;
  }

  static of(memory: MemorySpace): PageViews {
    let views = pageViews.get(memory);
    if (views === undefined) pageViews.set(memory, views = new PageViews(memory));
    return views;
  }

  view(number: number): Uint8Array {
    const place = number % KEPT_PAGES;
    const kept = this.#views[place];
    if (kept !== undefined && this.#numbers[place] === number) return kept;
    this.#numbers[place] = number;
    return this.#views[place] = this.#memory.view(number * PAGE_BYTES, PAGE_BYTES);
  }
}

/** The views of one channel. */
export class MemoryViews {
  readonly #memory: MemorySpace;
  readonly #address: number;
  readonly #end: number;
  readonly #base: Uint8Array;
  readonly #kept: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(KEPT_VIEWS).fill(undefined);
  readonly #pages: PageViews;

  /** `buffers` must live as long as this object. */
  constructor(memory: MemorySpace, buffers: Memory | undefined) {
    this.#memory = memory;
    this.#pages = PageViews.of(memory);
    this.#address = buffers?.address ?? 0;
    this.#base = buffers?.view ?? new Uint8Array(0);
    this.#end = this.#address + this.#base.byteLength;
  }

  /**
   * The bytes at an address. Use the view at once, and do not keep it. Throws what {@linkcode MemorySpace.view} throws.
   */
  view(address: number, lengthBytes: number): Uint8Array {
    if (address < this.#address || address + lengthBytes > this.#end) return this.#viewElsewhere(address, lengthBytes);
    const offset = address - this.#address;
    const place = ((offset >>> SECTOR_SHIFT) + 31 * (lengthBytes >>> SECTOR_SHIFT)) & (KEPT_VIEWS - 1);
    const kept = this.#kept[place];
    if (kept?.byteLength === lengthBytes && kept.byteOffset - this.#base.byteOffset === offset) return kept;
    return this.#kept[place] = this.#base.subarray(offset, offset + lengthBytes);
  }

  /** Bytes outside the buffers. Only views of single pages are cached. */
  #viewElsewhere(address: number, lengthBytes: number): Uint8Array {
    const offset = address % PAGE_BYTES;
    if (offset + lengthBytes > PAGE_BYTES) return this.#memory.view(address, lengthBytes);
    const page = this.#pages.view((address - offset) / PAGE_BYTES);
    return lengthBytes === PAGE_BYTES ? page : page.subarray(offset, offset + lengthBytes);
  }
}
