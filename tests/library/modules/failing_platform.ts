/**
 * A simulated machine with threads that fail as a test wants: a reactor that stays in a grant copy as if the kernel kept
 * it, I/O Workers that cannot start.
 */

import type { GrantTable, Platform, PlatformDescriptor } from "../../../lib/hypervisor.ts";
import { openSimulatedPlatform } from "../../../lib/sim/platform.ts";

/** What fails. */
export interface FailingDescriptor extends PlatformDescriptor {
  readonly machine: SharedArrayBuffer;
  readonly domain: number;
  readonly fails: "a grant copy" | "I/O Workers";
  /** The first thread that copies is kept as long as word 0 is 1; word 1 says that there is one. */
  readonly held: SharedArrayBuffer;
}

/** See PlatformModule. */
export function openPlatform({ machine, domain, fails, held }: FailingDescriptor): Platform {
  const platform = openSimulatedPlatform(machine, domain);
  if (fails === "I/O Workers" && self.name.startsWith("io-")) throw new Error("too many open files");
  const openGrantTable: Platform["openGrantTable"] = (guest) => {
    const table = platform.openGrantTable(guest);
    return fails === "a grant copy" ? holding(table, new Int32Array(held)) : table;
  };
  return replacing(platform, { openGrantTable });
}

function holding(table: GrantTable, held: Int32Array): GrantTable {
  let mine = false;
  const createCopyBatch: GrantTable["createCopyBatch"] = (capacity) => {
    const batch = table.createCopyBatch(capacity);
    const run = (): number => {
      mine ||= Atomics.compareExchange(held, 1, 0, 1) === 0;
      while (mine && Atomics.load(held, 0) === 1) Atomics.wait(held, 0, 1);
      return batch.run();
    };
    return replacing(batch, { run });
  };
  return replacing(table, { createCopyBatch });
}

/** The object with some properties replaced; its methods keep their own object as `this`. */
export function replacing<T extends object>(object: T, properties: Partial<T>): T {
  return new Proxy(object, {
    get: (target, name): unknown => {
      if (Object.hasOwn(properties, name)) return properties[name as keyof T];
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
