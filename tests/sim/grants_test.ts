/**
 * Grants of the simulated machine: which calls fail and how, that a failed call leaves nothing mapped, and that pages
 * and references are freed with their last user.
 */

import { EINVAL } from "../../lib/errno.ts";
import { assert, assertEquals, assertThrows } from "@std/assert";
import { type DomId, GrantError, type GrantRef, type Platform } from "../../lib/hypervisor.ts";
import type { SimulatedGrantTable } from "../../lib/sim/grants.ts";
import { createMachine } from "../../lib/sim/machine.ts";
import { destroyDomain, machineUsage, openSimulatedPlatform } from "../../lib/sim/platform.ts";

const BACKEND = 0 as DomId;
const GUEST = 3 as DomId;
const OTHER = 4 as DomId;

interface Pair {
  readonly machine: SharedArrayBuffer;
  readonly back: Platform;
  readonly front: Platform;
}

function pair(): Pair {
  const machine = createMachine({ memoryBytes: 1 << 22, domains: 5, grantsPerDomain: 256, portsPerDomain: 16 });
  return { machine, back: openSimulatedPlatform(machine, BACKEND), front: openSimulatedPlatform(machine, GUEST) };
}

Deno.test("a mapped grant is the granting domain's memory, for reading and writing", () => {
  const { back, front } = pair();
  using shares = front.openGrantShares();
  using pages = shares.share(BACKEND, 3, true);
  using table = back.openGrantTable(GUEST);
  const addresses = new Float64Array(4);
  pages.view[4096 + 7] = 99;
  assertEquals(table.map(Uint32Array.from([0, ...pages.refs]), 1, 3, true, addresses), 0);
  const view = back.memory.view(addresses[2]!, 4096);
  assertEquals(view[7], 99);
  view[8] = 55;
  assertEquals(pages.view[4096 + 8], 55);
});

Deno.test("a bad, revoked, read-only or foreign reference in any position fails the map and leaves nothing mapped", () => {
  const { machine, back, front } = pair();
  using shares = front.openGrantShares();
  using good = shares.share(BACKEND, 4, true);
  using readOnly = shares.share(BACKEND, 1, false);
  using foreign = shares.share(OTHER, 1, true);
  const revokedPages = shares.share(BACKEND, 1, true);
  const [revoked] = revokedPages.refs;
  revokedPages[Symbol.dispose]();
  using table = back.openGrantTable(GUEST);
  const addresses = new Float64Array(5);
  const bad = { outOfTable: 256, huge: 0xffffffff, free: 200, revoked: revoked!, readOnly: readOnly.refs[0]! };
  for (const [name, ref] of Object.entries({ ...bad, foreign: foreign.refs[0]! })) {
    for (let position = 0; position < 5; position++) {
      const refs = Uint32Array.from(good.refs.toSpliced(position, 0, ref as GrantRef));
      assertEquals(table.map(refs, 0, 5, true, addresses), -EINVAL, `${name} at ${position}`);
      assertEquals(machineUsage(machine).mappedPages, 0, `${name} at ${position}`);
    }
  }
  assertEquals(table.map(Uint32Array.from(readOnly.refs), 0, 1, false, addresses), 0, "it can be mapped read-only");
});

Deno.test("unmapping needs the address and the count of the map call", () => {
  const { machine, back, front } = pair();
  using shares = front.openGrantShares();
  using pages = shares.share(BACKEND, 3, true);
  using table = back.openGrantTable(GUEST);
  const addresses = new Float64Array(3);
  assertEquals(table.map(Uint32Array.from(pages.refs), 0, 3, true, addresses), 0);
  assertEquals(table.unmap(addresses[0]!, 2), -EINVAL);
  assertEquals(table.unmap(addresses[1]!, 2), -EINVAL);
  assertEquals(machineUsage(machine).mappedPages, 3);
  assertEquals(table.unmap(addresses[0]!, 3), 0);
  assertEquals(table.unmap(addresses[0]!, 3), -EINVAL, "only once");
  assertEquals(machineUsage(machine).mappedPages, 0);
});

Deno.test("one page can be mapped many times, and each mapping is unmapped by itself", () => {
  const { back, front } = pair();
  using shares = front.openGrantShares();
  using pages = shares.share(BACKEND, 2, true);
  using table = back.openGrantTable(GUEST) as SimulatedGrantTable;
  const addresses = new Float64Array(2);
  const refs = Uint32Array.from(pages.refs);
  for (let i = 0; i < 600; i++) assertEquals(table.map(refs, 0, 1 + i % 2, true, addresses), 0);
  assertEquals(table.mappedPages, 900);
  for (let i = 0; i < 300; i++) assertEquals(table.unmap(addresses[0]!, 2), 0);
  for (let i = 0; i < 300; i++) assertEquals(table.unmap(addresses[0]!, 1), 0);
  assertEquals(table.mappedPages, 0);
  assertEquals(table.unmap(addresses[0]!, 1), -EINVAL);
});

Deno.test("mapPages maps one range, and its error names the reference and the reason", () => {
  const { machine, back, front } = pair();
  using shares = front.openGrantShares();
  using pages = shares.share(BACKEND, 4, true);
  using readOnly = shares.share(BACKEND, 1, false);
  using table = back.openGrantTable(GUEST);
  {
    using ring = table.mapPages(pages.refs, true);
    ring.view[3 * 4096] = 1;
    assertEquals(pages.view[3 * 4096], 1);
  }
  assertEquals(machineUsage(machine).mappedPages, 0);
  const error = assertThrows(() => table.mapPages([pages.refs[0]!, readOnly.refs[0]!], true), GrantError, "read-only");
  assertEquals(error.status, -EINVAL);
  assertEquals(machineUsage(machine).mappedPages, 0);
});

