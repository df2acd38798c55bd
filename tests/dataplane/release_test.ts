/**
 * What a request held is free again once it is answered, however it ended: pins and mappings of persistent grants,
 * pages of copies, the room of mapped pages; and a disposed queue has released everything. A leak is shown by what no
 * longer fits, or can no longer be unmapped.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { OP_READ, OP_WRITE } from "../../lib/blkif/abi.ts";
import { MOST_PAGES_PER_RING } from "../../lib/dataplane/grants/page_pool.ts";
import type { GrantTable } from "../../lib/hypervisor.ts";
import { allOkay, Rig, type RigOptions, type TestRequest } from "./rig.ts";

/** The first page that holds segments of indirect requests; data pages are below it. */
const TABLE = 300;
const NO_GRANT = 9999;
/** Requests of 256 pages that a ring has room for. */
const FITTING = MOST_PAGES_PER_RING / 256;

const write = (...pages: number[]): TestRequest => ({
  operation: OP_WRITE,
  segments: pages.map((page) => [page, 0, 7] as const),
});
const read = (...pages: number[]): TestRequest => ({ ...write(...pages), operation: OP_READ });

/** An indirect write of `pages` segments, each up to sector `last` of its page; they are listed in page `table`. */
const large = (pages = 256, last = 7, table = TABLE): TestRequest => ({
  operation: OP_WRITE,
  indirectPage: table,
  segments: Array.from({ length: pages }, (_, i) => [i, 0, last] as const),
});

const rigOf = (options: RigOptions): Rig =>
  new Rig({ maxIndirectSegments: 256, limits: { sectors: 2 ** 13 }, ...options });

/** A grant table with some methods replaced. */
function changed(table: GrantTable, change: Partial<GrantTable>): GrantTable {
  return {
    setMaxGrants: (count) => table.setMaxGrants(count),
    mapPages: (refs, writable) => table.mapPages(refs, writable),
    map: (refs, first, count, writable, addresses) => table.map(refs, first, count, writable, addresses),
    unmap: (address, count) => table.unmap(address, count),
    createCopyBatch: (capacity) => table.createCopyBatch(capacity),
    [Symbol.dispose]: () => table[Symbol.dispose](),
    ...change,
  };
}

/** Unmaps every persistent grant that is not pinned, and returns how many are left. */
function unmapIdle(rig: Rig): number {
  const kept = rig.queue.keptGrants!;
  for (let round = 0; round < 2; round++) {
    for (let calls = 0; kept.releaseIdle(); calls++) assert(calls < 100, "the round does not end");
  }
  return kept.count;
}

/** Sends requests of the full size, and returns how many of them have room at the same time. */
function fittingNow(rig: Rig): number {
  rig.send(...Array.from({ length: FITTING + 1 }, () => large()));
  rig.stepUntilIdle();
  const fitting = rig.channel.started.length;
  rig.run();
  rig.responses();
  return fitting;
}

Deno.test("a request that is copied because one of its pages cannot be mapped leaves none of the others pinned", () => {
  using rig = rigOf({ grants: "persistent", maxPersistentGrants: 4 });
  rig.send(write(0, 1, 2), write(4, 5), write(6, NO_GRANT)); // page 4 is mapped; then there is no entry for page 5
  rig.run();
  assertEquals(rig.responses().map(([, , status]) => status), [-1, 0, 0]);
  assertEquals([rig.stats.persistentCopied, rig.queue.keptGrants!.count], [2, 4]);
  assertEquals(unmapIdle(rig), 0);
  rig.send(write(4, NO_GRANT, 5)); // with free entries
  rig.run();
  assertEquals([rig.stats.persistentCopied, unmapIdle(rig), rig.usage.mappedPages], [3, 0, 1]);
});

Deno.test("a request that waits for room tries again and again, and leaves no page pinned", () => {
  using rig = rigOf({ grants: "persistent", maxPersistentGrants: 16 });
  rig.send(...Array.from({ length: FITTING + 3 }, () => large()));
  rig.stepUntilIdle();
  assertEquals(rig.channel.started.length, FITTING, "the others are copied, and there is no room for more copies");
  for (let i = 0; i < 3; i++) rig.queue.step();
  rig.run();
  assertEquals(rig.responses().length, FITTING + 3);
  assertEquals(unmapIdle(rig), 0);
});

Deno.test("a slot whose request was copied unpins the pages of its next one", () => {
  using rig = rigOf({ grants: "persistent", maxPersistentGrants: 2, maxRequests: 1 });
  rig.send(read(0, 1, 2), read(0, 1), read(0, 1, 2), write(0, 1));
  rig.run();
  assertEquals([rig.stats.persistentCopied, allOkay(rig.responses())], [2, true]);
  assertEquals(unmapIdle(rig), 0);
});

Deno.test("pages that copies left with a slot are free while it serves requests from persistent grants", () => {
  using rig = rigOf({ grants: "persistent", maxPersistentGrants: 16 });
  for (let round = 0; round < 3; round++) assertEquals(fittingNow(rig), FITTING);
  rig.send(...Array.from({ length: 16 }, (_, i) => write(i)));
  rig.run();
  assertEquals([rig.responses().length, unmapIdle(rig)], [16, 0]);
  assertEquals(fittingNow(rig), FITTING);
});

Deno.test("a mapping that the hypervisor does not undo is tried once, and others are undone", () => {
  let refused = 0;
  const wrapGrantTable = (table: GrantTable): GrantTable =>
    changed(table, { unmap: (address, count) => refused++ === 0 ? -5 : table.unmap(address, count) });
  const rig = rigOf({ grants: "persistent", wrapGrantTable });
  rig.send(write(0, 1, 2));
  rig.run();
  assertEquals([unmapIdle(rig), refused], [0, 3]);
});

