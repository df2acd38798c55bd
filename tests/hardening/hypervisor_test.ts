/**
 * Grant calls that report a wrong result or fail half-way (XSA-316, XSA-318, XSA-361, XSA-365, XSA-371), and guests
 * that revoke pages of a request in flight: only that request is ERROR, and everything else is released.
 */

import { assert, assertEquals } from "@std/assert";
import type { GrantTable, Platform } from "../../lib/hypervisor.ts";
import { answerTo, direct, ERROR, FLUSH, indirect, OKAY, READ, segment, WRITE } from "./rows.ts";
import type { WireRequest } from "./wire.ts";
import { overlay, withCopyBatch, withGrantTable } from "./wrap.ts";
import { GRANT_MODES, SHAPES, World } from "./world.ts";

/** Wrong results of a copy call: its return value and the statuses of its segments. */
const COPY_LIES = [
  ["a call that succeeds and touches no status", 0, -32768],
  ["a call that succeeds with a positive status", 0, 1],
  ["a call that succeeds with the status of a bad address", 0, -9],
  ["a call that fails as a whole", -14, -32768],
] as const;

for (const [what, result, status] of COPY_LIES) {
  Deno.test(`grant copy: ${what} is ERROR, and the disk unchanged`, () => {
    for (const shape of SHAPES) {
      let lying = true;
      const lie = (table: GrantTable): GrantTable =>
        withCopyBatch(table, (batch) =>
          overlay(batch, {
            run: () => lying ? result : batch.run(),
            status: (index) => lying ? status : batch.status(index),
          }));
      using world = new World({ ...shape, grants: "copy", wrap: (platform) => withGrantTable(platform, lie) });
      assertRefused(world);
      assert(world.page(0).every((byte) => byte === 0), "the guest got data");
      lying = false;
      assertServed(world);
    }
  });
}

for (const grants of ["map", "map-each"] as const) {
  for (const result of [1, 3, -12, -22]) {
    Deno.test(`${grants}: a map call that returns ${result} maps nothing, and the request is ERROR`, () => {
      for (const shape of SHAPES) {
        let lying = true;
        const lie = (table: GrantTable): GrantTable =>
          overlay(table, { map: (...args) => lying ? result : table.map(...args) });
        using world = new World({ ...shape, grants, wrap: (platform) => withGrantTable(platform, lie) });
        assertRefused(world);
        lying = false;
        assertServed(world);
      }
    });
  }
}

for (const result of [1, -12]) {
  Deno.test(`persistent: after a map call that returns ${result} nothing is kept and the request is copied`, () => {
    for (const shape of SHAPES) {
      const lie = (table: GrantTable): GrantTable => overlay(table, { map: () => result });
      const wrap = (platform: Platform): Platform => withGrantTable(platform, lie);
      using world = new World({ ...shape, grants: "persistent", wrap });
      assertServed(world);
      const write = direct(world, WRITE);
      world.page(0).fill(0xab);
      world.send(write);
      assertEquals(world.answers(), [answerTo(write, OKAY)]);
      assert(world.disk.subarray(8 * 512, 16 * 512).every((byte) => byte === 0xab));
      assertEquals(world.stats.persistentGrants, 0);
    }
  });
}

for (const [what, result, status] of COPY_LIES) {
  Deno.test(`indirect requests in every mode: ${what}, for the pages of segments, is ERROR`, () => {
    for (const shape of SHAPES) {
      for (const grants of GRANT_MODES) {
        let lying = true;
        const lie = (table: GrantTable): GrantTable =>
          withCopyBatch(table, (batch) =>
            overlay(batch, {
              run: () => lying ? result : batch.run(),
              status: (index) => lying ? status : batch.status(index),
            }));
        using world = new World({ ...shape, grants, wrap: (platform) => withGrantTable(platform, lie) });
        assertRefused(world, [READ, WRITE].map((inner) => indirect(world, inner)));
        lying = false;
        assertServed(world);
      }
    }
  });
}

Deno.test("map-each: when the last of eleven pages cannot be mapped, the ten before it are unmapped", () => {
  for (const shape of SHAPES) {
    let calls = 0;
    const failEleventh = (table: GrantTable): GrantTable =>
      overlay(table, { map: (...args) => ++calls === 11 ? -12 : table.map(...args) });
    const wrap = (platform: Platform): Platform => withGrantTable(platform, failEleventh);
    using world = new World({ ...shape, grants: "map-each", wrap });
    const segments = Array.from({ length: 11 }, (_, page) => segment(world, page));
    const request = direct(world, WRITE, { segments });
    world.send(request);
    assertEquals(world.answers(), [answerTo(request, ERROR)]); // answers() checks that no page stays mapped
    assertServed(world);
  }
});

for (const grants of GRANT_MODES) {
  Deno.test(`${grants}: a read ends though its pages are revoked meanwhile, and the others are served`, () => {
    for (const shape of SHAPES) {
      using world = new World({ ...shape, grants });
      const [read, flush] = [direct(world, READ), direct(world, FLUSH, { segments: [] })];
      world.send(read, flush);
      world.connection.queue.step();
      world.grants.data[Symbol.dispose]();
      const answers = new Map(world.answers().map((answer) => [answer.id, answer.status]));
      // A page that is mapped stays until it is unmapped; a copy to a revoked page fails.
      assertEquals(answers, new Map([[read.id, grants === "copy" ? ERROR : OKAY], [flush.id, OKAY]]));
    }
  });
}

Deno.test("a guest that closes its event channel is still served, and a warning is logged", () => {
  const noNotify = (platform: Platform): Platform =>
    overlay(platform, {
      openEventChannels: (guest) =>
        overlay(platform.openEventChannels(guest), {
          notify: () => {
            throw new Error("Cannot notify: no such port");
          },
        }),
    });
  using world = new World({ wrap: noNotify });
  const request = direct(world, READ);
  world.send(request);
  assertEquals(world.answers(), [answerTo(request, OKAY)]);
  assertEquals(world.complaints, ["Cannot notify: no such port"]);
});

/** Each request is answered ERROR, and the disk is unchanged. */
function assertRefused(
  world: World,
  requests: readonly WireRequest[] = [READ, WRITE, FLUSH].map((operation) => direct(world, operation)),
): void {
  const disk = world.disk.slice();
  world.send(...requests);
  assertEquals(new Set(world.answers()), new Set(requests.map((request) => answerTo(request, ERROR))));
  assertEquals(world.disk, disk);
}

function assertServed(world: World): void {
  const request = direct(world, READ);
  world.send(request);
  assertEquals(world.answers(), [answerTo(request, OKAY)]);
  assertEquals(world.page(0), world.disk.slice(8 * 512, 16 * 512));
}
