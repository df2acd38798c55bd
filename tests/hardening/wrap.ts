/**
 * Platforms that misbehave as a hypervisor can: a platform with its grant tables or copy batches replaced by what a
 * test provides.
 */

import type { DomId, GrantCopyBatch, GrantTable, Platform } from "../../lib/hypervisor.ts";

/** The platform with each grant table replaced. */
export function withGrantTable(platform: Platform, change: (table: GrantTable) => GrantTable): Platform {
  return overlay(platform, { openGrantTable: (guest: DomId) => change(platform.openGrantTable(guest)) });
}

/** The grant table with each copy batch replaced. */
export function withCopyBatch(table: GrantTable, change: (batch: GrantCopyBatch) => GrantCopyBatch): GrantTable {
  return overlay(table, { createCopyBatch: (capacity: number) => change(table.createCopyBatch(capacity)) });
}

/** The object with some members replaced; the others work on the object itself. */
export function overlay<T extends object>(object: T, members: Partial<T>): T {
  return new Proxy(object, {
    get(target, name): unknown {
      if (Object.hasOwn(members, name)) return members[name as keyof T];
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
