/**
 * Runs the table of rows.ts on the real queue: every row with every ABI, logical sector size and grant mode. After
 * each, a refused request has left the disk unchanged, no canary has changed, no page stays mapped, and the queue
 * serves the next request.
 */

import { assert, assertEquals } from "@std/assert";
import type { AbiName } from "../../lib/blkif/abi.ts";
import type { GrantMode } from "../../lib/dataplane/types.ts";
import { answerTo, direct, discard, OKAY, READ, type Row, ROWS } from "./rows.ts";
import type { WireAnswer, WireRequest } from "./wire.ts";
import { ABI_NAMES, diskByte, GRANT_MODES, SECTOR_SIZES, type SectorBytes, World } from "./world.ts";

/** How a row is run. */
interface Combination {
  readonly abi: AbiName;
  readonly sectorBytes: SectorBytes;
  readonly grants: GrantMode;
}

const COMBINATIONS: readonly Combination[] = ABI_NAMES.flatMap((abi) =>
  SECTOR_SIZES.flatMap((sectorBytes) => GRANT_MODES.map((grants) => ({ abi, sectorBytes, grants })))
);

for (const row of ROWS) {
  Deno.test(row.shows, () => {
    for (const combination of COMBINATIONS) {
      if (row.only !== undefined && row.only !== combination.sectorBytes) continue;
      try {
        runRow(row, combination);
      } catch (error) {
        throw new Error(`with ${JSON.stringify(combination)}: ${(error as Error).message}`, { cause: error });
      }
    }
  });
}

function runRow(row: Row, combination: Combination): void {
  using world = new World({
    ...combination,
    readOnly: row.readOnly ?? false,
    ...(row.plain ? { indirectSegments: 0, discard: false } : {}),
    ...(row.sectors === undefined ? {} : { sectors: row.sectors }),
  });
  const disk = world.disk.slice();
  const data = world.grants.data.view.slice();
  const requests = row.requests(world);
  assert(requests.length > 0);
  const answers: WireAnswer[] = [];
  for (let at = 0; at < requests.length; at += 16) {
    world.send(...requests.slice(at, at + 16));
    answers.push(...world.answers());
  }
  assertEquals(sorted(answers), sorted(requests.map((request) => answerTo(request, row.status))));
  const unchanged = row.unchanged ?? row.status !== OKAY;
  if (unchanged) assertEquals(world.disk, disk, "the disk changed");
  // A read with one bad page may or may not have filled its other pages.
  if (unchanged && !requests.some(isRead)) assertEquals(world.grants.data.view, data, "the guest's pages changed");
  assertEquals(world.complaints.length > 0, row.status !== OKAY, world.complaints[0]);
  assertServes(world);
}

function isRead(request: WireRequest): boolean {
  return request.form === "indirect" || (request.form === "direct" && request.operation === READ);
}

Deno.test("DISCARD that is not aligned is reduced to the whole granules in it, and nothing else changes", () => {
  for (const combination of COMBINATIONS) {
    for (const [sector, sectorCount, first, end] of [[9n, 15n, 16, 24], [1n, 30n, 8, 24], [8n, 9n, 8, 16]] as const) {
      using world = new World(combination);
      const expected = world.disk.slice().fill(0, first * 512, end * 512);
      const request = discard(world, { sector, sectorCount });
      world.send(request);
      assertEquals(world.answers(), [answerTo(request, OKAY)]);
      assertEquals(world.disk, expected);
      assertServes(world);
    }
  }
});

/** The queue still serves: it reads a page of the disk. */
function assertServes(world: World): void {
  const request = direct(world, READ, { sector: 248n });
  world.disk.forEach((_, i) => world.disk[i] = diskByte(i));
  world.send(request);
  assertEquals(world.answers(), [answerTo(request, OKAY)]);
  assert(world.page(0).every((byte, i) => byte === diskByte(248 * 512 + i)), "a page was read wrong");
}

function sorted(answers: readonly WireAnswer[]): string[] {
  return answers.map(({ id, operation, status }) => `${id}: operation ${operation}, status ${status}`).sort();
}