Deno.test("a page whose grant is revoked lives until its last unmap, then page and reference are free", () => {
  const { machine, back, front } = pair();
  const before = machineUsage(machine);
  using table = back.openGrantTable(GUEST);
  using shares = front.openGrantShares();
  const pages = shares.share(BACKEND, 2, true);
  const ring = table.mapPages(pages.refs, true);
  pages[Symbol.dispose]();
  assertEquals(machineUsage(machine).frames, before.frames + 2);
  assertThrows(() => table.mapPages(pages.refs, true), GrantError, "no longer");
  ring[Symbol.dispose]();
  ring[Symbol.dispose]();
  assertEquals(machineUsage(machine), before);
});

Deno.test("disposing a grant table unmaps all pages, disposing shares revokes all grants", () => {
  const { machine, back, front } = pair();
  const before = machineUsage(machine);
  {
    using shares = front.openGrantShares();
    const pages = shares.share(BACKEND, 5, true);
    using table = back.openGrantTable(GUEST);
    table.mapPages(pages.refs, true);
    table.map(Uint32Array.from(pages.refs), 1, 3, false, new Float64Array(5));
    assertEquals(machineUsage(machine).mappedPages, 8);
  }
  assertEquals(machineUsage(machine), before);
});

Deno.test("a grant copy reports a status for each segment: 0, or the hypervisor's error", () => {
  const { back, front } = pair();
  using shares = front.openGrantShares();
  using pages = shares.share(BACKEND, 1, true);
  using readOnly = shares.share(BACKEND, 1, false);
  using foreign = shares.share(OTHER, 1, true);
  using table = back.openGrantTable(GUEST);
  using local = back.memory.allocate(8192);
  using batch = table.createCopyBatch(8);
  pages.view.fill(7, 512, 1024);
  readOnly.view.fill(9);
  local.view.fill(5, 4096, 4608);
  batch.addFromGuest(pages.refs[0]!, 512, local.address, 512);
  batch.addFromGuest(readOnly.refs[0]!, 0, local.address + 512, 512);
  batch.addToGuest(pages.refs[0]!, 3584, local.address + 4096, 512);
  batch.addToGuest(readOnly.refs[0]!, 0, local.address, 512);
  batch.addFromGuest(foreign.refs[0]!, 0, local.address, 512);
  batch.addFromGuest(100000, 0, local.address, 512);
  batch.addFromGuest(pages.refs[0]!, 3584, local.address, 1024);
  batch.addFromGuest(99, 0, local.address, 512);
  assertThrows(() => batch.addFromGuest(1, 0, local.address, 1), RangeError);
  assertEquals(
    Array.from({ length: 8 }, (_, i) => batch.status(i)),
    Array(8).fill(-1),
    "failed until the batch is run",
  );
  assertEquals(batch.run(), 0);
  assertEquals(Array.from({ length: 8 }, (_, i) => batch.status(i)), [0, 0, 0, -1, -1, -3, -10, -1]);
  assert(local.view.subarray(0, 512).every((byte) => byte === 7));
  assert(local.view.subarray(512, 1024).every((byte) => byte === 9));
  assert(pages.view.subarray(3584).every((byte) => byte === 5));
  assert(readOnly.view.every((byte) => byte === 9), "a read-only page is never written");
});

Deno.test("a grant copy with a local address outside the memory fails as a whole and copies nothing", () => {
  const { back, front } = pair();
  using shares = front.openGrantShares();
  using pages = shares.share(BACKEND, 1, true);
  pages.view.fill(7);
  using table = back.openGrantTable(GUEST);
  using local = back.memory.allocate(4096);
  using batch = table.createCopyBatch(2);
  batch.addFromGuest(pages.refs[0]!, 0, local.address, 512);
  batch.addFromGuest(pages.refs[0]!, 0, 2 ** 40, 512);
  assertEquals(batch.run(), -14);
  assertEquals([batch.status(0), batch.status(1)], [-1, -1]);
  assert(local.view.every((byte) => byte === 0));
});

Deno.test("memory is zeroed, page-aligned and reused, and allocating fails when none is left", () => {
  const { machine, back } = pair();
  const before = machineUsage(machine);
  for (let i = 0; i < 3000; i++) {
    using memory = back.memory.allocate(5000);
    assertEquals(memory.address % 4096, 0);
    assertEquals(memory.view.length, 5000);
    assert(memory.view[0] === 0 && memory.view[4999] === 0);
    memory.view.fill(255);
  }
  assertThrows(() => back.memory.allocate(1 << 23), RangeError, "contiguous");
  assertEquals(machineUsage(machine), before);
});

Deno.test("a destroyed domain loses its grants and its mappings", () => {
  const { machine, back, front } = pair();
  const before = machineUsage(machine);
  const pages = front.openGrantShares().share(BACKEND, 2, true);
  const table = back.openGrantTable(GUEST);
  const ring = table.mapPages(pages.refs, true);
  const mine = back.openGrantShares().share(GUEST, 1, true);
  front.openGrantTable(BACKEND).mapPages(mine.refs, false);
  assertEquals(machineUsage(machine).mappedPages, 3);
  destroyDomain(machine, GUEST);
  assertEquals(
    machineUsage(machine).mappedPages,
    2,
    "the backend's mapping of the guest's page stays until it is unmapped",
  );
  assertThrows(() => table.mapPages(pages.refs, true), GrantError);
  ring[Symbol.dispose]();
  mine[Symbol.dispose]();
  assertEquals(machineUsage(machine), before);
});
