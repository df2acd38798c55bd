/**
 * The short form of the fuzzers, with fixed seeds; `deno task fuzz` is the long one. Also shows that the structured
 * fuzzer notices a faulty queue.
 */

import { assert, assertEquals, assertGreater, assertLess, assertMatch, assertThrows } from "@std/assert";
import { Random } from "../../lib/guest/random.ts";
import { corpus, formatFind, parseFind } from "./corpus.ts";
import { fuzzRingPages, fuzzRingsInThemselves } from "./ring_pages.ts";
import { fuzzDevice, fuzzNegotiation } from "./store_values.ts";
import { fuzzStructured, randomSetting, replay, type Setting, StructuredRun } from "./structured.ts";

const PLAIN: Setting = {
  abi: "x86_64-abi",
  grants: "copy",
  sectorBytes: 512,
  readOnly: false,
  ringPages: 1,
  maxRequests: 32,
  maxPersistentGrants: 16,
  startIndex: 0,
  sectors: 256,
  indirectSegments: 32,
  discard: true,
  delayed: false,
  seed: 1,
};

Deno.test("30 000 structured requests in 60 settings: one correct response each, and no wrong byte anywhere", () => {
  const random = new Random(20_260);
  for (let n = 0; n < 60; n++) {
    const find = fuzzStructured(randomSetting(random), 500);
    assertEquals(find, undefined, find && formatFind(find));
  }
});

Deno.test("3000 random ring pages: each request is answered once, or the ring stops", () => {
  const { requests, okay, stopped } = fuzzRingPages(20_261, 3000);
  assertGreater(requests, 50_000);
  assertGreater(okay, 500);
  assertGreater(stopped, 2);
});

Deno.test("200 rings whose requests name the ring's own pages as data harm only themselves", () => {
  const stopped = fuzzRingsInThemselves(20_264, 200);
  assertGreater(stopped, 10);
  assertLess(stopped, 200);
});

Deno.test("20 000 random frontends: parameters in range, or an error that names the node", () => {
  assertGreater(fuzzNegotiation(20_262, 20_000), 1000);
});

Deno.test("a guest that wrote random values into its nodes 200 times can still connect", async () => {
  const { connections, lines } = await fuzzDevice(20_263, 200);
  assertGreater(connections, 1);
  assert(lines < 200, `${lines} lines`);
});

Deno.test("every failure in the corpus stays fixed", () => {
  for (const [name, { setting, batches }] of corpus()) assertEquals(replay(setting, batches), undefined, name);
});

Deno.test("the structured fuzzer finds a wrong status, a wrong byte on the disk, and a missing answer", () => {
  const spoilt = (spoil: (run: StructuredRun) => void): string =>
    assertThrows(() => {
      using run = new StructuredRun(PLAIN);
      for (let i = 0; i < 200; i++) {
        spoil(run);
        run.serve(run.nextBatch());
      }
    }, Error).message;
  assertMatch(spoilt((run) => run.world.disk[4711]! ^= 1), /disk sector 9 has wrong data|wrong data/);
  assertMatch(spoilt((run) => run.world.bytes[run.world.disk.length]! ^= 1), /after the disk/);
  assertMatch(spoilt((run) => run.world.grants.unnamed.view[9]! ^= 1), /never named/);
  assertMatch(spoilt((run) => run.world.connection.queue.drain()), /does not become idle|expected answer/);
});

Deno.test("a find is written to the corpus and read back as it was", () => {
  using run = new StructuredRun(PLAIN);
  const find = { kind: "structured", setting: PLAIN, error: "nothing", batches: [run.nextBatch()] } as const;
  assertEquals(parseFind(formatFind(find)), find);
  assertEquals(replay(find.setting, find.batches), undefined);
});
