/**
 * A process dies again and again, before any of the stores that record what it has taken and answered. The next process
 * answers every open request exactly once, and the disk holds all data that was acknowledged.
 */

import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { OP_FLUSH_DISKCACHE, OP_READ, OP_WRITE, OP_WRITE_BARRIER } from "../../lib/blkif/abi.ts";
import { Latch, LATCH_BYTES } from "../../lib/dataplane/latch.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import { Random } from "../../lib/guest/random.ts";
import { Rig, type TestRequest } from "./rig.ts";

class Crash extends Error {}

/** Requests of all kinds; each write has a page of its own. */
function requests(random: Random, count: number): TestRequest[] {
  return Array.from({ length: count }, (_, i) => {
    const sector = 8 * i;
    const segments = [[i, 0, 7]] as const;
    const kind = random.below(10);
    if (kind < 5) return { operation: OP_WRITE, sector, segments };
    if (kind < 7) return { operation: OP_WRITE, sector, segments, indirectPage: 200 + i };
    if (kind === 7) return { operation: OP_WRITE_BARRIER, sector, segments };
    if (kind === 8) return { operation: OP_FLUSH_DISKCACHE };
    return { operation: OP_READ, sector, segments: [[100 + i, 0, 7]] };
  });
}

/** Serves until everything is answered, with crashes at random stores. Returns the number of crashes. */
function serveWithCrashes(rig: Rig, random: Random, until: () => boolean, arm: (stores: number) => void): number {
  let crashes = 0;
  for (let turns = 0; !until(); turns++) {
    assert(turns < 5000, "it never ends");
    arm(crashes < 40 ? random.below(60) : Infinity);
    try {
      rig.stepUntilIdle();
      // In random order: operations do not complete in the order of the ring.
      if (rig.channel.started.length > 0) {
        rig.channel.started.push(...rig.channel.started.splice(0, random.below(rig.channel.started.length)));
        rig.channel.complete();
      }
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      crashes++;
      arm(Infinity);
      rig.crash();
    }
  }
  return crashes;
}

for (const grants of ["copy", "map", "persistent"] satisfies GrantMode[]) {
  Deno.test(`whichever store the process dies before, each request is answered once, ${grants}`, () => {
    let crashes = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const random = new Random(seed);
      let stores = Infinity;
      const beforeStore = (): void => {
        if (stores-- <= 0) throw new Crash();
      };
      using rig = new Rig({ grants, maxIndirectSegments: 32, startIndex: 2 ** 32 - 20, beforeStore });
      for (let i = 0; i < 100; i++) rig.page(i).fill(i + 1);
      const sent = requests(random, 24).map((request, i) => ({ ...request, id: i + 1 }));
      rig.send(...sent);
      const answers: number[] = [];
      const wrong: number[][] = [];
      crashes += serveWithCrashes(rig, random, () => {
        for (const [id, operation, status] of rig.responses()) {
          answers.push(id);
          if (status !== 0 || operation !== sent[id - 1]!.operation) wrong.push([id, operation, status]);
        }
        return answers.length >= sent.length;
      }, (value) => stores = value);
      rig.run();
      assertEquals(rig.responses(), [], `seed ${seed}: nothing is answered twice`);
      assertEquals(answers.toSorted((a, b) => a - b), sent.map(({ id }) => id), `seed ${seed}`);
      assertEquals(wrong, [], `seed ${seed}`);
      for (const { id, operation } of sent) {
        if (operation !== OP_WRITE && operation !== OP_WRITE_BARRIER) continue;
        const at = (id - 1) * 4096;
        assertEquals(rig.channel.data.subarray(at, at + 4096).every((byte) => byte === id), true, `write ${id}`);
      }
    }
    assert(crashes > 100, `only ${crashes} crashes`);
  });
}

Deno.test("a request that a whole ring of others has overtaken survives a crash", () => {
  using rig = new Rig();
  rig.send({ operation: OP_WRITE, id: 1, sector: 0, segments: [[0, 0, 7]] });
  rig.stepUntilIdle();
  for (let i = 2; i < 100; i++) {
    rig.send({ operation: OP_WRITE, id: i, sector: 8, segments: [[1, 0, 7]] });
    rig.stepUntilIdle();
    rig.channel.started.reverse();
    rig.channel.complete();
    rig.stepUntilIdle();
    assertEquals(rig.responses().map(([id]) => id), [i]);
  }
  rig.crash();
  rig.run();
  assertEquals(rig.responses().map(([id]) => id), [1]);
});

Deno.test("more indirect requests than one call fetches are all carried out after a crash", () => {
  using rig = new Rig({ ringPages: 16, maxIndirectSegments: 32, limits: { sectors: 8192 } });
  const requests = Array.from({ length: 200 }, (_, i): TestRequest => ({
    operation: OP_WRITE,
    id: i + 1,
    sector: 8 * i,
    segments: [[0, 0, 7]],
    indirectPage: 300,
  }));
  rig.send(...requests);
  rig.stepUntilIdle();
  rig.crash();
  rig.run();
  assertEquals(rig.responses().map(([id, , status]) => [id, status]), requests.map(({ id }) => [id!, 0]));
});

Deno.test("only the response index that was published last is accepted after a crash", () => {
  using rig = new Rig({ startIndex: 2 ** 32 - 2 });
  const write: TestRequest = { operation: OP_WRITE, segments: [[0, 0, 7]] };
  rig.send(write, write, write);
  rig.run();
  assertEquals(rig.outstanding(1), { requestConsumer: 1, slots: [] });
  assertEquals([rig.outstanding(0), rig.outstanding(2), rig.outstanding(2 ** 32 - 2)], [
    undefined,
    undefined,
    undefined,
  ]);
});

Deno.test("a replayed barrier does not wait for requests that were taken after it", () => {
  const latch = new Latch(new Uint8Array(LATCH_BYTES));
  let stores = 4; // two requests taken and consumed, and their answers announced
  using rig = new Rig({
    latch,
    beforeStore: () => {
      if (stores-- <= 0) throw new Crash();
    },
  });
  latch.trip(); // a refused barrier holds nothing back, so the write behind it is taken
  rig.send({ operation: OP_WRITE_BARRIER, id: 1, sector: 0, segments: [[0, 0, 7]] });
  rig.send({ operation: OP_WRITE, id: 2, sector: 0, segments: [[1, 0, 7]] });
  assertThrows(() => rig.stepUntilIdle(), Crash);
  stores = Infinity;
  latch.begin(new Uint32Array(4));
  rig.crash();
  rig.run();
  assertEquals(rig.responses().map(([id, , status]) => [id, status]), [[1, 0], [2, 0]]);
});

Deno.test("a drained queue leaves nothing to recover", () => {
  using rig = new Rig();
  rig.send({ operation: OP_WRITE, sector: 0, segments: [[0, 0, 7]] });
  rig.queue.step();
  rig.queue.drain();
  rig.run();
  assertEquals(rig.queue.state, "drained");
  rig.crash();
  rig.stepUntilIdle();
  assertEquals([rig.queue.inFlight, rig.channel.history.length], [0, 0]);
  rig.send({ operation: OP_READ, id: 9, segments: [[0, 0, 7]] });
  rig.run();
  assertMatch(JSON.stringify(rig.responses()), /\[9,0,0\]/);
});
