/**
 * Views by address: that the bytes are the right ones wherever they lie, and how often one has to be made anew.
 */

import { PAGE_BYTES } from "../../lib/units.ts";
import { assert, assertEquals } from "@std/assert";
import type { MemorySpace } from "../../lib/hypervisor.ts";
import { MemoryViews } from "../../lib/storage/engine/views.ts";

/** Memory from address 0 on whose views are counted. */
class CountedSpace implements MemorySpace {
  made = 0;
  readonly bytes = new Uint8Array(4200 * PAGE_BYTES);

  allocate(): never {
    throw new Error("nothing is allocated here");
  }

  view(address: number, lengthBytes: number): Uint8Array {
    this.made++;
    return this.bytes.subarray(address, address + lengthBytes);
  }
}

function assertRight(space: CountedSpace, views: MemoryViews, address: number, lengthBytes: number): void {
  const view = views.view(address, lengthBytes);
  assertEquals([view.byteOffset, view.byteLength], [space.bytes.byteOffset + address, lengthBytes]);
}

Deno.test("any part of a page outside the buffers costs one view of the page, once", () => {
  const space = new CountedSpace();
  const views = new MemoryViews(space, undefined);
  for (let round = 0; round < 3; round++) {
    for (let page = 1; page <= 1056; page++) {
      assertRight(space, views, page * PAGE_BYTES, PAGE_BYTES);
      assertRight(space, views, page * PAGE_BYTES + 512 * (page % 8), 512);
    }
  }
  assertEquals(space.made, 1056);
});

Deno.test("pages that share a place in the table, and stretches across pages, get the right bytes too", () => {
  const space = new CountedSpace();
  const views = new MemoryViews(space, undefined);
  for (const page of [5, 5 + 2048, 5 + 4096, 5, 0, 2048, 0]) assertRight(space, views, page * PAGE_BYTES + 1024, 2048);
  assertRight(space, views, 7 * PAGE_BYTES + 512, PAGE_BYTES);
  assertRight(space, views, 7 * PAGE_BYTES, 11 * PAGE_BYTES);
});

Deno.test("a view of the channel's own buffers is kept whole, and never made from an address", () => {
  const space = new CountedSpace();
  const buffers = { address: 16 * PAGE_BYTES, view: space.bytes.subarray(16 * PAGE_BYTES, 32 * PAGE_BYTES) };
  const views = new MemoryViews(space, buffers);
  for (const [address, length] of [[16, 11], [27, 5], [31, 1]] as const) {
    assertRight(space, views, address * PAGE_BYTES, length * PAGE_BYTES);
  }
  assertEquals(space.made, 0);
  assert(views.view(16 * PAGE_BYTES, 512) === views.view(16 * PAGE_BYTES, 512));
  assertRight(space, views, 15 * PAGE_BYTES, 512);
  assertRight(space, views, 31 * PAGE_BYTES, 2 * PAGE_BYTES);
  assertEquals(space.made, 2);
});
