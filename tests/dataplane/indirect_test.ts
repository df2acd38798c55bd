/**
 * Indirect requests on the queue, stepped by hand: data of up to 256 segments in every grant mode and ABI, bad grants,
 * segments that the guest rewrites, and their order among direct requests.
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import type { GrantCopyBatch, GrantTable } from "../../lib/hypervisor.ts";
import { allOkay, READ_PAGE, Rig, type RigOptions, type TestRequest } from "./rig.ts";

const MODES: readonly GrantMode[] = ["copy", "persistent", "map", "map-each"];
/** The first page that holds segments; data pages are below it. */
const TABLE = 300;
const INDIRECT: RigOptions = { maxIndirectSegments: 256, limits: { sectors: 8192 } };

const whole = (count: number, from = 0) => Array.from({ length: count }, (_, i) => [from + i, 0, 7] as const);
const request = (operation: number, segments: TestRequest["segments"], change: Partial<TestRequest> = {}) => ({
  operation,
  segments: segments!,
  indirectPage: TABLE,
  ...change,
});

/** A grant table that calls `ran` right after each batch of copies. */
function watched(table: GrantTable, ran: () => void): GrantTable {
  const wrap = (batch: GrantCopyBatch): GrantCopyBatch => {
    const real = batch.run.bind(batch);
    batch.run = () => {
      const status = real();
      ran();
      return status;
    };
    return batch;
  };
  return {
    setMaxGrants: (count) => table.setMaxGrants(count),
    mapPages: (refs, writable) => table.mapPages(refs, writable),
    map: (refs, first, count, writable, addresses) => table.map(refs, first, count, writable, addresses),
    unmap: (address, count) => table.unmap(address, count),
    createCopyBatch: (capacity) => wrap(table.createCopyBatch(capacity)),
    [Symbol.dispose]: () => table[Symbol.dispose](),
  };
}