Deno.test("copies of all sizes, in one range of pages or in several, leave all pages free", () => {
  using rig = rigOf({ maxRequests: 3 });
  for (let round = 0; round < 20; round++) {
    // The first keeps pages 0 to 99, the others the 512 after it. Then it needs 224 of the 100 before and 156 after.
    rig.send(large(100, 7, TABLE + 1), large(), large());
    rig.stepUntilIdle();
    assertEquals(rig.channel.started.length, 3);
    const first = rig.channel.started[0]!.tag;
    rig.run();
    rig.send(large(), large(), large(256, 6, TABLE + 1));
    rig.stepUntilIdle();
    assertEquals(rig.channel.started.map(({ text }) => text.replace(/.*\+/, "")), ["1048576", "1048576", "917504"]);
    const { tag, vectors } = rig.channel.started[2]!;
    assertEquals([tag, vectors], [first, 2], "in two ranges");
    rig.run();
    rig.send(large(), large(), large());
    rig.stepUntilIdle();
    assertEquals(rig.channel.started.length, 3, `round ${round}: all pages are free`);
    rig.run();
    assertEquals([rig.responses().length, rig.complaints], [9, []]);
    rig.send(large(40 + round), large(90, 7, TABLE + 1), large(1, 7, TABLE + 2));
    rig.run();
    rig.responses();
  }
});

for (const grants of ["copy", "map", "map-each"] as const) {
  Deno.test(`refused requests take no room, whatever their slots held before, ${grants}`, () => {
    using rig = rigOf({ grants });
    for (let round = 0; round < 3; round++) {
      assertEquals(fittingNow(rig), FITTING);
      rig.send(...Array.from({ length: 2 * FITTING }, () => ({ ...large(), sector: 2 ** 13 - 8 })));
      rig.run();
      rig.send(...Array.from({ length: 2 * FITTING }, () => ({ operation: OP_READ })));
      rig.run();
      assertEquals(rig.responses().length, 4 * FITTING);
    }
    rig.latch.trip();
    rig.send(...Array.from({ length: 2 * FITTING }, () => large()), { ...large(), operation: OP_READ });
    rig.run();
    assertEquals(rig.responses().filter(([, , status]) => status === 0).length, 1);
  });
}

for (const grants of ["map", "map-each"] as const) {
  Deno.test(`mapped pages count against the ring's room exactly until they are unmapped, ${grants}`, () => {
    using rig = rigOf({ grants });
    for (let i = 0; i < 100; i++) {
      for (const request of [write(0), read(1, 2, 3), write(4, NO_GRANT), read(NO_GRANT)]) {
        rig.send(request);
        rig.run();
      }
    }
    assertEquals(rig.responses().filter(([, , status]) => status === 0).length, 200);
    assertEquals(fittingNow(rig), FITTING);
    rig.send(...Array.from({ length: FITTING }, () => large()), write(0));
    rig.stepUntilIdle();
    assertEquals(rig.channel.started.length, FITTING, "not one page more");
    rig.run();
    assertEquals(rig.usage.mappedPages, 1);
  });

  Deno.test(`a page that is not unmapped makes its request an error, and the others are unmapped, ${grants}`, () => {
    let calls = 0;
    const wrapGrantTable = (table: GrantTable): GrantTable =>
      changed(table, {
        unmap: (address, count) => {
          const status = table.unmap(address, count);
          return calls++ === 0 ? -5 : status;
        },
      });
    using rig = rigOf({ grants, wrapGrantTable });
    rig.send(write(0, 1, 2));
    rig.run();
    rig.send(write(3));
    rig.run();
    assertEquals(rig.responses(), [[1, OP_WRITE, -1], [2, OP_WRITE, 0]]);
    assertMatch(
      rig.complaints[0]!,
      /WRITE: the guest's pages could not be unmapped: one of 3 grants, the first with grant reference \d+: EIO/,
    );
    assertEquals(rig.usage.mappedPages, 1);
  });
}

Deno.test("a failed grant says nothing of the next request of the slot", () => {
  for (const grants of ["copy", "persistent", "map", "map-each"] as const) {
    using rig = rigOf({ grants, maxRequests: 1 });
    rig.send(write(NO_GRANT), { operation: 3 }, write(NO_GRANT), write(0), read(NO_GRANT), read(0));
    rig.run();
    assertEquals(rig.responses().map(([, , status]) => status), [-1, 0, -1, 0, -1, 0], grants);
  }
});

for (const grants of ["copy", "persistent", "map", "map-each"] as const) {
  Deno.test(`a disposed queue has released its channel, all memory, batches and mappings, ${grants}`, () => {
    let batches = 0;
    const wrapGrantTable = (table: GrantTable): GrantTable =>
      changed(table, {
        createCopyBatch: (capacity) => {
          batches++;
          const batch = table.createCopyBatch(capacity);
          const dispose = batch[Symbol.dispose].bind(batch);
          return Object.assign(batch, { [Symbol.dispose]: () => (batches--, dispose()) });
        },
      });
    const rig = rigOf({ grants, wrapGrantTable });
    rig.send(write(0), large());
    rig.run();
    assert(batches > 0);
    const { frames } = rig.usage;
    rig.queue[Symbol.dispose]();
    assert(rig.usage.frames < frames);
    assertEquals(rig.usage.frames, rig.pages.refs.length + rig.ringPage.refs.length, "the guest's own pages");
    assertEquals([rig.channel.disposed, batches, rig.usage.mappedPages], [true, 0, 1]);
  });
}
