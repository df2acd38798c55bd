/**
 * Requests that together need more memory than a ring may use: they wait in the order of the ring, every one is served,
 * and none overtakes another.
 */

import { assert, assertEquals, assertLess } from "@std/assert";
import { OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { MOST_PAGES_PER_RING } from "../../lib/dataplane/grants/page_pool.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import { allOkay, Rig, type TestRequest } from "./rig.ts";

const TABLE = 300;
/** Requests of 256 pages that fit at the same time. */
const FITTING = MOST_PAGES_PER_RING / 256;

const large = (operation: number, sector: number): TestRequest => ({
  operation,
  sector,
  indirectPage: TABLE,
  segments: Array.from({ length: 256 }, (_, i) => [i, 0, 7] as const),
});
const small = (sector: number): TestRequest => ({ operation: OP_WRITE, sector, segments: [[299, 0, 7]] });
const rigOf = (grants: GrantMode): Rig =>
  new Rig({ grants, maxIndirectSegments: 256, maxPersistentGrants: 16, limits: { sectors: 2 ** 17 } });

for (const grants of ["copy", "persistent", "map", "map-each"] as const) {
  Deno.test(`requests without room wait in the order of the ring, and start as others finish, ${grants}`, () => {
    using rig = rigOf(grants);
    const requests = Array.from({ length: 20 }, (_, i) => large(i % 2, 2048 * i));
    rig.send(...requests, small(50_000));
    rig.stepUntilIdle();
    assertEquals(rig.channel.started.length, FITTING);
    assertEquals(rig.stats.inFlight, 21, "they are taken, and wait");
    rig.send(small(50_008));
    assertEquals([rig.queue.step(), rig.queue.rest()], [false, false], "a completion of its own wakes the queue");
    let most = 0;
    while (rig.channel.started.length > 0) {
      most = Math.max(most, rig.channel.started.length);
      rig.channel.complete();
      rig.stepUntilIdle();
    }
    assertLess(most, FITTING + 2, "the small one may be the last");
    const started = rig.channel.history.filter((line) => !line.endsWith("done"));
    const names = requests.map(({ operation, sector }) =>
      `${operation === OP_READ ? "read" : "write"} ${sector! * 512}+${2 ** 20}`
    );
    assertEquals(started, [...names, `write ${50_000 * 512}+4096`, `write ${50_008 * 512}+4096`]);
    const answers = rig.responses();
    assertEquals([answers.length, allOkay(answers)], [22, true]);
    assertEquals(rig.usage.mappedPages, 1 + rig.stats.persistentGrants);
  });

  Deno.test(`a barrier among waiting requests keeps its place, ${grants}`, () => {
    using rig = rigOf(grants);
    const before = Array.from({ length: 10 }, (_, i) => large(OP_WRITE, 2048 * i));
    rig.send(...before, { ...small(60_000), operation: OP_WRITE_BARRIER }, large(OP_WRITE, 2048 * 20), small(50_000));
    rig.run();
    const lines = rig.channel.history;
    const flushed = lines.indexOf("flush");
    assertEquals(lines.slice(0, flushed).filter((line) => line.endsWith("done")).length, 10);
    assertEquals(lines.slice(flushed).filter((line) => !line.endsWith("done")), [
      "flush",
      `write ${60_000 * 512}+4096`,
      "flush",
      `write ${2048 * 20 * 512}+${2 ** 20}`,
      `write ${50_000 * 512}+4096`,
    ]);
    assert(allOkay(rig.responses()));
  });
}

Deno.test("large reads that finish together are answered one after the other, small ones together", () => {
  using rig = rigOf("copy");
  rig.send(...Array.from({ length: 3 }, (_, i) => large(OP_READ, 2048 * i)));
  rig.stepUntilIdle();
  for (let i = 0; i < 3; i++) rig.channel.complete();
  const answered: number[] = [];
  while (rig.queue.step()) answered.push(rig.responses().length);
  assertEquals(answered, [1, 1, 1]);
  rig.send(...Array.from({ length: 3 }, (_, i) => ({ ...small(8 * i), operation: OP_READ })));
  rig.stepUntilIdle();
  for (let i = 0; i < 3; i++) rig.channel.complete();
  rig.queue.step();
  assertEquals(rig.responses().length, 3);
});

Deno.test("a large barrier that waits for memory starts once all before it are done", () => {
  using rig = new Rig({ grants: "copy", ringPages: 16 });
  const eleven = (operation: number, sector: number): TestRequest => ({
    operation,
    sector,
    segments: Array.from({ length: 11 }, (_, i) => [i, 0, 7] as const),
  });
  const fitting = Math.floor(MOST_PAGES_PER_RING / 11);
  rig.send(
    ...Array.from({ length: fitting + 5 }, (_, i) => eleven(i % 2, 8 * (i % 100))),
    eleven(OP_WRITE_BARRIER, 900),
    { operation: OP_FLUSH_DISKCACHE },
  );
  rig.stepUntilIdle();
  assertEquals(rig.channel.started.length, fitting);
  rig.run();
  const lines = rig.channel.history;
  const flush = lines.indexOf("flush");
  assertEquals(lines.slice(0, flush).filter((line) => line.endsWith("done")).length, fitting + 5);
  assertEquals(lines[flush + 2], `write ${900 * 512}+45056`);
  assertEquals(rig.responses().length, fitting + 7);
});

Deno.test("requests get the memory of earlier ones with bad grants, although no I/O completes", () => {
  using rig = rigOf("copy");
  const bad: TestRequest = { ...large(OP_WRITE, 0), segments: [[9999, 0, 7], ...large(0, 0).segments!.slice(1)] };
  const count = 3 * FITTING;
  rig.send(...Array.from({ length: count }, (_, i) => ({ ...bad, indirectPage: TABLE + i })), {
    ...large(OP_WRITE, 4096),
    indirectPage: TABLE + count,
  });
  rig.stepUntilIdle();
  assertEquals(rig.channel.started.map(({ text }) => text), [`write ${4096 * 512}+${2 ** 20}`]);
  rig.run();
  assertEquals(rig.responses().map(([, , status]) => status), [...Array(count).fill(-1), 0]);
});

Deno.test("a barrier starts although the last request before it failed without any I/O", () => {
  using rig = rigOf("copy");
  const bad: TestRequest = { ...large(OP_WRITE, 0), segments: [[9999, 0, 7], ...large(0, 0).segments!.slice(1)] };
  rig.send(
    ...Array.from({ length: 2 * FITTING }, (_, i) => ({ ...bad, indirectPage: TABLE + i })),
    { operation: OP_WRITE_BARRIER },
  );
  rig.stepUntilIdle();
  assertEquals(rig.channel.started.map(({ text }) => text), ["flush"]);
  rig.run();
  assertEquals(rig.responses().map(([, , status]) => status), [...Array(2 * FITTING).fill(-1), 0]);
});

Deno.test("several ranges of memory serve a large request, and its data arrives in order", () => {
  using rig = new Rig({ maxRequests: 3, maxIndirectSegments: 256, limits: { sectors: 2 ** 15 } });
  const many = (operation: number, sector: number, pages: number, last: number): TestRequest => ({
    operation,
    sector,
    indirectPage: TABLE,
    segments: Array.from({ length: pages }, (_, i) => [i, 0, last] as const),
  });
  rig.pages.view.subarray(0, 256 * 4096).forEach((_, i, view) => view[i] = (i >> 12) * 5 + (i >> 9) + i);
  const sent = rig.pages.view.slice(0, 256 * 4096);
  const [first, ...others] = [many(OP_READ, 2 ** 14, 100, 7), large(OP_READ, 2 ** 14), large(OP_READ, 2 ** 14)];
  rig.send(first!);
  rig.stepUntilIdle();
  rig.send(...others);
  rig.stepUntilIdle();
  // The middle of 768 pages is in use: 100 pages before it and 156 after it serve a request of 224.
  rig.channel.complete(-5);
  rig.stepUntilIdle();
  rig.send(many(OP_WRITE, 0, 256, 6));
  rig.stepUntilIdle();
  const ranges = rig.channel.started.filter(({ text }) => text.startsWith("write")).map(({ vectors }) => vectors);
  assertEquals(ranges, [2]);
  for (let page = 0; page < 256; page++) {
    const written = rig.channel.data.slice(page * 3584, (page + 1) * 3584);
    assertEquals(written, sent.slice(page * 4096, page * 4096 + 3584), `segment ${page}`);
  }
  while (rig.channel.started.length > 1) rig.channel.complete(-5);
  rig.channel.complete();
  rig.stepUntilIdle();
  rig.pages.view.fill(0, 0, 256 * 4096);
  rig.send(first!);
  rig.stepUntilIdle();
  rig.send(...others);
  rig.stepUntilIdle();
  rig.channel.complete(-5);
  rig.stepUntilIdle();
  rig.send(many(OP_READ, 0, 256, 6));
  rig.stepUntilIdle();
  while (rig.channel.started.length > 1) rig.channel.complete(-5);
  rig.run();
  for (let page = 0; page < 256; page++) {
    const [begin, end] = [page * 4096, page * 4096 + 3584];
    assertEquals(rig.pages.view.slice(begin, end), sent.slice(begin, end), `segment ${page}`);
  }
});

Deno.test("a draining queue finishes the requests that wait for memory", () => {
  using rig = rigOf("copy");
  rig.send(...Array.from({ length: 12 }, (_, i) => large(OP_WRITE, 2048 * i)));
  rig.stepUntilIdle();
  rig.queue.drain();
  rig.run();
  assertEquals([rig.responses().length, rig.queue.state], [12, "drained"]);
});
