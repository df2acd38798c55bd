/**
 * Persistent grants, stepped by hand: which pages are mapped once and reused, which are unmapped and in what order,
 * which requests are copied instead, and that nothing stays mapped in the end.
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { GrantError, type GrantTable } from "../../lib/hypervisor.ts";
import { allOkay, Rig, type RigOptions, type TestRequest } from "./rig.ts";

const read = (...pages: number[]): TestRequest => ({ operation: OP_READ, segments: pages.map((page) => [page, 0, 7]) });
const write = (...pages: number[]): TestRequest => ({ ...read(...pages), operation: OP_WRITE });

/** A grant table that records which pages are mapped (+page), unmapped (-page) and refused (!page). */
class NotingTable {
  readonly notes: string[] = [];
  refuseUnmap = false;
  #pages = new Map<number, number>();
  rig: Rig | undefined;

  readonly wrap = (table: GrantTable): GrantTable => ({
    setMaxGrants: (count) => table.setMaxGrants(count),
    mapPages: (refs, writable) => table.mapPages(refs, writable),
    map: (refs, first, count, writable, addresses) => {
      const page = this.rig!.pages.refs.indexOf(refs[first]! as never);
      const status = table.map(refs, first, count, writable, addresses);
      if (status === 0) this.#pages.set(addresses[first]!, page);
      this.notes.push(status === 0 ? `+${page}` : `!${page}`);
      return status;
    },
    unmap: (address, count) => {
      this.notes.push(`-${this.#pages.get(address)}`);
      const status = table.unmap(address, count);
      return this.refuseUnmap ? -5 : status;
    },
    createCopyBatch: (capacity) => table.createCopyBatch(capacity),
    [Symbol.dispose]: () => table[Symbol.dispose](),
  });

  take(): string[] {
    return this.notes.splice(0);
  }
}

function noted(options: RigOptions = {}): { rig: Rig; table: NotingTable } {
  const table = new NotingTable();
  const rig = new Rig({ grants: "persistent", ...options, wrapGrantTable: table.wrap });
  table.rig = rig;
  return { rig, table };
}

/** A whole round of unmapping idle pages. */
function idleRound(rig: Rig): void {
  while (rig.queue.keptGrants!.releaseIdle());
}

const counters = ({ stats }: Rig): number[] => [
  stats.persistentGrants,
  stats.persistentHits,
  stats.persistentMisses,
  stats.persistentCopied,
];

Deno.test("a page is mapped when it is first used, and reused from then on, in either direction", () => {
  const { rig, table } = noted();
  using _ = rig;
  rig.page(1).fill(7);
  rig.send(write(0, 1));
  rig.run();
  assertEquals(table.take(), ["+0", "+1"]);
  rig.send(read(1, 0), write(1));
  rig.run();
  assertEquals(table.take(), []);
  assertEquals(counters(rig), [2, 3, 2, 0]);
  assert(allOkay(rig.responses()));
  assert(rig.page(0).every((byte) => byte === 7), "page 0 got what page 1 held");
});

Deno.test("a page that one request names twice, or two requests at a time, is mapped once", () => {
  const { rig, table } = noted();
  using _ = rig;
  rig.send(write(3, 3), write(3));
  rig.stepUntilIdle();
  assertEquals(table.take(), ["+3"]);
  rig.channel.complete();
  idleRound(rig);
  idleRound(rig);
  rig.stepUntilIdle();
  assertEquals(table.take(), [], "the second request still uses it");
  rig.run();
  idleRound(rig);
  idleRound(rig);
  assertEquals(table.take(), ["-3"]);
});

Deno.test("at the limit, the page that was idle for longest is unmapped, unless it was used in this round", () => {
  const { rig, table } = noted({ maxPersistentGrants: 3 });
  using _ = rig;
  for (const page of [0, 1, 2, 0]) {
    rig.send(write(page));
    rig.run();
  }
  assertEquals(table.take(), ["+0", "+1", "+2"]);
  rig.send(write(5));
  rig.run();
  assertEquals(table.take(), [], "all were used in this round: the request was copied");
  assertEquals(counters(rig), [3, 1, 4, 1]);
  idleRound(rig);
  rig.send(write(5), write(6), write(7), write(8));
  rig.run();
  assertEquals(
    table.take(),
    ["-1", "+5", "-2", "+6", "-0", "+7"],
    "in order of use, until only pages of this round are left",
  );
  assertEquals(counters(rig), [3, 1, 8, 2]);
  assert(allOkay(rig.responses()));
});

Deno.test("requests are copied while others hold all pages that may be kept, and carry the right data", () => {
  const { rig, table } = noted({ maxPersistentGrants: 4 });
  using _ = rig;
  rig.page(0).fill(1);
  rig.page(5).fill(2);
  rig.send({ ...write(0, 1, 2), sector: 0 }, { ...write(4, 5), sector: 100 }, { ...read(0, 7), sector: 0 });
  rig.stepUntilIdle();
  assertEquals(table.take(), ["+0", "+1", "+2", "+4"], "page 4 is kept for later, though its request is copied");
  rig.run();
  assertEquals(counters(rig), [4, 1, 6, 2]);
  assertEquals(rig.channel.data.subarray(108 * 512, 116 * 512).every((byte) => byte === 2), true);
  assert(allOkay(rig.responses()));
  rig.send({ ...read(9, 10, 11, 12, 13), sector: 100 });
  rig.run();
  assertEquals(rig.page(10).every((byte) => byte === 2), true, "more pages than may be kept at all");
});

