/**
 * The pool of pages: no page is taken twice, all pages can be taken, and returned pages can be taken again, in any
 * order and of any size.
 */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { PagePool } from "../../lib/dataplane/grants/page_pool.ts";
import type { MemorySpace } from "../../lib/hypervisor.ts";
import { pagesOf } from "../../lib/units.ts";

const PAGES = 40;
const BASE = 1 << 20;

/** Addresses without memory behind them. */
const NOWHERE: MemorySpace = {
  allocate: () => ({ address: BASE, view: new Uint8Array(0), [Symbol.dispose]: () => {} }),
  view: () => new Uint8Array(0),
};

/** What was taken: the numbers of the pages, and the ranges to return. */
interface Taken {
  readonly pages: readonly number[];
  readonly ranges: readonly (readonly [address: number, pages: number])[];
}

function pagesIn(address: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (address - BASE) / 4096 + i);
}

function takeScattered(pool: PagePool, lengthBytes: number): Taken | undefined {
  const vectors = { addresses: new Float64Array(PAGES), lengths: new Uint32Array(PAGES) };
  const entries = pool.takeScattered(lengthBytes, vectors, 0);
  if (entries === 0) return undefined;
  const ranges = Array.from({ length: entries }, (_, i) => [vectors.addresses[i]!, vectors.lengths[i]!] as const);
  assertEquals(ranges.reduce((sum, [, length]) => sum + length, 0), lengthBytes);
  for (const [, length] of ranges.slice(0, -1)) assertEquals(length % 4096, 0, "only the last page is not full");
  return {
    pages: ranges.flatMap(([address, length]) => pagesIn(address, pagesOf(length))),
    ranges: ranges.map(([address, length]) => [address, pagesOf(length)] as const),
  };
}

Deno.test("whatever is taken and returned, no page is taken twice and none is lost", () => {
  const step = fc.record({
    act: fc.constantFrom("take", "scatter", "give"),
    bytes: fc.integer({ min: 1, max: 16 * 4096 }),
    which: fc.nat(),
  });
  fc.assert(fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
    using pool = new PagePool(NOWHERE, PAGES);
    const held: Taken[] = [];
    for (const { act, bytes, which } of steps) {
      const count = pagesOf(bytes);
      const before = held.flatMap(({ pages }) => pages);
      if (act === "give") {
        const [taken] = held.splice(which % Math.max(1, held.length), 1);
        for (const [address, pages] of taken?.ranges ?? []) pool.give(address, pages);
      } else if (act === "take") {
        const address = pool.take(count);
        const free = Array.from({ length: PAGES }, (_, page) => !before.includes(page));
        const fits = free.some((_, page) => free.slice(page, page + count).filter(Boolean).length === count);
        assertEquals(address >= 0, fits, "a range is found if and only if there is one");
        if (address >= 0) held.push({ pages: pagesIn(address, count), ranges: [[address, count]] });
      } else {
        const taken = takeScattered(pool, bytes);
        assertEquals(taken !== undefined, count <= PAGES - before.length);
        if (taken !== undefined) held.push(taken);
      }
      const pages = held.flatMap(({ pages }) => pages);
      assertEquals(new Set(pages).size, pages.length, "a page was taken twice");
      assert(pages.every((page) => page >= 0 && page < PAGES));
      assertEquals(pool.freePages, PAGES - pages.length);
    }
  }));
});

Deno.test("the lowest free pages are taken first", () => {
  using pool = new PagePool(NOWHERE, PAGES);
  const first = pool.take(3);
  const second = pool.take(2);
  pool.give(first, 3);
  assertEquals([first, second, pool.take(2), pool.take(2)], [BASE, BASE + 3 * 4096, BASE, BASE + 5 * 4096]);
});
