/**
 * Scenarios of ffi/xen/gnttab.ts with two domains in one process.
 * ffi_child.ts runs them.
 */

import { EINVAL } from "../../lib/errno.ts";
import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { GrantError, type GrantShares, type GrantTable, type SharedPages } from "../../lib/hypervisor.ts";
import { actingAs, DOM0, GUEST, platform, refOf, type Scenarios } from "./ffi_scenario.ts";

const UNKNOWN_REF = 30_000;

/** Pages of a guest that are granted to domain 0, and domain 0's handle for them. */
interface Stage extends Disposable {
  readonly table: GrantTable;
  readonly shares: GrantShares;
  /** Four writable pages; byte i of page p is p * 16 + i % 16. */
  readonly pages: SharedPages;
  readonly readOnlyPage: SharedPages;
}

function stage(): Stage {
  const shares = actingAs(GUEST, () => platform.openGrantShares());
  const table = actingAs(DOM0, () => platform.openGrantTable(GUEST));
  const pages = shares.share(DOM0, 4, true);
  pages.view.forEach((_, index) => pages.view[index] = (index >> 12) * 16 + index % 16);
  const readOnlyPage = shares.share(DOM0, 1, false);
  return {
    table,
    shares,
    pages,
    readOnlyPage,
    [Symbol.dispose]: () => {
      for (const owner of [pages, readOnlyPage, table, shares]) owner[Symbol.dispose]();
    },
  };
}

export const GRANT_SCENARIOS: Scenarios = {
  "granted pages are mapped as one range that both sides see": () => {
    using scene = stage();
    scene.table.setMaxGrants(64);
    using mapped = scene.table.mapPages(scene.pages.refs, true);
    assertEquals(mapped.view.length, 4 * 4096);
    assertEquals([mapped.view[0], mapped.view[4096 + 3], mapped.view[3 * 4096]], [0, 19, 48]);
    mapped.view[5] = 200;
    assertEquals(scene.pages.view[5], 200);
    scene.pages.view[6] = 201;
    assertEquals(mapped.view[6], 201);
  },

  "a bad reference fails the whole map; the error names the domain and the references": () => {
    using scene = stage();
    const refs = [...scene.pages.refs, refOf(UNKNOWN_REF)];
    const error = assertThrows(() => scene.table.mapPages(refs, true), GrantError);
    assertEquals(error.status, -EINVAL);
    assertStringIncludes(error.message, `domain 1 (references ${refs.join(", ")}): Invalid argument (EINVAL)`);
  },

  "a read-only grant is mapped for reading only": () => {
    using scene = stage();
    assertEquals(assertThrows(() => scene.table.mapPages(scene.readOnlyPage.refs, true), GrantError).status, -EINVAL);
    scene.readOnlyPage.view[9] = 99;
    using mapped = scene.table.mapPages(scene.readOnlyPage.refs, false);
    assertEquals(mapped.view[9], 99);
  },

  "the pages of a request are mapped by one call, and unmapped by address and count": () => {
    using scene = stage();
    const refs = Uint32Array.of(0, 0, ...scene.pages.refs);
    const addresses = new Float64Array(6);
    assertEquals(scene.table.map(refs, 2, 4, true, addresses), 0);
    assertEquals([addresses[0], addresses[1]], [0, 0]);
    assertEquals(addresses[5]! - addresses[2]!, 3 * 4096);
    assertEquals(platform.memory.view(addresses[4]!, 1)[0], 32);
    assertEquals(scene.table.unmap(addresses[2]!, 3), -EINVAL);
    assertEquals(scene.table.unmap(addresses[2]!, 4), 0);
    assertEquals(scene.table.unmap(addresses[2]!, 4), -EINVAL);
  },

  "a map with one bad reference returns its errno and leaves nothing mapped": () => {
    using scene = stage();
    const addresses = new Float64Array(4);
    for (let bad = 0; bad < 4; bad++) {
      const refs = Uint32Array.from(scene.pages.refs);
      refs[bad] = UNKNOWN_REF;
      assertEquals(scene.table.map(refs, 0, 4, true, addresses), -EINVAL);
    }
    assertEquals([...addresses], [0, 0, 0, 0]);
  },

  "more pages are mapped than fit into the initial scratch memory": () => {
    using scene = stage();
    const refs = Array.from({ length: 3000 }, (_, index) => scene.pages.refs[index % 4]!);
    using mapped = scene.table.mapPages(refs, true);
    assertEquals([mapped.view.length, mapped.view[2999 * 4096]], [3000 * 4096, 48]);
  },

  "a copy batch reports the outcome of each segment": () => {
    using scene = stage();
    using memory = platform.memory.allocate(3 * 4096);
    memory.view.fill(250);
    using batch = scene.table.createCopyBatch(8);
    batch.addFromGuest(scene.pages.refs[1]!, 16, memory.address, 512);
    batch.addFromGuest(UNKNOWN_REF, 0, memory.address + 4096, 512);
    batch.addToGuest(scene.pages.refs[2]!, 100, memory.address + 8192, 10);
    batch.addToGuest(scene.readOnlyPage.refs[0]!, 0, memory.address + 8192, 1);
    batch.addFromGuest(scene.readOnlyPage.refs[0]!, 0, memory.address + 600, 1);
    assertEquals(batch.run(), 0);
    const failed = [0, 1, 2, 3, 4].map((index) => batch.status(index) !== 0);
    assertEquals(failed, [false, true, false, true, false]);
    assertEquals([...memory.view.subarray(0, 3)], [16, 17, 18]);
    assertEquals([memory.view[511], memory.view[512], memory.view[600], memory.view[4096]], [31, 250, 0, 250]);
    const page = scene.pages.view.subarray(2 * 4096);
    assertEquals([page[99], page[100], page[109], page[110]], [32 + 3, 250, 250, 32 + 14]);
    assertEquals(scene.readOnlyPage.view[0], 0);
  },

  "a batch can be used again after clear": () => {
    using scene = stage();
    using memory = platform.memory.allocate(4096);
    using batch = scene.table.createCopyBatch(4);
    for (let round = 0; round < 1000; round++) {
      batch.clear();
      const page = round % 4;
      for (let segment = 0; segment < 4; segment++) {
        batch.addFromGuest(scene.pages.refs[page]!, 0, memory.address + 512 * segment, 512);
      }
      assertEquals([batch.run(), batch.length, batch.status(3), memory.view[1536]], [0, 4, 0, page * 16]);
    }
  },

  "calls on a closed grant table throw; they do not reach C": () => {
    const scene = stage();
    scene[Symbol.dispose]();
    scene[Symbol.dispose]();
    assertThrows(() => scene.table.unmap(4096, 1), TypeError, "closed");
    assertThrows(() => scene.table.mapPages([refOf(8)], true), TypeError, "closed");
    assertThrows(() => scene.shares.share(DOM0, 1, true), TypeError, "closed");
  },
};