Deno.test("a write from pages granted read-only is copied; a read into them fails only that request", () => {
  const { rig } = noted();
  using _ = rig;
  const page = rig.grantReadOnly();
  page.view.fill(9);
  const ref = page.refs[0]!;
  rig.send({ ...write(1, ref), sector: 8 }, read(1, ref), { ...read(3), sector: 16 });
  rig.run();
  assertEquals(rig.channel.data.subarray(16 * 512, 24 * 512).every((byte) => byte === 9), true);
  assertEquals(rig.page(3).every((byte) => byte === 9), true);
  assertEquals(rig.responses().sort(([a], [b]) => a - b).map(([, , status]) => status), [0, -1, 0]);
  assertEquals(counters(rig), [2, 1, 4, 2]);
});

Deno.test("a revoked grant fails its request, but a page that is mapped already stays usable", () => {
  const { rig } = noted();
  using _ = rig;
  rig.send(write(0));
  rig.run();
  rig.pages[Symbol.dispose]();
  rig.send(write(0), write(1), write(0, 1));
  rig.run();
  assertEquals(rig.responses().sort(([a], [b]) => a - b).map(([, , status]) => status), [0, 0, -1, -1]);
  assertMatch(rig.complaints[0]!, /grant/);
  assertEquals(rig.usage.mappedPages, 2);
});

Deno.test("pages unused for a whole round are unmapped, a bounded number per call, and mapped again when used", () => {
  const { rig, table } = noted();
  using _ = rig;
  for (let first = 0; first < 110; first += 11) rig.send(write(...Array.from({ length: 11 }, (_, i) => first + i)));
  rig.run();
  assertEquals(counters(rig), [110, 0, 110, 0]);
  table.take();
  idleRound(rig);
  rig.send(write(7));
  rig.run();
  assertEquals(table.take(), [], "all were used in the round that ended");
  assertEquals([rig.queue.keptGrants!.releaseIdle(), table.take().length], [true, 64]);
  assertEquals([rig.queue.keptGrants!.releaseIdle(), table.take().length], [false, 45]);
  assertEquals(counters(rig), [1, 1, 110, 0]);
  rig.send(write(7), write(8));
  rig.run();
  assertEquals(table.take(), ["+8"]);
  idleRound(rig);
  idleRound(rig);
  assertEquals(table.take(), ["-7", "-8"]);
  assertEquals([rig.queue.keptGrants!.count, rig.usage.mappedPages], [0, 1]);
  assert(allOkay(rig.responses()));
});

Deno.test("disposing unmaps everything, even pages that requests still use", () => {
  const { rig, table } = noted();
  rig.send(write(0), write(1, 2));
  rig.run();
  rig.send(write(2, 3));
  rig.stepUntilIdle();
  table.take();
  rig.queue[Symbol.dispose]();
  assertEquals(table.take().sort(), ["-0", "-1", "-2", "-3"]);
  assertEquals([rig.usage.mappedPages, rig.stats.persistentGrants], [1, 0]);
});

Deno.test("disposing tries to undo all mappings, and reports those that the hypervisor refuses to undo", () => {
  const { rig, table } = noted();
  rig.send(write(0), write(1));
  rig.run();
  table.refuseUnmap = true;
  const error = assertThrows(() => rig.queue[Symbol.dispose](), GrantError);
  assertMatch(error.message, /2 of the guest's persistent grants/);
  assertEquals(rig.usage.mappedPages, 1);
});

Deno.test("thousands of requests over more pages than are kept carry the right data and never map too many", () => {
  const { rig } = noted({ maxPersistentGrants: 40, limits: { sectors: 8192 } });
  using _ = rig;
  for (let round = 0; round < 300; round++) {
    const pages = Array.from({ length: 32 * 3 }, (_, i) => (round * 37 + i * 11) % 300);
    const requests = Array.from({ length: 32 }, (_, i) => ({
      operation: i % 2 === 0 ? OP_WRITE : OP_READ,
      sector: (i >> 1) * 24,
      segments: pages.slice(i * 3, i * 3 + 3).map((page) => [page, 0, 7] as const),
    }));
    const writes = requests.filter((_, i) => i % 2 === 0);
    for (const page of new Set(writes.flatMap(({ segments }) => segments.map(([page]) => page)))) {
      rig.page(page).fill(round & 0xff).set([page & 0xff, page >> 8]);
    }
    rig.send(...writes);
    rig.run();
    rig.send(...requests.filter((_, i) => i % 2 === 1));
    rig.run();
    for (let i = 1; i < 32; i += 2) {
      const [from, to] = [pages[(i - 1) * 3]!, pages[i * 3]!];
      if (pages.lastIndexOf(to) !== i * 3 || pages.indexOf(to) !== i * 3) continue; // another request wrote there too
      assertEquals([...rig.page(to).subarray(0, 3)], [from & 0xff, from >> 8, round & 0xff], `round ${round}`);
    }
    if (round % 5 === 0) idleRound(rig);
    assert(rig.stats.persistentGrants <= 40 && rig.usage.mappedPages === 1 + rig.stats.persistentGrants);
    assert(allOkay(rig.responses()));
  }
  const { persistentHits, persistentMisses, persistentCopied } = rig.stats;
  assert(persistentHits > 100 && persistentMisses > 100 && persistentCopied > 100);
});