for (const grants of MODES) {
  for (const abi of ["x86_64-abi", "x86_32-abi", "arm-abi"] as const) {
    Deno.test(`data of 1 to 256 segments goes to the disk and back, ${grants}, ${abi}`, () => {
      for (const count of [1, 11, 12, 100, 256]) {
        using rig = new Rig({ ...INDIRECT, grants, abi });
        for (let page = 0; page < count; page++) rig.page(page).forEach((_, i, view) => view[i] = page * 3 + (i >> 9));
        const sent = rig.pages.view.slice(0, count * 4096);
        rig.send(request(OP_WRITE, whole(count), { sector: 16 }));
        rig.run();
        assertEquals(rig.channel.data.slice(16 * 512, 16 * 512 + count * 4096), sent);
        rig.pages.view.fill(0, 0, count * 4096);
        rig.send(request(OP_READ, whole(count), { sector: 16 }));
        rig.run();
        assertEquals(rig.pages.view.slice(0, count * 4096), sent);
        assertEquals(rig.responses(), [[1, OP_WRITE, 0], [2, OP_READ, 0]]);
        const { reads, writes, sectorsRead, sectorsWritten } = rig.stats;
        assertEquals([reads, writes, sectorsRead, sectorsWritten], [1, 1, count * 8, count * 8]);
      }
    });
  }

  Deno.test(`a bad grant of a data page or of the segments' page fails only its request, ${grants}`, () => {
    for (const bad of [0, 1, 127, 254, 255]) {
      using rig = new Rig({ ...INDIRECT, grants });
      const segments = whole(256).map((segment, i) => i === bad ? [9999, 0, 7] as const : segment);
      rig.send(request(OP_READ, segments), request(OP_WRITE, segments, { indirectPage: TABLE + 1 }), READ_PAGE);
      rig.send(request(OP_WRITE, whole(20), { indirectPage: 9999 }));
      rig.run();
      const statuses = rig.responses().sort(([a], [b]) => a - b).map(([, , status]) => status);
      assertEquals(statuses, [-1, -1, 0, -1]);
      assertEquals(rig.usage.mappedPages, 1 + rig.stats.persistentGrants);
      assertEquals(rig.channel.history.some((line) => line.startsWith("write")), false);
      assertEquals([rig.stats.reads, rig.stats.writes, rig.stats.errors], [2, 2, 3]);
      assertMatch(rig.complaints[0]!, /INDIRECT: copying from the guest's page failed: grant reference \d+: /);
    }
  });

  Deno.test(`rewriting the segments right after they were copied has no effect, ${grants}`, () => {
    let rewrite = (): void => {};
    using rig = new Rig({ ...INDIRECT, grants, wrapGrantTable: (table) => watched(table, () => rewrite()) });
    let rewritten = 0;
    rewrite = () => {
      rig.writeSegments(TABLE, [[5, 0, 255], [9999, 200, 100]]);
      rewritten++;
    };
    rig.page(0).fill(1);
    rig.page(1).fill(2);
    rig.send(request(OP_WRITE, [[0, 0, 7], [1, 0, 0]], { sector: 8 }));
    rig.run();
    assert(rewritten > 0);
    assertEquals(rig.channel.history[0], "write 4096+4608");
    assert(rig.channel.data.subarray(4096, 8192).every((byte) => byte === 1));
    assert(rig.channel.data.subarray(8192, 8704).every((byte) => byte === 2));
    assertEquals(rig.responses(), [[1, OP_WRITE, 0]]);
  });
}

Deno.test("one call fetches the segments of all indirect requests of a pass, in map mode too", () => {
  let calls = 0;
  using rig = new Rig({ ...INDIRECT, grants: "map", wrapGrantTable: (table) => watched(table, () => calls++) });
  rig.send(...[0, 1, 2, 3].map((i) => request(OP_READ, whole(12, 12 * i), { indirectPage: TABLE + i })));
  rig.queue.step();
  assertEquals([calls, rig.channel.started.length], [1, 4]);
  rig.run();
  assertEquals(calls, 1);
  assert(allOkay(rig.responses()));
});

Deno.test("more indirect requests than one call fetches are served in the order of the ring", () => {
  using rig = new Rig({ ...INDIRECT, ringPages: 16, grants: "map" });
  const requests = Array.from(
    { length: 200 },
    (_, i) =>
      i % 5 === 4
        ? { operation: OP_WRITE, sector: 8 * i, segments: whole(1) }
        : request(OP_WRITE, whole(2), { sector: 8 * i }),
  );
  rig.send(...requests);
  rig.stepUntilIdle();
  assertEquals(
    rig.channel.history,
    requests.map(({ sector, segments }) => `write ${sector! * 512}+${segments!.length * 4096}`),
  );
  rig.run();
  assertEquals(rig.responses().length, 200);
});

Deno.test("a barrier waits for indirect requests before it, and those after it wait for the barrier", () => {
  using rig = new Rig(INDIRECT);
  rig.send(
    request(OP_WRITE, whole(20), { sector: 0 }),
    { operation: OP_WRITE_BARRIER, sector: 800, segments: whole(1) },
    request(OP_WRITE, whole(20), { sector: 160, indirectPage: TABLE + 1 }),
  );
  rig.run();
  assertEquals(rig.channel.history.filter((line) => !line.endsWith("done")), [
    "write 0+81920",
    "flush",
    "write 409600+4096",
    "flush",
    "write 81920+81920",
  ]);
  assertEquals(rig.responses().map(([id]) => id), [1, 2, 3]);
});

Deno.test("an invalid indirect request is answered ERROR with a safe operation, and counted as that", () => {
  using rig = new Rig({ ...INDIRECT, maxIndirectSegments: 32 });
  const bad: TestRequest[] = [
    request(OP_FLUSH_DISKCACHE, whole(1)),
    request(6, whole(1)),
    request(255, whole(1)),
    request(OP_WRITE, []),
    request(OP_READ, whole(33)),
    request(OP_WRITE, whole(1), { segmentCount: 65535 }),
    request(OP_WRITE, [[0, 0, 7], [1, 3, 2]]),
    request(OP_READ, [[0, 0, 8]]),
    request(OP_READ, whole(1), { sector: 8185 }),
    request(OP_READ, whole(1), { sector: 2 ** 52 }),
  ];
  for (const each of bad) {
    rig.send(each);
    rig.run();
    const [, operation, status] = rig.responses()[0]!;
    assertEquals([operation, status], [each.operation === OP_WRITE ? OP_WRITE : OP_READ, -1]);
  }
  assertEquals([rig.channel.history, rig.complaints.length, rig.stats.errors], [[], bad.length, bad.length]);
  assertEquals([rig.stats.reads, rig.stats.writes, rig.stats.unsupported], [7, 3, 0]);
  rig.send(request(OP_READ, whole(32)), request(OP_WRITE, whole(1), { sector: 8184 }));
  rig.run();
  assert(allOkay(rig.responses()));
});

Deno.test("an indirect write to a read-only disk, or after a failed flush, is refused", () => {
  using readOnly = new Rig({ ...INDIRECT, limits: { sectors: 8192, readOnly: true } });
  readOnly.send(request(OP_WRITE, whole(12)), request(OP_READ, whole(12)));
  readOnly.run();
  assertEquals(readOnly.responses(), [[1, OP_WRITE, -1], [2, OP_READ, 0]]);
  using latched = new Rig(INDIRECT);
  latched.latch.trip();
  latched.send(request(OP_WRITE, whole(12)), request(OP_READ, whole(12)));
  latched.run();
  assertEquals(latched.responses(), [[1, OP_WRITE, -1], [2, OP_READ, 0]]);
  assertEquals(latched.channel.history[0], "read 0+49152");
});
