/**
 * The cache of mapped grants against a simple model (a Map, and a list in order of use), under random operations with
 * few and colliding references.
 */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { GrantCache, NO_ENTRY } from "../../lib/dataplane/grants/cache.ts";

/** A reference in the model. */
interface Kept {
  readonly entry: number;
  readonly address: number;
  pins: number;
  idleSince: number;
}

/** The cache as a Map, with the idle entries in a list. */
class Model {
  readonly byGref = new Map<number, Kept>();
  /** References of idle entries, the one that was used longest ago first. */
  idle: number[] = [];
  time = 0;

  unpin(gref: number): void {
    const kept = this.byGref.get(gref)!;
    if (--kept.pins > 0) return;
    kept.idleSince = this.time;
    this.idle.push(gref);
  }

  pin(gref: number): void {
    if (this.byGref.get(gref)!.pins++ === 0) this.#forgetIdle(gref);
  }

  remove(gref: number): void {
    this.byGref.delete(gref);
    this.#forgetIdle(gref);
  }

  #forgetIdle(gref: number): void {
    this.idle = this.idle.filter((idle) => idle !== gref);
  }
}

type Step = readonly [action: "use" | "done" | "remove" | "drop-oldest" | "tick", gref: number];

function perform(cache: GrantCache, model: Model, [action, gref]: Step): void {
  const kept = model.byGref.get(gref);
  if (action === "tick") {
    cache.tick();
    model.time++;
  } else if (action === "drop-oldest") {
    if (cache.oldest === NO_ENTRY) return;
    cache.remove(cache.oldest);
    model.remove(model.idle[0]!);
  } else if (action === "use" && kept === undefined) {
    if (cache.size === cache.capacity) return;
    const address = (gref + 1) * 4096;
    model.byGref.set(gref, { entry: cache.insert(gref, address), address, pins: 1, idleSince: -1 });
  } else if (kept === undefined) {
    return;
  } else if (action === "use") {
    cache.pin(kept.entry);
    model.pin(gref);
  } else if (action === "done" && kept.pins > 0) {
    cache.unpin(kept.entry);
    model.unpin(gref);
  } else if (action === "remove") {
    cache.remove(kept.entry);
    model.remove(gref);
  }
}

function assertSame(cache: GrantCache, model: Model, grefs: readonly number[]): void {
  assertEquals(cache.size, model.byGref.size);
  for (const gref of grefs) {
    const kept = model.byGref.get(gref);
    assertEquals(cache.find(gref), kept?.entry ?? NO_ENTRY);
    if (kept === undefined) continue;
    assertEquals(cache.address(kept.entry), kept.address);
    if (kept.pins === 0) assertEquals(cache.isStale(kept.entry), kept.idleSince !== model.time);
  }
  assertEquals(cache.oldest, model.idle.length === 0 ? NO_ENTRY : model.byGref.get(model.idle[0]!)!.entry);
}

/** The inverse of the hash's factor: it makes references that belong at the first or last place of the table. */
const UNSPREAD = 0xE8B2F51;
const COLLIDING = [0, 1, 2, 3, 4, 5, -1, -2, -3, -4].map((hash) => Math.imul(hash, UNSPREAD) >>> 0);
const GREFS = [...COLLIDING, 1, 2, 3, 8, 9, 10, 0xFFFFFFFF, 0x80000000];

Deno.test("the cache behaves like a Map and a list in order of use", () => {
  const step = fc.tuple(
    fc.constantFrom("use", "use", "use", "done", "done", "remove", "drop-oldest", "tick"),
    fc.constantFrom(...GREFS),
  ) as fc.Arbitrary<Step>;
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 9 }), fc.array(step, { maxLength: 120 }), (capacity, steps) => {
      const cache = new GrantCache(capacity);
      const model = new Model();
      for (const each of steps) {
        perform(cache, model, each);
        assertSame(cache, model, GREFS);
      }
    }),
    { numRuns: 300 },
  );
});

Deno.test("a full cache of any size finds every grant, and grants can be removed in any order", () => {
  for (const capacity of [1, 2, 3, 64, 1056, 4096]) {
    const cache = new GrantCache(capacity);
    const grefs = Array.from({ length: capacity }, (_, i) => Math.imul(i, 2654435761) >>> 0);
    for (const gref of grefs) cache.unpin(cache.insert(gref, gref * 4096 + 4096));
    assertThrows(() => cache.insert(7, 4096), RangeError, String(capacity));
    for (const gref of grefs) assertEquals(cache.address(cache.find(gref)), gref * 4096 + 4096);
    for (const [i, gref] of grefs.entries()) if (i % 3 !== 1) cache.remove(cache.find(gref));
    for (const [i, gref] of grefs.entries()) assertEquals(cache.find(gref) === NO_ENTRY, i % 3 !== 1);
    while (cache.oldest !== NO_ENTRY) cache.remove(cache.oldest);
    assertEquals(cache.size, 0);
  }
});
