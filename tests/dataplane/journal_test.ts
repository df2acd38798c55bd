/**
 * The journal against a model of a ring that crashes after any store: recovery returns each request that was taken and
 * not answered exactly once, and nothing else.
 */

import type { Nonce } from "../../lib/nonce.ts";
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { Journal, journalBytes } from "../../lib/dataplane/journal.ts";

const SLOTS = 8;
const NONCE: Nonce = Uint32Array.of(1, 2 ** 32 - 1, 3, 4);

/** Requests to be taken, and entries to be answered if they hold a request. */
interface Step {
  readonly take: number;
  readonly answer: readonly number[];
}

/** The stores of a process: into its journal, and into the rsp_prod of the ring. */
class Life {
  readonly memory = new Uint8Array(journalBytes(SLOTS));
  readonly journal = new Journal(this.memory, SLOTS);
  readonly free = Array.from({ length: SLOTS }, (_, i) => i);
  /** By entry: the index of the request it holds. */
  readonly taken = new Map<number, number>();
  consumed: number;
  published: number;
  /** Stores left until the crash. */
  stores = Infinity;

  constructor(start: number) {
    this.consumed = this.published = start;
    this.journal.begin(NONCE, SLOTS, start);
  }

  /** Entries that hold open requests, the oldest first. */
  get open(): number[] {
    return [...this.taken].sort(([, a], [, b]) => ((a - b) | 0)).map(([entry]) => entry);
  }

  /** Goes on with what `journal` recovered, and takes the free entries in another order. */
  resume(): void {
    assertEquals(this.journal.recover(NONCE, SLOTS, this.published), {
      requestConsumer: this.consumed,
      slots: this.open,
    });
    this.free.splice(0, SLOTS, ...Array.from({ length: SLOTS }, (_, i) => i).filter((entry) => !this.taken.has(entry)));
    this.free.reverse();
    this.stores = Infinity;
  }

  /** Takes and answers as `steps` say, until the crash. */
  run(steps: readonly Step[]): void {
    for (const { take, answer } of steps) {
      this.take(take);
      if (this.stores <= 0) return;
      this.answer([...new Set(answer)].filter((entry) => this.taken.has(entry)));
      if (this.stores <= 0) return;
    }
  }

  /** One store, unless the crash came before it. */
  store(act: () => void): void {
    if (this.stores-- > 0) act();
  }

  take(count: number): void {
    const first = this.consumed;
    const indices: [number, number][] = [];
    for (let i = 0; i < count && this.free.length > 0; i++) {
      const entry = this.free.pop()!;
      const index = (first + i) >>> 0;
      this.store(() => this.journal.taken(entry, index));
      indices.push([entry, index]);
    }
    this.store(() => {
      this.consumed = (first + indices.length) >>> 0;
      this.journal.consumed(this.consumed);
      indices.forEach(([entry, index]) => this.taken.set(entry, index));
    });
  }

  answer(entries: number[]): void {
    const end = (this.published + entries.length) >>> 0;
    this.store(() => this.journal.committing(end));
    entries.forEach((entry, i) => this.store(() => this.journal.answering(entry, (this.published + i) >>> 0)));
    this.store(() => {
      this.published = end; // rsp_prod: the commit point
      entries.forEach((entry) => this.taken.delete(entry));
    });
    this.store(() => this.journal.committed(end));
    this.free.push(...entries);
  }
}

Deno.test("whichever store the process dies before, recovery returns the open requests, the oldest first", () => {
  const step = fc.record({ take: fc.nat(SLOTS), answer: fc.array(fc.nat(SLOTS - 1), { maxLength: SLOTS }) });
  const steps = fc.array(step, { maxLength: 12 });
  const starts = fc.constantFrom(0, 5, 2 ** 31 - 3, 2 ** 32 - 3);
  fc.assert(
    fc.property(starts, fc.array(fc.tuple(steps, fc.nat(60)), { minLength: 1, maxLength: 3 }), (start, lives) => {
      const life = new Life(start);
      for (const [steps, stores] of lives) {
        life.stores = stores;
        life.run(steps);
        life.resume();
        life.resume(); // a second crash before anything was done
        for (const wrong of [-1, 1, SLOTS]) {
          assertEquals(life.journal.recover(NONCE, SLOTS, (life.published + wrong) >>> 0), undefined);
        }
      }
    }),
    { numRuns: 3000 },
  );
});

Deno.test("nothing is recovered from a journal of another connection, ring or version, or with an impossible rsp_prod", () => {
  const life = new Life(100);
  life.take(3);
  assertEquals(life.journal.recover(Uint32Array.of(1, 2, 3, 4), SLOTS, 100), undefined);
  assertEquals(life.journal.recover(NONCE, 2 * SLOTS, 100), undefined);
  assertEquals(new Journal(life.memory.slice(), SLOTS - 1).recover(NONCE, SLOTS, 100), undefined);
  assertEquals(life.journal.recover(NONCE, SLOTS, 99), undefined);
  assertEquals(life.journal.recover(NONCE, SLOTS, 101), undefined);
  assertEquals(new Journal(new Uint8Array(journalBytes(SLOTS)), SLOTS).recover(NONCE, SLOTS, 0), undefined);
  assertEquals(life.journal.recover(NONCE, SLOTS, 100)?.slots.length, 3);
});

Deno.test("an entry that was last used 2^31 requests ago is not recovered", () => {
  const life = new Life(0);
  life.take(2);
  life.answer([...life.taken.keys()]);
  life.consumed = life.published = 2 ** 31 + 1;
  life.journal.committing(life.published);
  life.journal.committed(life.published);
  life.journal.consumed(life.consumed);
  life.take(1);
  assertEquals(life.journal.recover(NONCE, SLOTS, life.published)?.slots, [...life.taken.keys()]);
});

/** Runs `act` until its store number `count`, through Atomics, is due; true if it came to its end before. */
function dyingBefore(count: number, act: () => void): boolean {
  const { store } = Atomics;
  let stores = 0;
  class Killed extends Error {}
  Atomics.store = ((...values: Parameters<typeof store>) => {
    if (stores++ === count) throw new Killed();
    return store(...values);
  }) as typeof store;
  try {
    act();
    return true;
  } catch (error) {
    if (error instanceof Killed) return false;
    throw error;
  } finally {
    Atomics.store = store;
  }
}

Deno.test("a process that dies before any store of a recovery leaves all of it to the next one", () => {
  const start = 2 ** 32 - 3;
  const crashed = (): Life => {
    const life = new Life(start);
    life.take(6);
    life.answer([...life.taken.keys()].slice(2, 4));
    const [first, second] = life.taken.keys();
    life.stores = 3; // announces two responses and puts them, but does not publish them
    life.answer([second!, first!]);
    return life;
  };
  let ended = false;
  for (let count = 0; !ended; count++) {
    const life = crashed();
    ended = dyingBefore(count, () => void life.journal.recover(NONCE, SLOTS, life.published));
    life.resume();
  }
});

Deno.test("a process that dies before any store that begins a journal leaves none, or a whole one", () => {
  let ended = false;
  for (let count = 0; !ended; count++) {
    const life = new Life(7);
    life.take(3);
    const next = Uint32Array.of(9, 9, 9, 9);
    ended = dyingBefore(count, () => life.journal.begin(next, SLOTS, 20));
    const whole = ended ? { requestConsumer: 20, slots: [] } : undefined;
    assertEquals(life.journal.recover(next, SLOTS, 20), whole);
    if (count > 0) assertEquals(life.journal.recover(NONCE, SLOTS, 7), undefined);
  }
});
