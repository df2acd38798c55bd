/**
 * Private pages that the requests of one ring share, so that memory is bounded by what is in flight and not by the
 * largest request times the ring's slots. The lowest free pages are taken first, so that pages which no load ever needs
 * are never touched.
 */

import type { Memory, MemorySpace, OwnedMemory } from "../../hypervisor.ts";
import { type IoVectors, MOST_BUFFER_BYTES } from "../../storage/disk.ts";
import { PAGE_BYTES, pagesOf } from "../../units.ts";

/** The most pages that the requests of one ring may occupy at a time. */
export const MOST_PAGES_PER_RING: number = MOST_BUFFER_BYTES / PAGE_BYTES;

const FREE = 0;
const TAKEN = 1;

/** A pool of pages. Nothing is allocated after construction. */
export class PagePool implements Disposable {
  readonly #memory: OwnedMemory;
  readonly #state: Uint8Array;
  #freePages: number;
  /** No page below this one is free. */
  #lowest = 0;
  /** No page from this one on was taken since the last {@linkcode discard}. */
  #touched = 0;

  /** Throws RangeError when there is no memory left. */
  constructor(memory: MemorySpace, pages: number) {
    this.#memory = memory.allocate(pages * PAGE_BYTES);
    this.#state = new Uint8Array(pages);
    this.#freePages = pages;
  }

  /** All pages. */
  get memory(): Memory {
    return this.#memory;
  }

  get freePages(): number {
    return this.#freePages;
  }

  /** Pages that may have memory behind them. */
  get touchedPages(): number {
    return this.#touched;
  }

  /** Gives the memory behind all pages back; nobody must use what they hold. They are as free or taken as they were. */
  discard(): void {
    this.#memory.discard?.();
    this.#touched = 0;
  }

  /** Takes adjacent pages, at the lowest place where they fit, and returns their address; -1 if no free range fits. */
  take(pages: number): number {
    if (pages > this.#freePages) return -1;
    const page = this.#findRange(pages);
    if (page < 0) return -1;
    this.#mark(page, pages, TAKEN);
    if (page === this.#lowest) this.#lowest = page + pages;
    return this.#memory.address + page * PAGE_BYTES;
  }

  /**
   * Takes pages for `lengthBytes` in as many ranges as necessary, and describes each range in `vectors`, from entry
   * `first` on. Returns how many entries it used, at most one per page; 0 if there are not enough pages.
   */
  takeScattered(lengthBytes: number, vectors: IoVectors, first: number): number {
    if (pagesOf(lengthBytes) > this.#freePages) return 0;
    const state = this.#state;
    let entries = 0;
    let page = this.#lowest;
    for (let leftBytes = lengthBytes; leftBytes > 0; entries++) {
      while (state[page] !== FREE) page++;
      const begin = page;
      const wanted = begin + pagesOf(leftBytes);
      while (page < wanted && state[page] === FREE) page++;
      this.#mark(begin, page - begin, TAKEN);
      vectors.addresses[first + entries] = this.#memory.address + begin * PAGE_BYTES;
      vectors.lengths[first + entries] = Math.min(leftBytes, (page - begin) * PAGE_BYTES);
      leftBytes -= vectors.lengths[first + entries]!;
    }
    this.#lowest = page;
    return entries;
  }

  /** Returns adjacent pages to the pool. */
  give(address: number, pages: number): void {
    const page = (address - this.#memory.address) / PAGE_BYTES;
    this.#mark(page, pages, FREE);
    if (page < this.#lowest) this.#lowest = page;
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }

  /** The first of `count` adjacent free pages, or -1. */
  #findRange(count: number): number {
    const state = this.#state;
    const pages = state.length;
    let page = this.#lowest;
    while (page < pages && state[page] !== FREE) page++;
    this.#lowest = page;
    for (let run = 0; page < pages; page++) {
      run = state[page] === FREE ? run + 1 : 0;
      if (run === count) return page - count + 1;
    }
    return -1;
  }

  #mark(page: number, count: number, state: number): void {
    this.#state.fill(state, page, page + count);
    if (state === TAKEN && page + count > this.#touched) this.#touched = page + count;
    this.#freePages += state === FREE ? count : -count;
  }
}
