/**
 * Turns the addresses of an operation into bytes. Views are kept, because making one from an address costs more than a
 * short transfer (about 1 µs, and work for the garbage collector). It must not know what the bytes are for.
 *
 * A view is no more than its address: it owns nothing, and shows whatever is mapped there when it is used. So the view
 * of a page may be kept across the page's unmapping, and is right again when another page is mapped there, as long as
 * nobody touches it in between; and it is only touched for an operation that names the address, which then is mapped.
 */

import { PAGE_BYTES } from "../../units.ts";
import { type Memory, type MemorySpace } from "../../hypervisor.ts";

/** Views that are kept; a power of two. Each address and length has one place, where the latest wins. */
const KEPT_VIEWS = 512;
/** Pages outside the channel's buffers whose views are kept; a power of two. Each page number has one place. */
const KEPT_PAGES = 2048;
/** Buffers are cut at sectors, so the low bits of an offset say nothing. */
const SECTOR_SHIFT = 9;

/** The pages of a thread's memory; all channels share them, since the guests' pages often take each other's places. */
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

/** The views of one channel, in one thread. */
export class MemoryViews {
  readonly #memory: MemorySpace;
  readonly #address: number;
  readonly #end: number;
  readonly #base: Uint8Array;
  readonly #kept: (Uint8Array | undefined)[] = new Array<Uint8Array | undefined>(KEPT_VIEWS).fill(undefined);
  readonly #pages: PageViews;

  /** `buffers` must live as long as this object is used. */
  constructor(memory: MemorySpace, buffers: Memory | undefined) {
    this.#memory = memory;
    this.#pages = PageViews.of(memory);
    this.#address = buffers?.address ?? 0;
    this.#base = buffers?.view ?? new Uint8Array(0);
    this.#end = this.#address + this.#base.byteLength;
  }

  /** The bytes at an address; to be used at once and not kept. Throws what {@linkcode MemorySpace.view} throws. */
  view(address: number, lengthBytes: number): Uint8Array {
    if (address < this.#address || address + lengthBytes > this.#end) return this.#viewElsewhere(address, lengthBytes);
    const offset = address - this.#address;
    const place = ((offset >>> SECTOR_SHIFT) + 31 * (lengthBytes >>> SECTOR_SHIFT)) & (KEPT_VIEWS - 1);
    const kept = this.#kept[place];
    if (kept?.byteLength === lengthBytes && kept.byteOffset - this.#base.byteOffset === offset) return kept;
    return this.#kept[place] = this.#base.subarray(offset, offset + lengthBytes);
  }

  /** Bytes of one page; what spans several gets a view for one use. */
  #viewElsewhere(address: number, lengthBytes: number): Uint8Array {
    const offset = address % PAGE_BYTES;
    if (offset + lengthBytes > PAGE_BYTES) return this.#memory.view(address, lengthBytes);
    const page = this.#pages.view((address - offset) / PAGE_BYTES);
    return lengthBytes === PAGE_BYTES ? page : page.subarray(offset, offset + lengthBytes);
  }
}
