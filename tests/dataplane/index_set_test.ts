/**
 * The set of small numbers beside one of the language's own: what was added and not deleted, in order, at any size.
 */

import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { IndexSet } from "../../lib/dataplane/index_set.ts";

/** By `from`, as its users go through it. */
function contents(set: IndexSet, size: number): number[] {
  const found: number[] = [];
  for (let index = set.from(0); index < size; index = set.from(index + 1)) found.push(index);
  return found;
}

Deno.test("a set of small numbers has what was added and not deleted, in order, whatever its size", () => {
  const changes = fc.array(fc.tuple(fc.nat(), fc.boolean()), { maxLength: 60 });
  const sizes = fc.constantFrom(0, 1, 31, 32, 33, 64, 1000, 1024, 1025, 2048, 5000);
  fc.assert(fc.property(fc.array(fc.tuple(sizes, changes), { minLength: 1, maxLength: 4 }), (lives) => {
    const set = new IndexSet();
    for (const [size, changes] of lives) {
      set.reset(size);
      const expected = new Set<number>();
      for (const [number, isAdded] of size === 0 ? [] : changes) {
        const index = number % size;
        if (isAdded) {
          set.add(index);
          expected.add(index);
        } else {
          set.delete(index);
          expected.delete(index);
        }
        assertEquals(set.from(index), [...expected].reduce((least, n) => n >= index && n < least ? n : least, size));
      }
      assertEquals(contents(set, size), [...expected].sort((one, other) => one - other));
      assertEquals([set.from(size), set.from(size + 100)], [size, size]);
    }
  }));
});

Deno.test("a set of small numbers may be full", () => {
  const set = new IndexSet();
  for (const size of [1, 32, 1024, 3000]) {
    set.reset(size);
    for (let index = 0; index < size; index++) set.add(index);
    assertEquals(contents(set, size).length, size);
    for (let index = 0; index < size; index++) if (index % 500 !== 7) set.delete(index);
    assertEquals(contents(set, size).every((index) => index % 500 === 7), true);
  }
});
