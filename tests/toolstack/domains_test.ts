/**
 * Finding the domain that a person names, and the errors when none or several match.
 */

import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { XenblkError } from "../../lib/errors.ts";
import type { DomId, Xenstore } from "../../lib/hypervisor.ts";
import { SimulatedStore } from "../../lib/sim/xenstore.ts";
import { domainLabel, listDomains, resolveDomain } from "../../lib/toolstack/domains.ts";

const UUID = "5f1e4b2a-0c6d-4e8f-9a7b-123456789abc";

function host(): Xenstore {
  const simulated = new SimulatedStore();
  for (const [domain, name] of [[12, "web"], [3, "db"], [7, "twin"], [8, "twin"]] as const) {
    simulated.createGuest(domain as DomId, name);
  }
  const store = simulated.connect(0 as DomId);
  store.write("/local/domain/3/vm", `/vm/${UUID}`);
  store.write("/local/domain/nonsense/name", "web2");
  return store;
}

Deno.test("a domid, a UUID in any case and a name find the same domain", () => {
  using store = host();
  const db = { domain: 3 as DomId, name: "db", uuid: UUID };
  for (const text of ["3", UUID, UUID.toUpperCase(), "db"]) assertEquals(resolveDomain(store, text), db);
  assertEquals(resolveDomain(store, "0").name, "Domain-0");
});

Deno.test("the label of a domain is printable whatever its name is", () => {
  assertEquals(
    domainLabel({ domain: 3 as DomId, name: "a\x1b[31m\nxenblk: forged" }),
    "a\\x1b[31m\\x0axenblk: forged (domain 3)",
  );
});

Deno.test("domains are listed by number, and other names are ignored", () => {
  using store = host();
  assertEquals(listDomains(store).map((info) => info.domain as number), [0, 3, 7, 8, 12]);
});

for (const text of ["4", "032752", "99999", "d", "DB", "", "6f1e4b2a-0c6d-4e8f-9a7b-123456789abc"]) {
  Deno.test(`the domain "${text}" is not found, and the error lists those that exist`, () => {
    using store = host();
    const error = assertThrows(() => resolveDomain(store, text), XenblkError);
    assertEquals([error.kind, error.exitStatus], ["not-found", 3]);
    assertStringIncludes(error.message, `Cannot find domain ${text}: there is Domain-0 (domain 0), db (domain 3)`);
  });
}

Deno.test("the list in the error is brief on a host with many domains", () => {
  const simulated = new SimulatedStore();
  for (let domain = 1; domain <= 100; domain++) simulated.createGuest(domain as DomId);
  using store = simulated.connect(0 as DomId);
  const error = assertThrows(() => resolveDomain(store, "x"), XenblkError);
  assertStringIncludes(error.message, "and 93 more");
});

Deno.test("a name that two domains have is refused with their domids", () => {
  using store = host();
  const error = assertThrows(() => resolveDomain(store, "twin"), XenblkError, "domains 7, 8");
  assertEquals(error.exitStatus, 1);
});
